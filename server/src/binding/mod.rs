//! Sockets that are bound for this process, by itself or by the helper; and sockets that are in the way.

mod bind;
mod error;
pub mod helper;
mod holder;
mod request;
mod server;
mod sock_diag;

#[cfg(fuzzing)]
pub(crate) use sock_diag::{read as read_sock_diag, sockets};

pub use bind::Bind;
#[cfg(feature = "restart")]
pub(crate) use bind::adjust;
pub use error::{BindError, RequestError};
pub use holder::{Holder, HolderState, Process, Queue, holders};
pub use request::Request;
pub use server::{Server, listen};
