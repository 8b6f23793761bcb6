#!/bin/bash
# Guess:   exec() of Rust's std::os::unix::process::CommandExt replaces the program and leaves the signals alone, as
#          execve(2) does: ignored signals stay ignored.
# Happens: SIGPIPE alone is reset to its default, even if the caller of the Rust program ignored it. Other ignored
#          signals and the blocked ones are passed on.
# Seen on: Rust 1.95.0.
# Matters: a small wrapper in Rust is not transparent. A service manager that starts servers with SIGPIPE ignored (as
#          systemd does) starts them through the wrapper with the default: a client that hangs up can end the server.
set -euo pipefail
rustc --version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/wrapper.rs" <<'RUST'
use std::os::unix::process::CommandExt;
fn main() {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let error = std::process::Command::new(&words[0]).args(&words[1..]).exec();
    panic!("{error}");
}
RUST
rustc --edition 2021 -o "$work/wrapper" "$work/wrapper.rs"
python3 - "$work/wrapper" <<'PY'
import re, signal, subprocess, sys

def ignored(*wrapper):
    def prepare():
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    run = subprocess.run([*wrapper, "cat", "/proc/self/status"], stdout=subprocess.PIPE, check=True, text=True,
                         preexec_fn=prepare, restore_signals=False)
    sets = [int(re.search(rf"{name}:\s*(\w+)", run.stdout)[1], 16) for name in ("SigIgn", "SigBlk")]
    has = lambda bits, number: bool(bits >> (number - 1) & 1)
    return has(sets[0], signal.SIGPIPE), has(sets[0], signal.SIGHUP), has(sets[1], signal.SIGUSR1)

direct, wrapped = ignored(), ignored(sys.argv[1])
for what, (pipe, hup, usr1) in ("directly", direct), ("through the wrapper", wrapped):
    print(f"{what}: SIGPIPE ignored {pipe}, SIGHUP ignored {hup}, SIGUSR1 blocked {usr1}")
if (direct, wrapped) != ((True, True, True), (False, True, True)):
    sys.exit("changed: not what the comment says")
PY
