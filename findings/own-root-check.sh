#!/bin/bash
# Guess:   who may bind port 80 without root (by a capability, or by net.ipv4.ip_unprivileged_port_start) can start any
#          server on it: the kernel decides at bind(2).
# Happens: some servers compare their uid with 0 before they bind a port below 1024, and end. They never ask the kernel.
# Seen on: simpleproxy 3.5 of Debian 12, in a network where every user may bind every port; socat binds port 80 there.
#          DCMTK's storescp 3.6.7, whose port is 104, does the same ("insufficient privileges").
# Matters: no way to permit low ports helps such a server. It needs root, or a proxy on the port.
# As root.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
chmod 755 .
for package in simpleproxy socat libwrap0; do
    apt-get -qq download "$package" 2>/dev/null
    dpkg -x "$package"_*.deb .
done
dpkg-deb -f simpleproxy_*.deb Package Version | paste -sd' '
cat >ask.sh <<'ASK'
ip link set lo up
sysctl -q net.ipv4.ip_unprivileged_port_start=0
export LD_LIBRARY_PATH=$PWD/usr/lib/$(uname -m)-linux-gnu
nobody="setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all"
$nobody timeout 3 usr/bin/socat TCP-LISTEN:80 PIPE 2>&1 && echo "socat ended" || { [ $? = 124 ] && echo "socat serves"; }
$nobody timeout 3 usr/bin/simpleproxy -L 80 -R 127.0.0.1:9 2>&1 && echo "simpleproxy serves" || echo "simpleproxy: $?"
ASK
said=$(PATH=$PATH:/usr/sbin:/sbin unshare --net bash ask.sh)
echo "$said"
case $said in
    *"socat serves"*"You must be root"*"simpleproxy: 1"*) ;;
    *) echo "changed: not what the comment says"; exit 1 ;;
esac
