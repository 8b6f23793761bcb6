#!/bin/bash
# Guess:   with net.ipv4.ip_unprivileged_port_start=0 no port needs a privilege; and root in its own user and network
#          namespace may bind to every port.
# Happens: vsock has privileged ports too, always those below 1024. The sysctl does not apply, and CAP_NET_BIND_SERVICE
#          counts only in the initial user namespace. Both cases work for TCP, and fail for vsock with EACCES.
# Seen on: Linux 6.18. vsock(7) has the privileged ports, but not the rest. Needs root and AF_VSOCK.
# Matters: a server that listens on vsock port 80 in a container fails though the same server works with TCP port 80.
set -euo pipefail
echo "Linux $(uname -r)"
unshare --net python3 - <<'PY'
import ctypes, errno, os, socket, subprocess, sys

subprocess.run(["sysctl", "-q", "-w", "net.ipv4.ip_unprivileged_port_start=0"], check=True)
seen = []

def binds(what):
    for family, address in ((socket.AF_INET, ("127.0.0.1", 80)), (socket.AF_VSOCK, (socket.VMADDR_CID_ANY, 80)),
                            (socket.AF_VSOCK, (socket.VMADDR_CID_ANY, 1024))):
        with socket.socket(family, socket.SOCK_STREAM) as server:
            try:
                server.bind(address)
                result = "success"
            except OSError as error:
                result = errno.errorcode[error.errno]
        seen.append(result)
        print(f"{what}: {family.name} port {address[1]}: {result}", flush=True)

def child(what, prepare):
    if (pid := os.fork()) == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        prepare()
        binds(what)
        os._exit(0 if seen == ["success", "EACCES", "success"] else 1)
    return os.waitpid(pid, 0)[1] == 0

def namespaces():
    CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
    if ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET):
        os._exit(1)

if not all([child("sysctl is 0", lambda: None), child("own namespaces", namespaces)]):
    sys.exit("changed: not what the comment says")
PY
