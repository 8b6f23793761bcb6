#!/bin/bash
# Guess:   the crates in vendor/ can be packaged in Debian without further care: nothing but the build uses them.
# Happens: dh_clean deletes *.orig files everywhere, and `cargo package` puts a Cargo.toml.orig into every crate. Cargo's
#          checksum list names the file, so `cargo build` refuses the crate. The message does not name dh_clean.
#          An earlier build in target/ hides it, because Cargo does not check crates again that it has built.
#          `dh_clean -XCargo.toml.orig` (in override_dh_clean) keeps the files.
# Seen on: Debian 12, debhelper 13.11.4; cargo 1.95.0. dh_clean(1) lists *.orig.
# Matters: dpkg-buildpackage cleans before each build, so the build fails in a tree that is complete and unchanged.
set -euo pipefail
dpkg-query --show debhelper
cargo --version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset CARGO_TARGET_DIR
mkdir -p debian src vendor/leaf/src .cargo
cat >debian/control <<'TEXT'
Source: seen
Maintainer: A Name <name@example.com>
Build-Depends: debhelper-compat (= 13)

Package: seen
Architecture: all
Description: example
TEXT
cat >debian/changelog <<'TEXT'
seen (1) unstable; urgency=low

  * Example.

 -- A Name <name@example.com>  Thu, 01 Jan 1970 00:00:00 +0000
TEXT
printf '[package]\nname = "leaf"\nversion = "1.0.0"\nedition = "2021"\n' >vendor/leaf/Cargo.toml
cp vendor/leaf/Cargo.toml vendor/leaf/Cargo.toml.orig
echo 'pub fn leaf() {}' >vendor/leaf/src/lib.rs
(cd vendor/leaf && sha256sum Cargo.toml Cargo.toml.orig src/lib.rs) |
    awk '{ list = list (list ? "," : "") "\"" $2 "\":\"" $1 "\"" } END { print "{\"files\":{" list "},\"package\":null}" }' \
        >vendor/leaf/.cargo-checksum.json
printf '[package]\nname = "seen"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nleaf = "1"\n' >Cargo.toml
echo 'fn main() { leaf::leaf() }' >src/main.rs
printf '[source.crates-io]\nreplace-with = "vendor"\n[source.vendor]\ndirectory = "vendor"\n' >.cargo/config.toml

build() {
    if cargo build --offline >messages 2>&1; then echo builds; else echo fails; fi
}
before=$(build)
dh_clean -XCargo.toml.orig
rm -r target
excluded=$(build)
dh_clean
hidden=$(build)
rm -r target
after=$(build)
echo "before: $before; after dh_clean -XCargo.toml.orig: $excluded; after dh_clean: $hidden; without target/: $after"
sed "s|$work/||" messages
grep -q 'checksum of: .*/Cargo.toml.orig' messages || after=differently
[ "$before $excluded $hidden $after" = "builds builds builds fails" ] ||
    { echo "changed: not what the comment says"; exit 1; }
