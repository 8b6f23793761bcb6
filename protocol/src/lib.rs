//! What all parts of portgrant share: endpoints, messages and records, the transfer of descriptors, the `LISTEN_*`
//! variables, exit statuses.
//!
//! It has no policy and no privilege, and depends on no other crate of portgrant. The privileged helper links it, so
//! every length is bounded, and hostile bytes end in an error, never in a panic. The helper has no C library and no
//! std, so paths and texts are bytes; the feature `std` adds functions for std's types.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod endpoint;
pub mod errno;
pub mod installation;
pub mod listen;
pub mod message;
pub mod number;
pub mod port;
pub mod program;
pub mod record;
pub mod service;
#[cfg(any(test, feature = "client"))]
pub mod socket_info;
pub mod status;
pub mod text;
pub mod transfer;
#[cfg(feature = "std")]
pub mod unanswered;
pub mod unprivileged_ports;
pub mod user_namespace;

pub use endpoint::{Address, AskedPort, Endpoint, EndpointError, Options, Resolved};
pub use message::{Kind, Message};
pub use number::decimal;
pub use port::{Port, Protocol};
