//! Sockets for servers on Linux, also on ports below 1024, without root.
//!
//! One call returns a socket as a type of the standard library:
//!
//! ```no_run
//! let https: std::net::TcpListener = portgrant_server::listen("https=443")?.into_tcp()?;
//! # Ok::<(), portgrant_server::Error>(())
//! ```
//!
//! The socket is inherited, bound by this process, or requested from portgrant's helper: see [`Server`]. Each of these
//! ways can also be used by itself:
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
//! | source of the socket | function |
//! |---|---|
//! | `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES` (sd_listen_fds(3)) | [`Sockets::inherited`] |
//! | bind(2) by this process, where every user may bind | [`Bind`] |
//! | a variable of another convention, `UNICORN_FD=3,4` | [`Sockets::from_variable`] |
//! | descriptor 0 of an inetd service with `wait` | [`Sockets::inetd`] |
//! | descriptor 0 of an inetd service with `nowait`: one connection | [`Connection::inetd`] |
//! | the helper, asked while this process runs | [`Sockets::request`], [`Request`] |
//! | the server's own Unix socket, to which another program sends a socket | [`Mailbox`] |
//!
//! * The name of a socket stands before `=` in the endpoint (`https=443`). Without one the name is `PORT/PROTOCOL`
//!   (`443/tcp`). [`endpoint`] has the whole grammar.
//! * Each descriptor is checked before it becomes a typed value. A wrong kind, a socket that does not listen, another
//!   address and a missing descriptor are different errors. Each [`Error`] says what failed, why, and what to do.
//! * [`Sockets::request`] returns all sockets or none: the helper binds either all endpoints or none.
//! * Only descriptors that were passed to this process are adopted. Each is close-on-exec at once. Those that are not
//!   taken stay in [`Sockets`], and are closed with it.
//!
//! Questions of chapter 4 of the Unix socket FAQ:
//!
//! | question | answer |
//! |---|---|
//! | 4.1 Address already in use: by whom, and for how long? | [`BindError::InUse`](error::BindError::InUse), [`holders`] |
//! | 4.2 Why do sockets not close? How does a connection end without losing the last answer? | [`close_gracefully`], [`TcpInfo`] |
//! | 4.4 How does one listen on several ports at once? | [`Listeners`]; with the feature `tokio`, `AsyncListeners`; with a thread for each, [`accept()`] |
//! | 4.5, 4.12 SO_REUSEADDR or SO_REUSEPORT? Can another user take the port? | [`Bind`] sets the safe options; then no other user can |
//! | 4.5 How do several workers share a port? | [`Server::group`], [`steer_by_cpu`] |
//! | 4.6, 4.7 How are linger, keep-alive and the user time-out set? | [`StreamOptions`] |
//! | 4.8 How does an ordinary user serve on a port below 1024? | [`listen`], [`Server`] |
//! | 4.9, 4.10 Who is the client, and what is its name? | [`Connection::peer`], [`canonical`]; with the feature `resolve`, `Names` |
//! | 4.11 How is a port number chosen? | [`Services`]: by the user, else by services(5), else by the server |
//! | 4.13 How does one serve udp on a host with several addresses? | [`AddressedUdp`] with one socket, [`EachUdp`] with one for each address |
//!
//! No feature is on by default:
//!
//! | feature | content |
//! |---|---|
//! | `daemon` | 4.3: `daemon::Daemon` (background, pid file, exit status 0 means ready), `Signals`, `Notify` |
//! | `restart` | `restart::Generation`: a server replaces itself with a new version without refusing a connection |
//! | `telnet` | 4.14: `telnet::Telnet` (one character at a time), `telnet::Terminal` (a program on a pseudo-terminal) |
//! | `resolve` | 4.9, 4.10: `Names`, the client's name by DNS and /etc/hosts, confirmed, within a time limit |
//! | `tokio` | `Socket::into_tokio`, `AsyncListeners`; with `daemon`, `Signals::next`; with `restart`, `Serving::next` and `finished` |
//!
//! [`environment`] removes the variables that were meant for the server from the environment of its children.
//!
//! The package's `examples` are whole servers to begin from: `axum`, `web` (axum with time-outs and limits) and `hello`
//! (threads) for HTTP, `news` (NNTP), `sink` (SMTP), `chat` (tokio), `dns`, `daemon`, `terminal` and more.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod accept;
mod adopting;
mod binding;
mod client;
#[cfg(feature = "daemon")]
pub mod daemon;
mod error_queue;
mod failure;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod interfaces;
mod resolved;
#[cfg(feature = "restart")]
pub mod restart;
mod services;
mod serving;
#[cfg(feature = "telnet")]
pub mod telnet;

pub use accept::accept;
#[cfg(feature = "tokio")]
pub use adopting::TokioSocket;
pub use adopting::{Mailbox, Origin, Socket, Sockets, environment};
pub use binding::{Bind, Holder, HolderState, Process, Queue, Request, Server, helper, holders, listen};
#[cfg(feature = "resolve")]
pub use client::names::{self, Names, ReverseName};
pub use client::{CloseLimits, CloseOutcome, Connection, PeerClose, canonical, close_gracefully};
pub use client::{KeepAlive, Linger, StreamOptions, TcpInfo, TcpState};
#[cfg(feature = "daemon")]
pub use daemon::{Notify, Signal, Signals};
pub use failure::Error;
pub use portgrant_protocol::message::{Kind, Message};
pub use portgrant_protocol::socket_info::{Mismatch, SocketInfo};
pub use portgrant_protocol::{Endpoint, Protocol, endpoint, status};
pub use services::Services;
#[cfg(feature = "tokio")]
pub use serving::AsyncListeners;
pub use serving::{AddressChange, AddressedUdp, Arrival, Datagram, EachUdp, Event, Listeners, Stopper, steer_by_cpu};

/// The kinds of [`Error`]: one enum for each subject.
pub mod error {
    pub use crate::adopting::{AdoptionError, HandoverError, MailboxError, Refused, SocketError};
    pub use crate::binding::{BindError, RequestError};
    pub use crate::client::SocketOptionError;
    #[cfg(feature = "resolve")]
    pub use crate::client::names::NameServiceError;
    #[cfg(feature = "daemon")]
    pub use crate::daemon::DaemonError;
    pub use crate::failure::SystemError;
    pub use crate::resolved::InvalidEndpoint;
    #[cfg(feature = "restart")]
    pub use crate::restart::RestartError;
    pub use crate::services::ServicesError;
    pub use crate::serving::ListenerError;
    #[cfg(feature = "telnet")]
    pub use crate::telnet::TelnetError;
}

/// Compiles the code in README.md.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
