#!/bin/bash
# Guess:   IPV6_V6ONLY has the value that the program set, or that of /proc/sys/net/ipv6/bindv6only.
# Happens: bind(2) to an IPv6 address such as ::1 sets the option to 1, even if the program set it to 0 before.
#          bind(2) to :: or to an IPv4-mapped address does not change it. On each bound socket setsockopt(2) fails with
#          EINVAL, even for the value that the option already has.
# Seen on: Linux 6.18. ipv6(7) does not mention it.
# Matters: a program that gets a bound socket and copies or "restores" its options fails, or compares values that
#          nobody set.
set -euo pipefail
echo "Linux $(uname -r)"
python3 - <<'PY'
import errno, socket, sys

IP6, ONLY = socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
seen = {}
for address in "::1", "::", "::ffff:127.0.0.1":
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.setsockopt(IP6, ONLY, 0)
        server.bind((address, 0))
        value = server.getsockopt(IP6, ONLY)
        again = []
        for wanted in 0, 1:
            try:
                server.setsockopt(IP6, ONLY, wanted)
                again.append("success")
            except OSError as error:
                again.append(errno.errorcode[error.errno])
    seen[address] = (value, again)
    print(f"set to 0, bound to {address}: now {value}; setting 0 and 1 again: {', '.join(again)}")
fails = ["EINVAL", "EINVAL"]
if list(seen.values()) != [(1, fails), (0, fails), (0, fails)]:
    sys.exit("changed: not what the comment says")
PY
