//! The helper begins at `portgrant_start` (src/entry.rs), before the C library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if ["x86_64", "aarch64"].contains(&std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default().as_str()) {
        println!("cargo::rustc-link-arg-bins=-Wl,--entry=portgrant_start");
    }
}
