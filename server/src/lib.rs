//! Serve on ports below 1024 without ever being root.
//!
//! A server gets its sockets in one of four ways, and takes each by its name, as a type of the standard library:
//!
//! ```no_run
//! use portgrant_server::Sockets;
//!
//! # fn main() -> Result<(), portgrant_server::Error> {
//! let mut sockets = match Sockets::inherited()? {
//!     // `portgrant exec -l https=443 -l 53/udp -- this-program`, or a systemd socket unit: LISTEN_FDS
//!     Some(sockets) => sockets,
//!     // Started by hand: ask. The policy in /etc/portgrant.conf decides for the user that runs this.
//!     None => Sockets::request(["https=443", "53/udp"])?,
//! };
//! let https: std::net::TcpListener = sockets.tcp("https")?;
//! let dns: std::net::UdpSocket = sockets.udp("53/udp")?;
//! # Ok(())
//! # }
//! ```
//!
//! | from where | how |
//! |---|---|
//! | `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` (sd_listen_fds(3)) | [`Sockets::inherited`] |
//! | descriptor 0, as inetd's `wait` services have it | [`Sockets::inetd`] |
//! | the helper, asked by this process while it runs | [`Sockets::request`], [`Request`] |
//! | this server's own Unix socket, to which somebody sends one more | [`Mailbox`] |
//!
//! * A name is what stands before `=` in the endpoint (`https=443`), else `PORT/PROTOCOL` (`443/tcp`). An endpoint's
//!   whole grammar is in [`endpoint`].
//! * Every descriptor is asked of the kernel before it becomes a typed value: of the wrong kind, not listening, at
//!   another address and not there are different [`Error`]s, each with what happened, why, and what to do.
//! * What came by [`Sockets::request`] is what was asked for, or nothing: the helper binds all of the endpoints or
//!   none.
//! * Nothing is ever taken that was not handed over, every descriptor is close-on-exec from the start, and what is not
//!   taken stays in [`Sockets`] and closes with it.
//!
//! What a server does with them, by the question of the Unix socket FAQ that it answers:
//!
//! | question | here |
//! |---|---|
//! | 4.4 How do I listen on more than one port at a time? | [`Listeners`]; with the feature `tokio`, `AsyncListeners` |
//! | 4.11 How should I choose a port number? | [`Services`]: the user decides, then services(5), then the server |
//! | 4.13 How do I serve udp on a multi-homed host? | [`AddressedUdp`] on one socket, or [`EachUdp`] on one an address |
//!
//! No feature is on by default. `tokio` adds `AsyncListeners`; without it `set_nonblocking(true)` and
//! `tokio::net::TcpListener::from_std` make one of tokio's out of what is taken here.

mod addressed;
mod descriptor;
mod each;
mod error;
pub mod helper;
mod inetd;
mod inherited;
mod interfaces;
mod listeners;
mod mailbox;
mod message;
mod ready;
mod request;
mod services;
mod sockets;

pub use addressed::{AddressedUdp, Arrival};
pub use each::{Change, EachUdp};
pub use error::Error;
#[cfg(feature = "tokio")]
pub use listeners::tokio::AsyncListeners;
pub use listeners::{Connection, Datagram, Event, Listeners, Stopper};
pub use mailbox::Mailbox;
pub use message::Message;
pub use portgrant_protocol::record::Refusal;
pub use portgrant_protocol::socket::{Facts, Mismatch};
pub use portgrant_protocol::{Endpoint, Protocol, endpoint, status};
pub use request::Request;
pub use services::Services;
pub use sockets::{Socket, Sockets};
