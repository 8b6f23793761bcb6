//! Sockets as types of tokio (feature `tokio`).

use std::net;

use ::tokio::net::{TcpListener, UdpSocket};

use super::socket::Socket;
use crate::failure::Error;

/// A type of tokio that [`Socket::into_tokio`] returns: `tokio::net::TcpListener` or `tokio::net::UdpSocket` (feature
/// `tokio`).
pub trait TokioSocket: Sized {
    #[doc(hidden)]
    fn of(socket: Socket) -> Result<Self, Error>;
}

impl Socket {
    /// As a listener or a udp socket of tokio, depending on the expected type. The socket becomes non-blocking.
    ///
    /// ```no_run
    /// # async fn serve() -> Result<(), portgrant_server::Error> {
    /// let https: tokio::net::TcpListener = portgrant_server::listen("https=443")?.into_tokio()?;
    /// let dns: tokio::net::UdpSocket = portgrant_server::listen("53/udp")?.into_tokio()?;
    /// # let _ = (https, dns);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`Socket::into_tcp`] and [`Socket::into_udp`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, or in a runtime without I/O.
    pub fn into_tokio<T: TokioSocket>(self) -> Result<T, Error> {
        T::of(self)
    }
}

impl TokioSocket for TcpListener {
    fn of(socket: Socket) -> Result<TcpListener, Error> {
        let listener: net::TcpListener = socket.into_tcp()?;
        let made = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        made.map_err(|source| Error::system("cannot use a listener with tokio", source))
    }
}

impl TokioSocket for UdpSocket {
    fn of(socket: Socket) -> Result<UdpSocket, Error> {
        let udp: net::UdpSocket = socket.into_udp()?;
        let made = udp.set_nonblocking(true).and_then(|()| UdpSocket::from_std(udp));
        made.map_err(|source| Error::system("cannot use a udp socket with tokio", source))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use ::tokio::net::TcpStream;

    use super::*;
    use crate::adopting::error::SocketError;

    fn socket(descriptor: impl Into<std::os::fd::OwnedFd>) -> Socket {
        Socket::new("web".to_owned(), descriptor.into())
    }

    #[::tokio::test]
    async fn a_socket_becomes_the_type_of_tokios_that_is_expected() -> io::Result<()> {
        // Blocking, as it was bound.
        let bound = net::TcpListener::bind("127.0.0.1:0")?;
        let address = bound.local_addr()?;
        let listener: TcpListener = socket(bound).into_tokio().expect("a listener");
        let (client, accepted) = ::tokio::join!(TcpStream::connect(address), listener.accept());
        assert_eq!(client?.local_addr()?, accepted?.1);

        let udp: UdpSocket = socket(net::UdpSocket::bind("127.0.0.1:0")?).into_tokio().expect("a udp socket");
        udp.send_to(b"hello", udp.local_addr()?).await?;
        assert_eq!(udp.recv_from(&mut [0; 8]).await?.0, 5);

        let error = socket(net::UdpSocket::bind("127.0.0.1:0")?).into_tokio::<TcpListener>().expect_err("it is udp");
        assert!(matches!(error.downcast_ref(), Some(SocketError::WrongKind { .. })), "{error}");
        Ok(())
    }
}
