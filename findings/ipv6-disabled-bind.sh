#!/bin/bash
# Guess:   with net.ipv6.conf.all.disable_ipv6=1 a program cannot bind to any IPv6 address.
# Happens: only bind(2) to addresses such as ::1 fails (EADDRNOTAVAIL). `::` works: a socket for both families serves IPv4,
#          and a socket with IPV6_V6ONLY listens although no client can reach it. A socket that is bound to ::1 before
#          the sysctl is set keeps listening, and its clients fail.
# Seen on: Linux 6.18. Needs root, for a network namespace.
# Matters: "can I bind to [::]:PORT" is no test for IPv6. A server with one socket for each family starts, reports both
#          addresses, and one of them is dead.
set -euo pipefail
echo "Linux $(uname -r)"
unshare --net bash -euo pipefail <<'SH'
ip link set lo up
python3 - <<'PY'
import errno, socket, sys

def listen(address, only):
    server = socket.socket(socket.AF_INET6)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    server.bind((address, 0))
    server.listen()
    return server

def connect(server, address):
    try:
        socket.create_connection((address, server.getsockname()[1]), timeout=10).close()
        return "success"
    except OSError as error:
        return errno.errorcode[error.errno]

seen = {}
early = listen("::1", 1)
seen["::1, from before: connect to ::1 before"] = connect(early, "::1")
with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w") as sysctl:
    sysctl.write("1")
seen["::1, from before: connect to ::1"] = connect(early, "::1")
try:
    listen("::1", 1)
    seen["::1: bind"] = "success"
except OSError as error:
    seen["::1: bind"] = errno.errorcode[error.errno]
both, only = listen("::", 0), listen("::", 1)
seen[":: for both families: connect to 127.0.0.1"] = connect(both, "127.0.0.1")
seen[":: for both families: connect to ::1"] = connect(both, "::1")
seen[":: for IPv6 only: connect to ::1"] = connect(only, "::1")
for what, result in seen.items():
    print(f"{what}: {result}")
dead = "EADDRNOTAVAIL"
if list(seen.values()) != ["success", dead, dead, "success", dead, dead]:
    sys.exit("changed: not what the comment says")
PY
SH
