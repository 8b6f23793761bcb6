#!/bin/bash
# Guess:   connect(2) with AF_UNSPEC removes only the peer of a UDP socket. The socket keeps its own port.
# Happens: that is true only if the program chose the port. If the kernel chose it in bind(2), the socket loses the port
#          and getsockname(2) reports port 0. A socket that was never connected loses it too. The call succeeds.
# Seen on: Linux 6.18.
# Matters: peers that know the port get no answer any more. A wrapper that binds to port 0 and hands the socket to a
#          program cannot rely on the port that it read before.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import ctypes, socket, sys

libc = ctypes.CDLL(None)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.bind(("127.0.0.1", 0))
    free = probe.getsockname()[1]
kept = []
for what, port, connect in (("the program", free, True), ("the kernel", 0, True), ("the kernel", 0, False)):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", port))
        before = server.getsockname()[1]
        if connect:
            server.connect(("127.0.0.1", 9))
        if libc.connect(server.fileno(), bytes(16), 16):  # family 0 is AF_UNSPEC
            sys.exit("changed: connect with AF_UNSPEC fails")
        after = server.getsockname()[1]
    kept.append(before == after)
    print(f"port chosen by {what}, connected before: {connect}: {before} becomes {after}")
if kept != [True, False, False] or after != 0:
    sys.exit("changed: not what the comment says")
PY
