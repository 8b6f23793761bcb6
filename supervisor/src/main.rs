//! The program `portgrant-supervisor`. All of it is in the library.

#![no_main]

portgrant_sys::main!(one thread: portgrant_supervisor::run);
