//! The kernel mode of portgrant: the policy as a cgroup-BPF program.
//!
//! `portgrant-kernel load` compiles the policy into tables ([`tables`]), loads a program that reads them at
//! each bind(2) ([`program`]), and pins both ([`loaded`]); then it ends. From then on a permitted bind needs no privilege,
//! in any program. The decision is that of `crate::projection::decide_bind`.
//!
//! It runs as root. All but CAP_BPF and CAP_NET_ADMIN is given up first ([`privilege`]), and these are effective only
//! while the kernel is asked for something; `audit`, which stays, keeps CAP_BPF alone. The unsafe code is in [`bpf`].

pub mod addresses;
pub mod arguments;
pub mod assembly;
pub mod audit;
pub mod bpf;
pub mod cells;
pub mod cgroup;
mod commands;
pub mod description;
pub mod entry;
mod error;
pub mod layout;
pub mod loaded;
mod network;
pub mod privilege;
pub mod program;
pub mod projection;
mod rows;
pub mod show;
mod subordinates;
pub mod tables;

pub use commands::run;
pub use error::Error;
