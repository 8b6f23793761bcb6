#!/bin/bash
# Guess:   dh_installsystemd handles the units of a package wherever systemd finds them: /lib/systemd/system and
#          /usr/lib/systemd/system are the same folder on a merged system.
# Happens: it searches lib/systemd/system only. For units in usr/lib/systemd/system it adds no code to the maintainer
#          scripts, prints nothing and returns 0: the service is not enabled, not started and not stopped.
# Seen on: Debian 12, debhelper 13.11.4, compatibility level 13. dh_installsystemd(1) lists only lib/systemd/system.
# Matters: many upstream build systems install to /usr/lib. The package builds and installs, and the service is off.
set -euo pipefail
dpkg-query --show debhelper
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for folder in lib usr/lib; do
    mkdir -p "$work/package/debian/seen/$folder/systemd/system"
    cd "$work/package"
    cat >debian/control <<'TEXT'
Source: seen
Maintainer: A Name <name@example.com>
Build-Depends: debhelper-compat (= 13)

Package: seen
Architecture: all
Description: example
TEXT
    cat >debian/changelog <<'TEXT'
seen (1) unstable; urgency=low

  * Example.

 -- A Name <name@example.com>  Thu, 01 Jan 1970 00:00:00 +0000
TEXT
    cat >"debian/seen/$folder/systemd/system/seen.service" <<'TEXT'
[Service]
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
TEXT
    dh_installsystemd >"$work/messages" 2>&1 && status=0 || status=$?
    dh_installdeb
    scripts=$(cd debian/seen/DEBIAN && grep -ls seen.service postinst prerm postrm | xargs) || true
    echo "/$folder: status $status, $(wc -l <"$work/messages") messages, scripts with code for the unit: ${scripts:-none}"
    cd "$work"
    rm -r package
done | tee "$work/seen"
[ "$(cat "$work/seen")" = "/lib: status 0, 0 messages, scripts with code for the unit: postinst prerm postrm
/usr/lib: status 0, 0 messages, scripts with code for the unit: none" ] ||
    { echo "changed: not what the comment says"; exit 1; }
