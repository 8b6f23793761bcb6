//! Sockets that another program bound, and the ways in which this process receives them.

pub mod environment;
mod error;
mod handover;
pub(crate) mod inetd;
mod inherited;
mod mailbox;
mod socket;
pub(crate) mod socket_file;
mod sockets;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(feature = "tokio")]
mod tokio;
mod variable;

pub use error::{AdoptionError, SocketError};
pub use handover::{HandoverError, Refused};
pub(crate) use handover::{ONE_VERSION, pair};
pub use mailbox::{Mailbox, MailboxError};
pub use socket::{Origin, Socket};
pub use sockets::Sockets;
#[cfg(feature = "tokio")]
pub use tokio::TokioSocket;
