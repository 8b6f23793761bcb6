//! Links libgcc's stack unwinder statically, instead of loading libgcc_s.so at each start. So the programs also start
//! in an image that has only the C library. The crates explain and kernel use this too.
//!
//! std needs it for backtraces. On a virtual machine, loading it takes about 100 us of each start, mostly for the CPUID
//! instructions of its constructor, which trap there. rustc passes `-lgcc_s` to the linker, which finds a linker script
//! here that names the static archive. Without such an archive nothing changes.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Links the archive if the compiler has one.
pub(crate) fn main() {
    println!("cargo::rerun-if-changed=../launcher/build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") || env::var("HOST") != env::var("TARGET") {
        return;
    }
    let Ok(found) = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output() else { return };
    let archive = String::from_utf8_lossy(&found.stdout);
    // For a missing file the compiler prints the bare name.
    if !Path::new(archive.trim()).is_absolute() {
        return;
    }
    let folder = env::var("OUT_DIR").unwrap_or_default();
    if fs::write(Path::new(&folder).join("libgcc_s.so"), "INPUT(-lgcc_eh)\n").is_ok() {
        println!("cargo::rustc-link-search=native={folder}");
    }
}
