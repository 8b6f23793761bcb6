#!/bin/bash
# Guess:   the numbers in /etc/subuid are decimal, so 010000 is ten thousand. subuid(5) names no other form.
# Happens: shadow reads them as C does: 010000 is octal (4096), and 0x10000 is 65536. No tool warns.
# Seen on: Debian 12, uidmap 1:4.13+dfsg1-1+deb12u2. Needs root, for a mount namespace with its own /etc/subuid.
# Matters: a program that reads the file as decimal numbers computes another range than newuidmap allows. Leading
#          zeros, as some generators write them for alignment, move the range of a user.
set -euo pipefail
dpkg-query --show uidmap
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf 'nobody:010000:65536\ndaemon:0x10000:010\n' >"$work/subuid"
# shellcheck disable=SC2016
unshare --mount sh -c 'mount --bind "$1" /etc/subuid && getsubids nobody && getsubids daemon' sh "$work/subuid" >"$work/seen"
cat "$work/subuid"
echo "getsubids reports:"
cat "$work/seen"
[ "$(cat "$work/seen")" = "0: nobody 4096 65536
0: daemon 65536 8" ] || { echo "changed: not what the comment says"; exit 1; }
