//! Checks the compiled memory functions: none calls itself, and none calls anything outside. If the compiler turned the
//! loop in memcpy into a call of memcpy, it would recurse for ever.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

const FUNCTIONS: [&str; 6] = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];
/// Functions that are aliases of others.
const SAME: [(&str, &str); 2] = [("memcpy", "memmove"), ("bcmp", "memcmp")];

#[test]
fn no_memory_function_calls_itself() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    for level in ["1", "2", "3", "s", "z"] {
        let object = folder.join(format!("memory-{level}.o"));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut compile = Command::new(rustc);
        compile.args(["--edition=2024", "--crate-type=lib", "--crate-name=memory", "--emit=obj", "--cfg=bare"]);
        compile.args(["-Cpanic=abort", "-Ccodegen-units=1", &format!("-Copt-level={level}"), "-o"]).arg(&object);
        let compiled = compile.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).output().expect("rustc");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let listing = Command::new("objdump").arg("-tdr").arg(&object).output().expect("objdump (Debian: binutils)");
        let listing = String::from_utf8(listing.stdout).expect("ASCII");
        // Two functions of the same code may have one address.
        let symbols = listing.lines().filter(|line| line.contains(" F .text"));
        let found: BTreeSet<&str> = symbols.filter_map(|line| line.split_whitespace().last()).collect();
        assert_eq!(found, FUNCTIONS.into(), "-Copt-level={level}");
        let calls = calls(&listing);
        let unexpected: Vec<_> = calls.iter().filter(|call| !SAME.contains(call)).collect();
        assert!(unexpected.is_empty(), "-Copt-level={level}: {unexpected:?}");
    }
}

/// The calls in a listing: every relocation in the code names another symbol.
fn calls(listing: &str) -> BTreeSet<(&str, &str)> {
    let (mut calls, mut current) = (BTreeSet::new(), "");
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            current = name.1;
        } else if let Some((_, symbol)) = line.split_once(": R_").and_then(|found| found.1.split_once('\t')) {
            // Constants have a dot before their names.
            let name = symbol.split(['-', '+']).next().unwrap_or(symbol);
            calls.extend(Some((current, name)).filter(|_| !symbol.starts_with('.')));
        } else if let Some((code, target)) = line.rsplit_once('<').filter(|found| found.1.ends_with('>')) {
            // A jump within the same section has no relocation: one to the start of a function would be a call.
            let within = target.contains('+') || code.contains(" call ");
            if !within {
                calls.insert((current, target.trim_end_matches('>')));
            }
        }
    }
    calls
}
