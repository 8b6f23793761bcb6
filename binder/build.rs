//! Decides whether the program has its own start-up code, and how it is linked then. For the helper and
//! `portgrant-front`.
//!
//! With `PORTGRANT_BARE=1`, on x86-64 and aarch64, the program links no C library: cfg(bare). `packaging/build` sets it, and
//! builds the crate alone. It cannot be set for a build of other crates as well: these make rustix use std, and a program has
//! either std or its own start-up code. Without it the program starts by the C library, as it does on other processors.

use std::env::var;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bare)");
    println!("cargo::rerun-if-changed=../binder/build.rs");
    println!("cargo::rerun-if-env-changed=PORTGRANT_BARE");
    if var("PORTGRANT_BARE").is_ok_and(|value| value == "1") {
        let processor = (var("CARGO_CFG_TARGET_ARCH").unwrap_or_default(), var("CARGO_CFG_TARGET_POINTER_WIDTH"));
        assert!(
            matches!((&*processor.0, processor.1.as_deref()), ("x86_64" | "aarch64", Ok("64"))),
            "PORTGRANT_BARE is for x86-64 and aarch64"
        );
        println!("cargo::rustc-cfg=bare");
        // Position-independent for a random address, with packed relocations, and read-only data after relocation
        // (RELRO).
        for argument in
            ["-nostartfiles", "-nostdlib", "-static-pie", "-Wl,--build-id=none", "-Wl,-z,pack-relative-relocs"]
        {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
        // No unwinding tables either, also not those of core and alloc.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../startup/no-unwinding.ld");
        println!("cargo::rerun-if-changed={script}");
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{script}");
    }
}
