#!/bin/bash
# Guess:   asyncio sets TCP_NODELAY on each TCP connection, so a server answers as fast on an inherited listening socket
#          as on one that it opened itself.
# Happens: asyncio decides by the family and protocol in Python's socket object, not by the socket. The protocol is 0 if
#          socket.create_server() made the object, or socket.fromfd() with two arguments after the descriptor. Then the
#          option stays off. socket.socket(fileno=FD) asks the kernel, and the option is set. `uvicorn --fd FD` takes each
#          descriptor for a Unix socket, so its TCP connections never have the option.
# Seen on: Python 3.11 on Linux, uvicorn 0.54.0 with --loop asyncio. The asyncio documentation speaks of all TCP
#          connections.
# Matters: small writes on a kept connection wait for the client's delayed acknowledgement, about 40 ms each. The same
#          server with --port is fast, and nothing reports the difference.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 --version
python3 -m pip install --quiet --root-user-action=ignore --no-deps --target site uvicorn==0.54.0 h11==0.16.0 click==8.5.1
export PYTHONPATH=$work/site
cat >app.py <<'PY'
import asyncio.selector_events, socket

accepted = []

class Noting(asyncio.selector_events._SelectorSocketTransport):
    def __init__(self, loop, sock, *rest, **more):
        super().__init__(loop, sock, *rest, **more)
        accepted.append(sock)

asyncio.selector_events._SelectorSocketTransport = Noting

async def app(scope, receive, send):
    if scope["type"] == "http":
        value = accepted[-1].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"%d" % value})
PY
cat >look.py <<'PY'
import asyncio, socket, subprocess, sys, time, urllib.request

async def asked(**how):
    seen = asyncio.get_running_loop().create_future()

    async def client(reader, writer):
        seen.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    server = await asyncio.start_server(client, **how)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    value = await seen
    writer.close()
    server.close()
    return value

def uvicorn(arguments, port, **how):
    command = [sys.executable, "-m", "uvicorn", "app:app", "--loop", "asyncio", "--log-level", "error", *arguments]
    server = subprocess.Popen(command, **how)
    try:
        for _ in range(300):
            try:
                return int(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).read())
            except OSError:
                time.sleep(0.1)
        sys.exit("uvicorn does not answer")
    finally:
        server.terminate()
        server.wait()

def listener():
    return socket.create_server(("127.0.0.1", 0))

one, two, three = listener(), listener(), listener()
port = listener().getsockname()[1]
seen = {
    "asyncio, host and port": asyncio.run(asked(host="127.0.0.1", port=0)),
    "asyncio, sock=create_server()": asyncio.run(asked(sock=one)),
    "asyncio, sock=fromfd(FD, AF_INET, SOCK_STREAM)":
        asyncio.run(asked(sock=socket.fromfd(two.fileno(), socket.AF_INET, socket.SOCK_STREAM))),
    "asyncio, sock=socket(fileno=FD)": asyncio.run(asked(sock=socket.socket(fileno=two.detach()))),
    "uvicorn --port": uvicorn(["--port", str(port)], port),
    "uvicorn --fd":
        uvicorn(["--fd", str(three.fileno())], three.getsockname()[1], pass_fds=[three.fileno()]),
}
for what, value in seen.items():
    print(f"{what}: TCP_NODELAY is {value}")
if list(seen.values()) != [1, 0, 0, 1, 1, 0]:
    sys.exit("changed: not what the comment says")
PY
python3 look.py
