#!/bin/bash
# Guess:   SO_REUSEPORT has no effect on a socket that is already bound: socket(7) says that it must be set on each socket,
#          also the first, before bind(2). Setting it later fails, or the second bind(2) does.
# Happens: setting it later succeeds and works, for UDP and for TCP sockets that listen already. The next socket binds to
#          the same port, and the kernel shares the connections and datagrams out between the two.
# Seen on: Linux 6.18.
# Matters: a server that sets the option on a listening socket which it inherited makes the port shared. If it is
#          started twice by mistake, "address already in use" does not appear, and each instance gets half of the clients.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import errno, socket, sys

ADDRESS, SENT = "127.0.0.1", 200

def received(server):
    server.setblocking(False)
    count = 0
    while True:
        try:
            if server.type == socket.SOCK_STREAM:
                server.accept()[0].close()
            else:
                server.recv(1)
            count += 1
        except BlockingIOError:
            return count

def attempt(kind, late):
    with socket.socket(socket.AF_INET, kind) as first, socket.socket(socket.AF_INET, kind) as second:
        tcp = kind == socket.SOCK_STREAM
        first.bind((ADDRESS, 0))
        if tcp:
            first.listen(2 * SENT)
        if late:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            second.bind(first.getsockname())
        except OSError as error:
            return errno.errorcode[error.errno]
        if tcp:
            second.listen(2 * SENT)
        for _ in range(SENT):
            with socket.socket(socket.AF_INET, kind) as client:
                client.connect(first.getsockname())
                if not tcp:
                    client.send(b"x")
        shares = received(first), received(second)
        print(f"    shares of {SENT}: {shares[0]} and {shares[1]}")
        return "shared" if min(shares) > 0 else "not shared"

seen = []
for name, kind in ("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM):
    for late in False, True:
        result = attempt(kind, late)
        print(f"{name}, option set on the first socket {'after bind' if late else 'never'}: {result}")
        seen.append(result)
if seen != ["EADDRINUSE", "shared"] * 2:
    sys.exit("changed: not what the comment says")
PY
