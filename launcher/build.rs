//! Links the part of libgcc that walks the stack into the program, instead of loading libgcc_s.so for it at each start. So the
//! programs also start in an image that has the C library and nothing else. Used by explain and kernel as well.
//!
//! std names it for backtraces. Loading it costs a start about 100 us where the machine is virtual, most of them because its
//! constructor asks the processor what it is (CPUID traps there). rustc asks the linker for `-lgcc_s`; that name is found
//! here first, as a script that leads to the archive. Without such an archive nothing changes.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Links it, where the compiler has it as an archive.
pub(crate) fn main() {
    println!("cargo::rerun-if-changed=../launcher/build.rs");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu") || env::var("HOST") != env::var("TARGET") {
        return;
    }
    let Ok(found) = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output() else { return };
    let archive = String::from_utf8_lossy(&found.stdout);
    // A name without a folder is what the compiler says of a file that it does not have.
    if !Path::new(archive.trim()).is_absolute() {
        return;
    }
    let folder = env::var("OUT_DIR").unwrap_or_default();
    if fs::write(Path::new(&folder).join("libgcc_s.so"), "INPUT(-lgcc_eh)\n").is_ok() {
        println!("cargo::rustc-link-search=native={folder}");
    }
}
