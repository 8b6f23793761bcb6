//! The program that is installed as `portgrant`. All of it is in the library.

#![no_main]
#![cfg_attr(bare, no_std)]

portgrant_startup::main!("portgrant", portgrant_front::run);
