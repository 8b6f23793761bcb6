#!/bin/bash
# Guess:   CARGO_CFG_PANIC tells a build script how the crate treats a panic: `abort` if the profile says panic = "abort".
# Happens: it is `unwind` there, while cfg!(panic = "abort") is true in the crate that the same build compiles. Cargo asks
#          rustc for the values without the profile. Only RUSTFLAGS changes the variable.
# Seen on: cargo and rustc 1.95.0. The Cargo book calls CARGO_CFG_* the configuration of the package being built.
# Matters: a build script that builds C code with or without unwind tables, or refuses a wrong strategy, decides by the
#          wrong value and sees no error. Such a check works only in the crate itself.
set -euo pipefail
cargo --version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset CARGO_TARGET_DIR CARGO_BUILD_RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTFLAGS
mkdir src
printf '[package]\nname = "seen"\nversion = "0.0.0"\nedition = "2021"\n[profile.dev]\npanic = "abort"\n' >Cargo.toml
cat >build.rs <<'RUST'
fn main() {
    println!("cargo:rustc-env=BUILD_SCRIPT={}", std::env::var("CARGO_CFG_PANIC").unwrap());
}
RUST
cat >src/main.rs <<'RUST'
fn main() {
    let own = if cfg!(panic = "abort") { "abort" } else { "unwind" };
    println!("build script: {}, crate: {own}", env!("BUILD_SCRIPT"));
}
RUST
profile=$(cargo run --offline --quiet)
flags=$(RUSTFLAGS=-Cpanic=abort cargo run --offline --quiet)
printf 'by the profile: %s\nby the profile and RUSTFLAGS: %s\n' "$profile" "$flags"
[ "$profile/$flags" = "build script: unwind, crate: abort/build script: abort, crate: abort" ] ||
    { echo "changed: not what the comment says"; exit 1; }
