# packaging/alpine, by busybox's shell on Debian: neither abuild nor apk is in Debian.

the_functions_and_scripts_work_in_the_shell_that_alpine_has() (
    mkdir -p "$work/given"
    git ls-files -co --exclude-standard packaging LICENSE-* ./*.md | xargs cp --parents -t "$work/given"
    cp -r "$(built)" "$work/given/built"
    cp "$(busybox)" "$work/given/busybox"
    inside "$(tests/packages/root bookworm)" "$work/given" <<'INSIDE'
    mkdir /run/bin
    /given/busybox --install -s /run/bin
    cp "$(command -v setcap)" /run/bin/
    mkdir -p /run/src/portgrant-0.1.0
    cp -r /given/packaging /given/LICENSE-* /run/src/portgrant-0.1.0
    cat >/run/abuild <<'ABUILD'
set -eu
srcdir=/run/src pkgdir=/run/pkg subpkgdir=/run/subpkg
. /given/packaging/alpine/APKBUILD
for part in $install; do [ -x "/given/packaging/alpine/$part" ]; done
export PORTGRANT_BUILT=/given/built
cd "$builddir"
(package)
(kernel)
ABUILD
    shell() { PATH=/run/bin:/usr/sbin:/usr/bin /given/busybox sh "$@"; }
    shell /run/abuild
    [ -z "$(find /run/pkg /run/subpkg -perm /6000)" ]
    [ ! -e /run/subpkg/usr/lib/systemd ]
    # What apk does: files, then the script.
    cp -a /run/pkg/. /run/subpkg/. /
    shell /given/packaging/alpine/portgrant.post-install
    [ "$(getcap /usr/libexec/portgrant/portgrant-binder)" = "/usr/libexec/portgrant/portgrant-binder cap_net_bind_service=p" ]
    echo 'permit alice 80' >/etc/portgrant.d/alice.conf
    as alice portgrant exec -l 80 -- true
    portgrant-kernel --version
    shell /given/packaging/alpine/portgrant.post-upgrade
    as alice portgrant exec -l 80 -- true
    shell /given/packaging/alpine/portgrant.pre-deinstall
    [ ! -e /usr/libexec/portgrant/portgrant-binder ]
INSIDE
)
