#!/bin/bash
# Guess:   a program that runs under nohup(1) ignores SIGHUP, so it never sees the signal.
# Happens: the kernel discards an ignored signal only if it is not blocked. A program that blocks SIGHUP to read it from
#          signalfd(2) receives it, although SIGHUP is still ignored. Without the block it is discarded.
# Seen on: Linux 6.18, nohup of Debian 12's coreutils.
# Matters: nohup does not protect a server with signalfd: it reloads or stops when the terminal closes. Such a program
#          must check the disposition itself.
set -euo pipefail
echo "Linux $(uname -r), $(nohup --version | head -n 1)"
nohup python3 /dev/stdin <<'PY' 2>&1 | grep -v '^nohup: '
import ctypes, os, signal, sys

libc = ctypes.CDLL(None, use_errno=True)
ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
mask = (ctypes.c_ulong * 16)(1 << (signal.SIGHUP - 1))
fd = libc.signalfd(-1, ctypes.byref(mask), os.O_NONBLOCK)

def received():
    os.kill(os.getpid(), signal.SIGHUP)
    try:
        return int.from_bytes(os.read(fd, 128)[:4], sys.byteorder) == signal.SIGHUP
    except BlockingIOError:
        return False

unblocked = received()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
blocked = received()
print(f"SIGHUP is ignored: {ignored}; read from signalfd: not blocked {unblocked}, blocked {blocked}", flush=True)
if (ignored, unblocked, blocked) != (True, False, True):
    print("changed: not what the comment says")
    sys.exit(1)
PY
