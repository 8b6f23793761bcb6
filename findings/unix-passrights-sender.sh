#!/bin/bash
# Guess:   SO_PASSRIGHTS=0 on a Unix socket makes the receiver drop descriptors, as too little room for them does:
#          the data arrives, and the kernel sets MSG_CTRUNC. It applies to the socket that set it.
# Happens: sendmsg(2) of the other side fails with EPERM, and the data does not arrive either. A listening socket passes
#          the option on: a client that has connected gets EPERM even before the server accepts the connection.
# Seen on: Linux 6.18 (the option exists since 6.16). unix(7) of Debian 12 does not mention it.
# Matters: a client that sends descriptors reports "Operation not permitted" though no permission is missing on its
#          side. A program that inherits a listening socket cannot receive descriptors if its starter set the option.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import array, errno, os, socket, sys

PASSRIGHTS = 83  # in <asm-generic/socket.h>

def attempt(call, *arguments):
    try:
        call(*arguments)
        return "success"
    except OSError as error:
        return errno.errorcode[error.errno]

def send(client):
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null]))
    return attempt(client.sendmsg, [b"x"], [rights])

null = os.open("/dev/null", os.O_RDONLY)
seen = []
for off in False, True:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("")  # the kernel chooses an abstract name
        if off:
            server.setsockopt(socket.SOL_SOCKET, PASSRIGHTS, 0)
        server.listen()
        client.connect(server.getsockname())
        before = send(client)
        accepted = server.accept()[0]
        inherited = accepted.getsockopt(socket.SOL_SOCKET, PASSRIGHTS)
        after = send(client)
        accepted.setblocking(False)
        data = attempt(accepted.recv, 1)
        seen.append((before, inherited, after, data))
    print(f"listener's option off: {off}; send before accept: {before}; accepted socket's option: {inherited}; "
          f"send after accept: {after}; recv: {data}")
if seen != [("success", 1, "success", "success"), ("EPERM", 0, "EPERM", "EAGAIN")]:
    sys.exit("changed: not what the comment says")
PY
