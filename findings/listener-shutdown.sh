#!/bin/bash
# Guess:   a listening TCP socket that was shut down keeps its port, and listen(2) makes it work again on this port.
# Happens: that is true only if the program chose the port. If the kernel chose it (bind to port 0), shutdown(SHUT_RD)
#          gives the port back, although getsockname(2) still reports it. The next listen(2) silently takes another one.
# Seen on: Linux 6.18.
# Matters: shutdown(2) affects all processes that share the socket. One of them can lose the port of all others, and no
#          call fails. Tests with port 0 then differ from production with a fixed port.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import errno, socket, sys

def bind(port):
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
            return "success"
        except OSError as error:
            return errno.errorcode[error.errno]

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    free = probe.getsockname()[1]
seen = {}
for what, port in ("chosen by the program", free), ("chosen by the kernel", 0):
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        first = server.getsockname()[1]
        server.shutdown(socket.SHUT_RD)
        reported = server.getsockname()[1] == first
        other = bind(first)
        server.listen()
        same = server.getsockname()[1] == first
    seen[what] = (reported, other, same)
    print(f"port {what}: still reported: {reported}; bind by another socket: {other}; same port after listen: {same}")
if list(seen.values()) != [(True, "EADDRINUSE", True), (True, "success", False)]:
    sys.exit("changed: not what the comment says")
PY
