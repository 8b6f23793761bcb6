//! cfg(bare), of this crate and of `memory`: the program starts here and links no C library. See `portgrant-binder`'s build script.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bare)");
    println!("cargo::rerun-if-env-changed=PORTGRANT_BARE");
    if std::env::var("PORTGRANT_BARE").is_ok_and(|value| value == "1") {
        println!("cargo::rustc-cfg=bare");
    }
}
