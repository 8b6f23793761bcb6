#!/bin/bash
# Guess:   shutdown(2) on a UDP socket that is not connected fails with ENOTCONN and changes nothing.
# Happens: it fails with ENOTCONN, and it takes effect. poll(2) reports the socket as readable for ever. A blocking
#          recvfrom(2) returns 0 bytes at once, one that does not block fails with EAGAIN, and sendto(2) fails with
#          EPIPE. Datagrams still arrive.
# Seen on: Linux 6.18.
# Matters: a server that ignores this ENOTCONN, and shares the socket with another process, keeps that process busy:
#          its event loop never sleeps again. The read of 0 bytes looks like an empty datagram.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import errno, select, socket, sys

def name(call):
    try:
        call()
        return "success"
    except OSError as error:
        return errno.errorcode[error.errno]

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(("127.0.0.1", 0))
poll = select.poll()
poll.register(server, select.POLLIN)
before = bool(poll.poll(0))
stop = name(lambda: server.shutdown(socket.SHUT_RDWR))
after = bool(poll.poll(0))
print(f"readable before: {before}; shutdown: {stop}; readable after: {after}")
if not after:
    sys.exit("changed: shutdown had no effect")
empty = [server.recvfrom(9)[0] for _ in range(2)]
client.sendto(b"hello", server.getsockname())
data = server.recvfrom(9)[0]
last = server.recvfrom(9)[0]
again = name(lambda: server.recvfrom(9, socket.MSG_DONTWAIT))
send = name(lambda: server.sendto(b"x", client.getsockname()))
print(f"reads: {empty}, after a datagram {data}, then {last}, without blocking {again}; sendto: {send}")
if before or stop != "ENOTCONN" or [*empty, data, last] != [b"", b"", b"hello", b""] or (again, send) != ("EAGAIN", "EPIPE"):
    sys.exit("changed: not what the comment says")
PY
