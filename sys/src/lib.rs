//! The unsafe code that several programs of portgrant need, once: system calls that neither nix nor rustix covers, and what
//! execve(2) left in memory. A proof stands beside each block.

#![allow(unsafe_code)]

mod socket;
mod strings;

pub use socket::{
    netns_cookie, network_namespace, owning_user_namespace, set_tcp_defer_accept, set_tcp_fastopen, shares_fs,
};
pub use strings::strings;
