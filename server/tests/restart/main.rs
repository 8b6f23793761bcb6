//! Generations seen from outside: the example `generations`, whose program file is replaced and whose processes are ended,
//! stopped and lied to.
#![cfg(feature = "restart")]

mod copies;
mod failures;
mod model;
mod server;
mod service_manager;
#[path = "../stand_in/mod.rs"]
mod stand_in;
mod starting;
mod upgrades;
