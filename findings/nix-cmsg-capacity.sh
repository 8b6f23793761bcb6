#!/bin/bash
# Guess:   a Vec<u8> with enough capacity is a control buffer for recvmsg() of the crate nix, as it is for recvmmsg().
# Happens: recvmsg() uses the buffer's length, and a Vec with only capacity becomes an empty slice without a warning.
#          The data arrives, the descriptors are lost (MSG_CTRUNC), and cmsgs() fails with ENOBUFS.
#          MultiHeaders::preallocate(), for recvmmsg(), uses the capacity of the Vec, so there the same Vec works.
# Seen on: nix 0.31.3 on Linux 6.18. The documentation recommends cmsg_space!, which fills the Vec.
# Matters: the mistake compiles, and it shows only when somebody sends descriptors.
set -euo pipefail
echo "Linux $(uname -r), nix 0.31.3, $(rustc --version)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CARGO_TARGET_DIR
mkdir "$work/src"
cat >"$work/Cargo.toml" <<'TOML'
[package]
name = "seen"
version = "0.0.0"
edition = "2021"
[dependencies]
nix = { version = "=0.31.3", features = ["socket", "uio"] }
TOML
cat >"$work/src/main.rs" <<'RUST'
use nix::sys::socket::*;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

fn sent() -> (OwnedFd, OwnedFd) {
    let (near, far) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::empty()).unwrap();
    let files = [near.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&files)];
    sendmsg::<()>(near.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).unwrap();
    (near, far)
}

fn one(mut control: Vec<u8>) -> String {
    let (_near, far) = sent();
    let mut data = [0; 8];
    let mut parts = [IoSliceMut::new(&mut data)];
    let got = recvmsg::<()>(far.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()).unwrap();
    format!("truncated={} cmsgs={:?}", got.flags.contains(MsgFlags::MSG_CTRUNC), got.cmsgs().map(Iterator::count))
}

fn several(control: Vec<u8>) -> String {
    let (_near, far) = sent();
    let mut data = [0; 8];
    let mut parts = [[IoSliceMut::new(&mut data)]];
    let mut headers = MultiHeaders::<()>::preallocate(1, Some(control));
    let got = recvmmsg(far.as_raw_fd(), &mut headers, parts.iter_mut(), MsgFlags::empty(), None).unwrap().next().unwrap();
    format!("truncated={} cmsgs={:?}", got.flags.contains(MsgFlags::MSG_CTRUNC), got.cmsgs().map(Iterator::count))
}

fn main() {
    let space = cmsg_space::<[i32; 1]>();
    println!("recvmsg, filled vector:  {}", one(vec![0; space]));
    println!("recvmsg, with_capacity:  {}", one(Vec::with_capacity(space)));
    println!("recvmmsg, with_capacity: {}", several(Vec::with_capacity(space)));
}
RUST
cargo run --quiet --manifest-path "$work/Cargo.toml" >"$work/seen"
cat "$work/seen"
[ "$(cat "$work/seen")" = "recvmsg, filled vector:  truncated=false cmsgs=Ok(1)
recvmsg, with_capacity:  truncated=true cmsgs=Err(ENOBUFS)
recvmmsg, with_capacity: truncated=false cmsgs=Ok(1)" ] || { echo "changed: not what the comment says"; exit 1; }
