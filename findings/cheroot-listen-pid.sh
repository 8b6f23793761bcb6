#!/bin/bash
# Guess:   a server takes descriptor 3 as its listening socket if LISTEN_PID is its own process id, as sd_listen_fds(3) says.
# Happens: cheroot (CherryPy's server) takes descriptor 3 if LISTEN_PID is set at all. It neither reads LISTEN_FDS nor
#          compares the process id, and ignores its --bind.
# Seen on: cheroot 11.1.2 with Python 3.11, and cheroot 9.0.0 of Debian 12.
# Matters: a cheroot that inherits LISTEN_PID from the service that started it, and any open file as descriptor 3, ends or
#          serves on another's socket instead of its own port.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$work/lib" cheroot==11.1.2
export PYTHONPATH=$work/lib
cat >"$work/app.py" <<'PYTHON'
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"here\n"]
PYTHON
cd "$work"
cat >ask.py <<'PYTHON'
import os, socket, subprocess, sys, time, urllib.request

def serves(port, **settings):
    """Whether cheroot serves on this port; descriptor 3 is /dev/null."""
    other = os.open("/dev/null", os.O_RDONLY)
    words = [sys.executable, "-m", "cheroot", "--bind", f"127.0.0.1:{port}", "app:app"]
    server = subprocess.Popen(["sh", "-c", f"exec \"$@\" 3</dev/null", "sh", *words], env={**os.environ, **settings}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    try:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read() == b"here\n"
            except OSError:
                time.sleep(0.1)
        return False
    finally:
        server.kill()
        server.wait()

port = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
plain, foreign = serves(port), serves(port, LISTEN_PID="1", LISTEN_FDS="1")
print(f"no variables: {'serves' if plain else 'ends'}; LISTEN_PID=1, another process: {'serves' if foreign else 'ends'}")
if (plain, foreign) != (True, False):
    sys.exit(print("changed: not what the comment says") or 1)
PYTHON
python3 ask.py
