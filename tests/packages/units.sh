# The units of systemd, and what else systemd reads, as $suite judges them.

with_systemd() {
    given=$work/given
    mkdir -p "$given"
    git ls-files -co --exclude-standard packaging LICENSE-* ./*.md | xargs cp --parents -t "$given"
    cp -r "$(built)" "$given/built"
    readme_units "$given"
    inside "$(tests/packages/root "$suite" systemd,libnss-systemd,libnss-extrausers,apparmor)" "$given"
}

systemd_finds_nothing_wrong_with_the_units_and_they_are_confined() (
    with_systemd <<'INSIDE'
    /given/packaging/install >/dev/null
    units=/usr/local/lib/systemd/system
    systemd-analyze verify --man=no $units/portgrant-*.service 2>&1 | tee /run/said
    [ -z "$(grep portgrant /run/said)" ]
    for unit in portgrant-kernel portgrant-kernel-audit; do
        systemd-analyze security --offline=yes --threshold=25 $units/$unit.service >/run/said || { cat /run/said; exit 1; }
        echo "measured: systemd-analyze security $(tail -n 1 /run/said | grep -o 'Overall.*' | tr -d '→')"
    done
INSIDE
)

the_unit_of_the_readme_is_well_formed() (
    with_systemd <<'INSIDE'
    /given/packaging/install >/dev/null
    mkdir -p /home/alice
    install -m 0755 /bin/true /home/alice/server
    grep -F 'ExecStart=/usr/local/bin/portgrant exec -l 80' /given/web.service
    grep -F 'ProtectSystem=' /given/hardened.service
    for unit in web hardened; do
        cp /given/$unit.service /etc/systemd/system/
        systemd-analyze verify --man=no /etc/systemd/system/$unit.service 2>&1 | tee /run/said
        [ -z "$(grep $unit /run/said)" ]
        systemd-analyze security --offline=yes /etc/systemd/system/$unit.service >/run/said
        echo "measured: systemd-analyze security $(tail -n 1 /run/said | grep -o 'Overall.*' | tr -d '→')"
    done
INSIDE
)

apparmor_of_this_suite_takes_the_profile() (
    with_systemd <<'INSIDE'
    apparmor_parser -V | head -n 1
    apparmor_parser --skip-kernel-load --skip-cache --debug /given/packaging/apparmor/portgrant-kernel >/dev/null
    # So it would be noticed if the parser did not look.
    sed 's/capability bpf/capability nonsense/' /given/packaging/apparmor/portgrant-kernel >/run/wrong
    fails apparmor_parser --skip-kernel-load --skip-cache /run/wrong
INSIDE
)

nothing_is_enabled_before_an_administrator_enables_it() (
    with_systemd <<'INSIDE'
    PREFIX=/usr /given/packaging/install >/dev/null
    for unit in portgrant-bpf portgrant-kernel portgrant-kernel-audit; do
        [ "$(systemctl --root=/ is-enabled $unit || true)" != enabled ]
    done
    systemctl --root=/ enable portgrant-kernel portgrant-kernel-audit
    [ -L /etc/systemd/system/multi-user.target.wants/portgrant-kernel.service ]
    [ -L /etc/systemd/system/portgrant-kernel.service.wants/portgrant-kernel-audit.service ]
INSIDE
)

tmpfiles_gives_the_helper_its_capability_back() (
    with_systemd <<'INSIDE'
    [ "$(systemd-tmpfiles --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 261 ] || { echo "this systemd is older than 261"; exit 75; }
    /given/packaging/install
    helper=/usr/local/libexec/portgrant/portgrant-binder
    setcap -r $helper
    cp /usr/local/share/portgrant/tmpfiles.conf /etc/tmpfiles.d/portgrant.conf
    systemd-tmpfiles --create portgrant.conf
    [ "$(getcap $helper)" = "$helper cap_net_bind_service=p" ]
INSIDE
)
