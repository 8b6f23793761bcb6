//! Listeners: clients and datagrams, at several ports and addresses.

mod addressed;
mod each;
pub(crate) mod epoll;
mod error;
mod listeners;
mod steering;
#[cfg(feature = "tokio")]
mod tokio;

pub use addressed::{AddressedUdp, Arrival};
pub use each::{AddressChange, EachUdp};
pub use error::ListenerError;
pub use listeners::{Datagram, Event, Listeners, Stopper};
pub use steering::steer_by_cpu;
#[cfg(feature = "tokio")]
pub use tokio::AsyncListeners;
