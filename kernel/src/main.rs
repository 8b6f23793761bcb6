//! The program `portgrant-kernel`.

use std::process::ExitCode;

fn main() -> ExitCode {
    portgrant_kernel::run(std::env::args_os()).into()
}
