//! The unsafe code that several programs of portgrant need, once: system calls that rustix does not cover, and what
//! execve(2) left in memory. A proof stands beside each block.

#![cfg_attr(not(test), no_std)]
#![allow(unsafe_code)]

extern crate alloc;

mod abandon;
mod call;
mod clock;
mod execute;
mod ids;
mod pages;
mod socket;
mod stdio;
mod strings;
mod timer;

pub use abandon::give_up;
pub use clock::{monotonic, realtime};
pub use execute::execve;
pub use ids::{getresgid, getresuid};
pub use pages::{exit, map, protect, remap, unmap};
pub use socket::{
    netns_cookie, network_namespace, owning_user_namespace, set_bind_to_device, set_tcp_defer_accept, set_tcp_fastopen,
    shares_fs,
};
pub use stdio::{occupy_standard_descriptors, stderr, stdout};
pub use strings::{Word, strings, words};
pub use timer::KillTimer;
