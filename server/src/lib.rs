//! Serve on ports below 1024 without ever being root.
//!
//! One call gets a socket, as a type of the standard library:
//!
//! ```no_run
//! let https: std::net::TcpListener = portgrant_server::listen("https=443")?.into_tcp()?;
//! # Ok::<(), portgrant_server::Error>(())
//! ```
//!
//! It adopts the inherited one of that name or address, else binds it itself where it may, else asks the helper; see
//! [`Server`]. Each of these can be had by itself as well:
//! A server gets its sockets in one of these ways, and takes each by its name, as a type of the standard library:
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
//! | bind(2) by this process, where everybody may | [`Bind`] |
//! | a variable of some program's own, `UNICORN_FD=3,4` | [`Sockets::from_variable`] |
//! | descriptor 0, as inetd's `wait` services have it | [`Sockets::inetd`] |
//! | descriptor 0, as inetd's `nowait` services have it: one connection | [`Connection::inetd`] |
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
//! What chapter 4 of the Unix socket FAQ asks:
//!
//! | question | answer |
//! |---|---|
//! | 4.1 Address already in use: by whom, for how long? | [`BindError::InUse`](error::BindError::InUse) says it, [`holders`] |
//! | 4.2 Why do sockets not close; how does a connection end without losing the last answer? | [`close_gracefully`], [`TcpInfo`] |
//! | 4.4 How does one listen on several ports at once? | [`Listeners`]; with the feature `tokio`, `AsyncListeners`; a thread a port: [`accept`] |
//! | 4.5, 4.12 Which of SO_REUSEADDR and SO_REUSEPORT; can another user take the port? | [`Bind`] sets what is safe, and then nobody can |
//! | 4.5 How do several workers share a port? | [`Server::group`], [`steer_by_cpu`] |
//! | 4.6, 4.7 How are linger, keep-alive and user time-out set? | [`StreamOptions`] |
//! | 4.8 How does an ordinary user serve on a port below 1024? | [`listen`], [`Server`] |
//! | 4.9, 4.10 Who is the client, and what is its name? | [`Connection::peer`], [`canonical`]; with the feature `resolve`, `Names` |
//! | 4.11 How is a port number chosen? | [`Services`]: the user decides, then services(5), then the server |
//! | 4.13 How does one serve udp on a multi-homed host? | [`AddressedUdp`] on one socket, or [`EachUdp`] on one an address |
//!
//! Further wishes are features, none of them a default:
//!
//! | feature | what it gives |
//! |---|---|
//! | `daemon` | 4.3: `daemon::Daemon` (background, pid file, exit status 0 means that it is up), `Signals`, `Notify` |
//! | `restart` | `restart::Generation`: a server replaces itself with a new version, and refuses no connection meanwhile |
//! | `telnet` | 4.14: `telnet::Telnet` (one character at a time), `telnet::Terminal` (a program on a pseudo-terminal) |
//! | `resolve` | 4.9, 4.10: `Names`, the client's name by DNS and /etc/hosts, confirmed forwards, within a time limit |
//! | `tokio` | `AsyncListeners`; with `daemon`, `Signals::next` as a future; with `restart`, `Serving::next`, `finished` |
//!
//! [`environment`] keeps what was meant for the server from its children.
//!
//! The package's `examples` are whole servers to begin from: `web` (axum) and `hello` (threads) for HTTP, `news` (NNTP),
//! `sink` (SMTP), `chat` (tokio, a name a port), `dns`, `daemon`, `terminal` and more.
//!
//! Without `tokio` there is no async code here: `set_nonblocking(true)` and `tokio::net::TcpListener::from_std` make one of tokio's.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod accept;
mod adopting;
mod binding;
mod client;
#[cfg(feature = "daemon")]
pub mod daemon;
mod descriptor;
mod error_queue;
mod failure;
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
pub use binding::{Bind, Holder, HolderState, Process, Request, Server, helper, holders, listen};
#[cfg(feature = "resolve")]
pub use client::names::{self, Names, ReverseName};
pub use client::{CloseLimits, CloseOutcome, Connection, PeerClose, canonical, close_gracefully};
pub use client::{KeepAlive, Linger, StreamOptions, TcpInfo, TcpState};
#[cfg(feature = "daemon")]
pub use daemon::{Notify, Signal, Signals};
pub use failure::Error;
pub use portgrant_protocol::message::{Kind, Message};
pub use portgrant_protocol::socket::{Facts as SocketInfo, Mismatch};
pub use portgrant_protocol::{Endpoint, Protocol, endpoint, status};
pub use services::Services;
#[cfg(feature = "tokio")]
pub use serving::AsyncListeners;
pub use serving::{AddressChange, AddressedUdp, Arrival, Datagram, EachUdp, Event, Listeners, Stopper, steer_by_cpu};

/// The kinds of [`Error`]: an enum for each subject, with all that a program can do something about.
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

/// The code in README.md compiles.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
