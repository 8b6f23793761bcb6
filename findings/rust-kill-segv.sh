#!/bin/bash
# Guess:   `kill -SEGV` ends a Rust program that installs no signal handler, as it ends a C program.
# Happens: the first signal has no visible effect. The standard library's handler for stack overflows only restores the
#          default action and returns, so that a real fault happens again. After kill(2) there is no fault to happen
#          again, and the program goes on. The second signal ends it. SIGBUS is handled the same way.
# Seen on: Rust 1.95.0 on Linux x86_64.
# Matters: watchdogs and tests that send SIGSEGV or SIGBUS to get a core dump wait in vain.
set -euo pipefail
rustc --version
work=$(mktemp -d) child=
trap '[ -z "$child" ] || kill -KILL "$child"; rm -rf "$work"' EXIT
echo 'fn main() { println!("ready"); std::thread::sleep(std::time::Duration::from_secs(60)); }' >"$work/rust.rs"
printf '#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts("ready"); fflush(stdout); sleep(60); }\n' >"$work/c.c"
rustc -o "$work/rust" "$work/rust.rs"
cc -o "$work/c" "$work/c.c"
ulimit -c 0

signals() { # writes how many signals $2 it takes to end the program $1
    local sent=0
    "$work/$1" >"$work/out" 2>&1 &
    child=$!
    until grep -q ready "$work/out"; do sleep 0.05; done
    while [ $sent -lt 5 ] && ps -o stat= -p $child | grep -q '^[^Z]'; do
        kill -"$2" $child
        sent=$((sent + 1))
        sleep 0.3
    done
    kill -KILL $child 2>/dev/null || true
    wait $child 2>/dev/null || true
    child=
    echo $sent >"$work/sent"
}
seen=
for program in c rust; do
    for signal in SEGV BUS; do
        signals $program $signal 2>/dev/null # bash reports each end
        echo "$program program: ended by SIG$signal number $(cat "$work/sent")"
        seen+="$(cat "$work/sent") "
    done
done
[ "$seen" = "1 1 2 2 " ] || { echo "changed: not what the comment says"; exit 1; }
