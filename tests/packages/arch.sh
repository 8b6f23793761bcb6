# packaging/arch, by Debian's makepkg and pacman: no Arch Linux.

pacman_installs_upgrades_and_removes_what_makepkg_built() (
    name=portgrant-$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
    mkdir -p "$work/given/$name"
    git ls-files -co --exclude-standard packaging LICENSE-* ./*.md | xargs cp --parents -t "$work/given/$name"
    cp -r "$(built)" "$work/given/built"
    { sed -n '/^# Every file/,$p' tests/packages/deb-inside; cat; } <<'INSIDE' |
    HELPER=/usr/libexec/portgrant/portgrant-binder
    # Of programs that are built already; the sources are not unpacked and nothing is compiled.
    packages() {
        rm -rf /run/build
        mkdir -p /run/build/src
        cp /given/portgrant-*/packaging/arch/* /run/build
        cp -r /given/portgrant-*/ /run/build/src
        sed -i "s/^pkgrel=.*/pkgrel=$1/" /run/build/PKGBUILD
        chown -R alice /run/build
        (cd /run/build && export PORTGRANT_BUILT=/given/built PKGEXT=.pkg.tar.gz SRCDEST=/run/build HOME=/run/build SOURCE_DATE_EPOCH=1
            as alice makepkg --nodeps --repackage)
        mkdir -p /run/packages/$1
        mv /run/build/*.pkg.tar.gz /run/packages/$1
    }
    mkdir -p /var/lib/pacman
    ln -sf /proc/self/mounts /etc/mtab # pacman looks there for file systems
    everything >/run/before
    packages 1
    packages 2
    # pacman knows nothing of what Debian installed.
    pacman=(pacman --noconfirm --nodeps --nodeps --upgrade --overwrite '*')
    "${pacman[@]}" /run/packages/1/*.pkg.tar.gz
    [ "$(getcap $HELPER)" = "$HELPER cap_net_bind_service=p" ]
    portgrant check
    echo 'permit alice 80' >/etc/portgrant.d/alice.conf
    as alice portgrant exec -l 80 -- true
    portgrant-kernel --version
    # pacman writes programs in place, so while it unpacks the launcher nobody can start that. The helper is always there.
    started_by=$HELPER starts
    for round in 2 1 2; do
        "${pacman[@]}" /run/packages/$round/*.pkg.tar.gz
    done
    count "3 upgrades"
    pacman -Qkk portgrant portgrant-kernel
    rm /etc/portgrant.d/alice.conf
    pacman --noconfirm -Rn portgrant-kernel portgrant
    [ -z "$(everything | grep portgrant)" ]
INSIDE
        inside "$(tests/packages/root trixie makepkg,pacman-package-manager,libarchive-tools)" "$work/given"
)
