//! Sockets that are bound for this process, by itself or by the helper; and sockets that are in the way.

mod bind;
mod error;
pub mod helper;
mod holder;
mod request;
mod server;
mod sock_diag;

pub use bind::Bind;
#[cfg(feature = "restart")]
pub(crate) use bind::adjust;
pub use error::{BindError, RequestError};
pub use holder::{Holder, HolderState, Process, Queue, holders};
pub use request::Request;
pub use server::{Server, listen};
