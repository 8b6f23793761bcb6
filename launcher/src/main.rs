//! The program `portgrant`. All of it is in the library.

#![no_main]

use portgrant_launcher::{Start, run};

portgrant_sys::main!(|start| run(Start { arguments: start.arguments, environment: start.environment }));
