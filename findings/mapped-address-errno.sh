#!/bin/bash
# Guess:   an AF_INET6 socket that is bound to an address of one family reports one error for a peer of the other
#          family, and the error speaks of the address.
# Happens: bound to ::ffff:127.0.0.1, sending or connecting to ::1 fails with EAFNOSUPPORT, though the socket and the
#          address are both AF_INET6. The opposite, from ::1 to ::ffff:127.0.0.1, fails with ENETUNREACH.
# Seen on: Linux 6.18.
# Matters: many programs take EAFNOSUPPORT as "this machine has no IPv6" and never try IPv6 again.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import errno, socket, sys

seen = set()
for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
    for local, family, address, peer in (("::ffff:127.0.0.1", socket.AF_INET6, "::1", "::1"),
                                         ("::1", socket.AF_INET, "127.0.0.1", "::ffff:127.0.0.1")):
        with socket.socket(family, kind) as server, socket.socket(socket.AF_INET6, kind) as client:
            server.bind((address, 0))
            if kind == socket.SOCK_STREAM:
                server.listen()
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.bind((local, 0))
            to = (peer, server.getsockname()[1])
            try:
                client.sendto(b"x", to) if kind == socket.SOCK_DGRAM else client.connect(to)
                error = "success"
            except OSError as failed:
                error = errno.errorcode[failed.errno]
        seen.add((local, error))
        print(f"{kind.name}: from {local} to {peer}: {error}")
if seen != {("::ffff:127.0.0.1", "EAFNOSUPPORT"), ("::1", "ENETUNREACH")}:
    sys.exit("changed: not what the comment says")
PY
