#!/bin/bash
# Guess:   cupsd -l, with a socket from its service manager, serves a Listen line by that socket if address and port are the
#          same, and opens every other Listen line itself.
# Happens: it compares the addresses alone. A Listen line of the same address and another port counts as served: nobody
#          opens that port, and the log has no word of it.
# Seen on: cups 2.4.2 of Debian 12 (and 2.4.10 of Debian 13).
# Matters: a second Listen line that worked without socket activation is lost with it, in silence.
# As root.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 755 .
for package in cups-daemon libcups2 libavahi-client3 libavahi-common3 libpaper1; do
    apt-get -qq download "$package" 2>/dev/null
    dpkg -x "$package"_*.deb .
done
dpkg-deb -f cups-daemon_*.deb Package Version | paste -sd' '
install -d -o 65534 -g 65534 cache state spool tmp log
cat >cupsd.conf <<CONF
Listen 127.0.0.1:6311
Browsing off
CONF
cat >cups-files.conf <<CONF
User nobody
Group nogroup
SystemGroup root
ServerRoot $work
CacheDir $work/cache
StateDir $work/state
RequestRoot $work/spool
TempDir $work/tmp
ErrorLog stderr
AccessLog stderr
CONF
chmod 644 ./*.conf
cat >start.py <<'START'
import os, socket
listening = socket.create_server(("127.0.0.1", 6310))
os.dup2(os.dup(listening.fileno()), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv("usr/sbin/cupsd", ["cupsd", "-l", "-f", "-c", os.path.abspath("cupsd.conf"), "-s", os.path.abspath("cups-files.conf")])
START
cat >ask.sh <<'ASK'
ip link set lo up
export LD_LIBRARY_PATH=$PWD/usr/lib/$(uname -m)-linux-gnu
setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all /usr/bin/python3 start.py >log/said 2>&1 &
server=$!
sleep 3
for port in 6310 6311; do
    ss -Hltn | grep -q "127.0.0.1:$port " && echo "$port is open" || echo "$port is closed"
done
kill $server
grep -q 6311 log/said && echo "the log names 6311" || echo "the log does not name 6311"
ASK
said=$(PATH=$PATH:/usr/sbin:/sbin unshare --net bash ask.sh)
echo "$said"
[ "$said" = $'6310 is open\n6311 is closed\nthe log does not name 6311' ] || { echo "changed: not what the comment says"; exit 1; }
