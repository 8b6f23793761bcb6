#!/bin/bash
# Guess:   a TCP server cannot listen on an address that TCP can never reach; bind(2) fails as it does for an address
#          that the machine does not have.
# Happens: bind(2) and listen(2) succeed for IPv4 multicast and broadcast addresses. Every connect(2) to them fails with
#          ENETUNREACH. For IPv6 multicast addresses, bind(2) of a TCP socket fails with EINVAL.
# Seen on: Linux 6.18. Needs root, for a network namespace.
# Matters: a wrong address in a configuration is not reported. The server runs, ss(8) lists it, and no client can connect.
set -euo pipefail
echo "Linux $(uname -r)"
unshare --net python3 - <<'PY'
import errno, socket, subprocess, sys

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
seen = {}
for address in "127.0.0.1", "192.0.2.1", "127.255.255.255", "224.0.0.1", "255.255.255.255", "ff02::1":
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server, socket.socket(family, socket.SOCK_STREAM) as client:
        call = "bind"
        try:
            server.bind((address, 0, 0, socket.if_nametoindex("lo")) if family == socket.AF_INET6 else (address, 0))
            call = "listen"
            server.listen()
            call = "connect"
            client.connect(server.getsockname())
            result = "success"
        except OSError as error:
            result = errno.errorcode[error.errno]
    seen[address] = f"{call}: {result}"
    print(f"{address}: {seen[address]}")
if list(seen.values()) != ["connect: success", "bind: EADDRNOTAVAIL", *["connect: ENETUNREACH"] * 3, "bind: EINVAL"]:
    sys.exit("changed: not what the comment says")
PY
