#!/bin/bash
# Guess:   `systemctl stop` sends SIGTERM to the main process and waits TimeoutStopSec= for its end, whichever process
#          is the main one.
# Happens: if MAINPID= names a process that was not systemd's child when the message arrived, systemd does not wait for
#          it. SIGKILL follows SIGTERM at once. It does so even if the process became its child since, because its parent
#          has ended. The result of the unit is "success".
# Seen on: Debian 12, systemd 252.39-1~deb12u2. Needs root and cgroup 2; runs a user manager in new mount, process and
#          cgroup namespaces.
# Matters: a server that replaces itself by a new process (fork, then MAINPID=, then the old one exits) is cut off while
#          it finishes its requests.
set -euo pipefail
dpkg-query --show systemd
work=$(mktemp -d)
cgroups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET)
cgroup=$cgroups/seen.$$
trap 'find "$cgroup" -depth -type d -exec rmdir {} \; ; rm -rf "$work"' EXIT
mkdir "$cgroup" "$work/run" "$work/units"
chmod 700 "$work/run"

cat >"$work/server.py" <<'PY'
import os, signal, socket, sys, time

def stop(*_):
    print("got SIGTERM", flush=True)
    time.sleep(1)
    print("finished", flush=True)
    os._exit(0)

text = "READY=1"
signal.signal(signal.SIGTERM, stop)
if sys.argv[1] == "replaced":
    if os.fork():
        time.sleep(1)
        os._exit(0)
    text += f"\nMAINPID={os.getpid()}"
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.connect(os.environ["NOTIFY_SOCKET"])
    manager.send(text.encode())
while True:
    time.sleep(1)
PY
echo '[Unit]' >"$work/units/seen.target"
for unit in first replaced; do
    printf '[Service]\nType=notify\nNotifyAccess=all\nTimeoutStopSec=20\nStandardOutput=file:%s\nExecStart=%s %s %s\n' \
        "$work/$unit" "$(command -v python3)" "$work/server.py" $unit >"$work/units/$unit.service"
done
cat >"$work/manager" <<'SH'
set -eu
mount -t proc none /proc
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /run && mkdir -p /run/systemd/system
export XDG_RUNTIME_DIR="$2/run" SYSTEMD_UNIT_PATH="$2/units:" SYSTEMD_LOG_TARGET=null
unset DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET
/lib/systemd/systemd --user --unit=seen.target >/dev/null 2>&1 &
tries=0
until [ -S "$2/run/systemd/private" ] || [ $((tries += 1)) -gt 100 ]; do sleep 0.1; done
for unit in first replaced; do
    systemctl --user start $unit
    sleep 2 # the old process is gone
    main=$(systemctl --user show --property=MainPID --value $unit)
    parent=$(ps -o comm= -p "$(ps -o ppid= -p "$main" | xargs)")
    systemctl --user stop $unit
    grep -q finished "$2/$unit" && end="finished its work" || end="was killed before"
    echo "$unit: child of $parent, $end, result $(systemctl --user show --property=Result --value $unit)"
done
SH
# shellcheck disable=SC2016
timeout 60 sh -c 'echo $$ >"$1/cgroup.procs" && exec unshare -m -p -C -f --kill-child sh "$2/manager" "$@"' \
    sh "$cgroup" "$work" | tee "$work/seen"
sleep 0.5 # until the kernel has removed the namespace's processes
[ "$(cat "$work/seen")" = "first: child of systemd, finished its work, result success
replaced: child of systemd, was killed before, result success" ] || { echo "changed: not what the comment says"; exit 1; }
