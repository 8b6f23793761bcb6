//! The client: who it is, how its connection is kept, and how it ends.

mod graceful_close;
#[cfg(feature = "resolve")]
pub mod names;
mod peer;
mod stream_options;
mod tcp_info;

pub use graceful_close::{Farewell, Patience, Peer, close_gracefully};
pub use peer::canonical;
pub use stream_options::{KeepAlive, Linger, SocketOptionError, StreamOptions};
pub use tcp_info::{TcpInfo, TcpState};
