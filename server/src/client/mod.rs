//! The client: who it is, how its connection is kept, and how it ends.

mod connection;
mod graceful_close;
#[cfg(feature = "resolve")]
pub mod names;
mod peer;
mod stream_options;
mod tcp_info;

pub use connection::Connection;
pub use graceful_close::{CloseLimits, CloseOutcome, PeerClose, close_gracefully};
pub use peer::canonical;
pub use stream_options::{KeepAlive, Linger, SocketOptionError, StreamOptions};
pub use tcp_info::{TcpInfo, TcpState};
