#!/bin/bash
# Guess:   csh starts a program with the descriptors that it inherited, as every other shell does.
# Happens: csh and tcsh close all descriptors above 2 when they start. The environment stays as it is.
# Seen on: tcsh 6.24.07 and csh 20110502 (bsd-csh) of Debian 12. dash and bash keep them.
# Matters: a service whose start script is in csh finds LISTEN_FDS=1 and no socket. It fails, or opens its default port
#          without a message.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
for package in tcsh csh; do
    apt-get -qq download "$package" 2>/dev/null
    dpkg -x "$package"_*.deb .
    dpkg-deb -f "$package"_*.deb Package Version | paste -sd' '
done
echo 'test -e /proc/$$/fd/7 && echo "LISTEN_FDS=$LISTEN_FDS kept" || echo "LISTEN_FDS=$LISTEN_FDS closed"' >look.sh
export LISTEN_FDS=5
seen=
for shell in dash bash bin/tcsh bin/bsd-csh; do
    said=$($shell -c "exec sh look.sh" 7</dev/null)
    echo "${shell##*/}: $said"
    seen+=" ${said##* }"
done
[ "$seen" = " kept kept closed closed" ] || { echo "changed: not what the comment says"; exit 1; }
