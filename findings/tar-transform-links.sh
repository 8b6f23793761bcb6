#!/bin/bash
# Guess:   tar --transform='s,^,name-1.0/,' puts everything below one folder and changes nothing else.
# Happens: the expression applies to the targets of symbolic links too. The link `current -> real` becomes
#          `current -> name-1.0/real`, which does not exist. The flag r (regular names only) prevents it:
#          --transform='flags=r;s,^,name-1.0/,'. Links are then stored as they are.
# Seen on: Debian 12, tar 1.34+dfsg-1.2+deb12u1. tar(1) says that "file names" are transformed; only the full manual,
#          in another package, describes the flags.
# Matters: a source archive made in this way has only broken links, and neither packing nor unpacking reports it.
set -euo pipefail
dpkg-query --show tar
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/from" "$work/plain" "$work/flag"
echo text >"$work/from/real"
ln -s real "$work/from/current"
tar -cf - -C "$work/from" --transform='s,^,name-1.0/,' real current | tar -xf - -C "$work/plain"
tar -cf - -C "$work/from" --transform='flags=r;s,^,name-1.0/,' real current | tar -xf - -C "$work/flag"
for way in plain flag; do
    link=$work/$way/name-1.0/current
    if [ -e "$link" ]; then state=works; else state=broken; fi
    echo "$way: current -> $(readlink "$link") ($state)"
done | tee "$work/seen"
[ "$(cat "$work/seen")" = "plain: current -> name-1.0/real (broken)
flag: current -> real (works)" ] || { echo "changed: not what the comment says"; exit 1; }
