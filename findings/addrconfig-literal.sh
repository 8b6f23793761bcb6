#!/bin/bash
# Guess:   getaddrinfo(3) turns "127.0.0.1" into an address in every case: nothing has to be looked up. AI_ADDRCONFIG, which
#          asks for families that the host has, is about names.
# Happens: with AF_INET and AI_ADDRCONFIG it fails (EAI_NONAME) on a host that has no IPv4 address but loopback, even with
#          AI_NUMERICHOST. With AF_UNSPEC and the same flags it succeeds.
# Seen on: glibc 2.36 of Debian 12. getaddrinfo(3) says of AI_ADDRCONFIG that loopback does not count, and nothing of literals.
# Matters: a server that binds an address of its configuration this way (tftpd-hpa: in.tftpd --address 127.0.0.1:69) ends in
#          a container without a network, where its clients would reach it by loopback.
set -euo pipefail
[ "$(id -u)" = 0 ] && apart=(unshare --net) || apart=(unshare --user --map-root-user --net)
"${apart[@]}" bash -c 'PATH=$PATH:/usr/sbin:/sbin; ip link set lo up; exec python3 -' <<'PYTHON'
import platform, socket, sys

def answer(family, flags):
    try:
        return socket.getaddrinfo("127.0.0.1", 69, family=family, type=socket.SOCK_DGRAM, flags=flags)[0][4][0]
    except socket.gaierror as error:
        return str(error)

print(*platform.libc_ver())
seen = [answer(socket.AF_INET, 0), answer(socket.AF_UNSPEC, socket.AI_ADDRCONFIG),
        answer(socket.AF_INET, socket.AI_ADDRCONFIG), answer(socket.AF_INET, socket.AI_ADDRCONFIG | socket.AI_NUMERICHOST)]
for what, said in zip(("AF_INET", "AF_UNSPEC, AI_ADDRCONFIG", "AF_INET, AI_ADDRCONFIG", "the same, AI_NUMERICHOST"), seen):
    print(f"{what}: {said}")
unknown = "[Errno -2] Name or service not known"
if seen != ["127.0.0.1", "127.0.0.1", unknown, unknown]:
    sys.exit(print("changed: not what the comment says") or 1)
PYTHON
