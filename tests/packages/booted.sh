# The Debian packages on a machine of their own: Debian 12's own kernel and systemd under qemu, with AppArmor.

# Boots what tests/bootable made, runs the bash code on standard input there as root, and passes its output and status on. The
# code finds $work/given as /given.
boot() {
    local base limit=${PORTGRANT_BOOT_SECONDS-900}
    case $(dpkg --print-architecture) in
        amd64) qemu=(qemu-system-x86_64 -machine q35 -cpu qemu64) console=ttyS0 ;;
        *) skip "no machine is emulated for this architecture" ;;
    esac
    need "${qemu[0]}" qemu-system-x86
    need cpio cpio
    base=$(tests/bootable)
    mkdir -p "$work"/guest/{sysroot,etc/systemd/system/multi-user.target.wants,var/lib/dpkg/{info,updates,triggers}}
    cp -rL "$work/given" "$work/guest/given"
    touch "$work/guest/var/lib/dpkg/"{status,available}
    cat >"$work/guest/code"
    # The kernel's first program: pivot_root(2) and mount namespaces want a root that is a mount.
    cat >"$work/guest/init" <<'INIT'
#!/bin/sh
mount --bind / /sysroot && cd /sysroot && mount --move . / && exec chroot . /lib/systemd/systemd
INIT
    chmod 755 "$work/guest/init"
    cat >"$work/guest/etc/systemd/system/test.service" <<'UNIT'
[Unit]
After=network.target
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
ExecStart=/bin/bash -c '(set -euxo pipefail; . /code) 2>&1 | sed -u "s/^/> /" >/dev/console; echo "> == the end $${PIPESTATUS[0]}" >/dev/console; sleep 5'
UNIT
    ln -s ../test.service "$work/guest/etc/systemd/system/multi-user.target.wants/"
    (cd "$work/guest" && find . | cpio --create --format=newc --owner=0:0 --quiet) | cat "$base/root.cpio" - >"$work/initrd"
    timeout "$limit" "${qemu[@]}" -accel tcg,thread=multi -smp 2 -m 3G -nic none -display none -monitor none -no-reboot \
        -serial "file:$work/console" -kernel "$base/kernel" -initrd "$work/initrd" -append \
        "console=$console panic=-1 quiet apparmor=1 systemd.show_status=no systemd.mask=getty.target systemd.log_target=journal" || true
    sed 's/\r$//' "$work/console"
    grep -q '^> == the end 0' <(sed 's/\r$//' "$work/console")
}

the_kernel_mode_survives_an_upgrade_and_is_gone_after_removal_under_apparmor() (
    for version in 0.1.0-1 0.1.1-1; do
        mkdir -p "$work/given/$version"
        cp "$(debs "$version")"/*.deb "$work/given/$version"
    done
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download apparmor && dpkg-deb -x apparmor_*.deb given/apparmor)
    boot <<'INSIDE'
    fails() { if "$@"; then echo "this did not fail: $*"; return 1; fi; }
    rm -f /usr/sbin/policy-rc.d
    binds() { runuser -u www-data -- python3 -c "import socket; socket.socket().bind(('127.0.0.1', $1))"; }
    mount -t securityfs securityfs /sys/kernel/security 2>/dev/null || true
    [ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ]
    cp -r /given/apparmor/etc/apparmor.d /etc/
    cp /given/apparmor/sbin/apparmor_parser /usr/sbin/
    cp /given/apparmor/usr/bin/aa-enabled /usr/bin/
    dpkg -i --force-depends /given/0.1.0-1/*.deb
    [ "$(systemctl is-enabled portgrant-kernel)" = disabled ]
    fails binds 80
    echo 'permit www-data 80' >/etc/portgrant.conf
    # The package has loaded its profile.
    grep -F 'portgrant-kernel (enforce)' /sys/kernel/security/apparmor/profiles
    systemctl enable --now portgrant-kernel portgrant-kernel-audit
    binds 80
    fails binds 81
    pid=$(systemctl show --property=MainPID --value portgrant-kernel-audit)
    [ "$(cat /proc/$pid/attr/current)" = "portgrant-kernel (enforce)" ]
    # A policy that is loaded is there during the whole upgrade.
    (while [ ! -e /run/enough ]; do binds 80 || touch /run/failed; done) & loop=$!
    since=$(portgrant-kernel show | sed -n 's/.*loaded: \([^,]*\),.*/\1/p')
    dpkg -i --force-depends /given/0.1.1-1/*.deb
    [ "$(portgrant-kernel show | sed -n 's/.*loaded: \([^,]*\),.*/\1/p')" = "$since" ]
    touch /run/enough
    wait $loop
    [ ! -e /run/failed ]
    # The unit takes up a changed policy.
    echo 'permit www-data 81' >/etc/portgrant.conf
    systemctl reload portgrant-kernel
    binds 81
    fails binds 80
    sleep 3
    systemctl is-active portgrant-kernel portgrant-kernel-audit
    # A unit that is masked does not keep the package from being upgraded or removed.
    systemctl mask portgrant-kernel-audit
    dpkg -i --force-depends /given/0.1.0-1/*.deb
    systemctl unmask portgrant-kernel-audit
    dpkg --purge --force-depends portgrant-kernel
    fails test -e /etc/apparmor.d/portgrant-kernel
    [ ! -e /sys/fs/bpf/portgrant ]
    fails binds 81
    fails systemctl is-active portgrant-kernel
    runuser -u www-data -- portgrant exec -l 81 -- true
    dpkg --purge --force-depends portgrant
    [ ! -e /etc/portgrant.conf ]
    fails journalctl --boot --grep 'apparmor="DENIED"' --quiet
INSIDE
)
