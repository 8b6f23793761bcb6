//! Unsafe code that several programs of portgrant share: system calls that rustix does not have, and the strings that
//! execve(2) left in memory. Each block has a proof beside it.

#![cfg_attr(docsrs, feature(doc_cfg))]
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
mod spawn;
mod stdio;
mod strings;
mod timer;

pub use abandon::{abandon, give_up};
pub use clock::{monotonic, realtime};
pub use execute::execve;
pub use ids::{getresgid, getresuid};
pub use pages::{exit, map, protect, remap, unmap};
pub use socket::{
    netns_cookie, network_is_ours, network_namespace, set_bind_to_device, set_tcp_defer_accept, set_tcp_fastopen,
    shares_fs,
};
pub use spawn::spawn;
pub use stdio::{occupy_standard_descriptors, stderr, stdout};
pub use strings::{Word, strings, without, words};
pub use timer::KillTimer;

// Only for programs without privilege. The helper does not compile this part.

#[cfg(any(feature = "program", feature = "process", feature = "seccomp", feature = "server"))]
extern crate std;

#[cfg(feature = "server")]
pub mod inherited;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "program")]
mod program;
#[cfg(feature = "tokio")]
mod readiness;
#[cfg(feature = "seccomp")]
pub mod seccomp;
#[cfg(feature = "server")]
mod tcp_info;

#[cfg(feature = "process")]
pub use process::OnlyThread;
#[cfg(feature = "program")]
pub use program::Start;
#[cfg(feature = "tokio")]
pub use readiness::awaited;
#[cfg(feature = "server")]
pub use tcp_info::tcp_info;
