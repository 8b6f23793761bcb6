//! A running server's own Unix socket, to which somebody sends one more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use portgrant_protocol::record::{Refusal, Reply};
use portgrant_protocol::status;
use portgrant_protocol::transfer::{self, TransferError};
use rustix::net::{SendFlags, send, sockopt};

use crate::accept::PAUSE;
use crate::error::MailboxError;
use crate::socket_file::{self, Failure, SocketFile};
use crate::{Error, Message, Sockets, request};

/// How long a peer may keep its conversation silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket file at which this server takes further sockets, from its own user and from root.
///
/// Whoever holds some (`portgrant pass --to`, or `portgrant-binder pass --to` with a connection to this file) sends one
/// record and the descriptors with it, and gets a record as an answer. The file is made with mode 0600 and removed when the mailbox is dropped.
///
/// ```no_run
/// # use portgrant_server::Mailbox;
/// let mailbox = Mailbox::bind("/run/user/1000/my-server.sock")?;
/// loop {
///     match mailbox.receive() {
///         Ok(sockets) => {
///             for socket in sockets {
///                 let listener = socket.into_tcp()?; // serve on it as well
/// #               let _ = listener;
///             }
///         }
///         Err(error) => eprintln!("{error}"), // that peer's affair; the next one is welcome
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), portgrant_server::Error>(())
/// ```
#[derive(Debug)]
pub struct Mailbox {
    file: SocketFile,
    patience: Duration,
}

impl Mailbox {
    /// Makes the socket file. One that a server left behind when it died is replaced; one that is answered, and
    /// whatever else is at `path`, is left alone and an error.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Mailbox, Error> {
        let path = path.into();
        match SocketFile::bind(path.clone()) {
            Ok(file) => Ok(Mailbox { file, patience: PATIENCE }),
            Err(Failure::Occupied(by)) => Err(MailboxError::Occupied { path, by }.into()),
            Err(Failure::System(source)) => Err(MailboxError::Unusable { path, source }.into()),
        }
    }

    /// Gives each peer `patience` to speak, instead of five seconds. Zero is no limit.
    pub fn patience(mut self, patience: Duration) -> Mailbox {
        self.patience = patience;
        self
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits for the next peer and receives what it sends. To wait for other things as well, poll(2) the mailbox: it is
    /// readable when a peer is there.
    ///
    /// A peer of another user (root aside) is turned away before a byte of it is read, and one that says nothing is not
    /// waited for any longer than a few seconds. After an error the mailbox goes on as before.
    ///
    /// The peer is told what became of it: a record with the names that were taken, or one with the reason. One that does
    /// not wait for it misses nothing.
    pub fn receive(&self) -> Result<Sockets, Error> {
        let failed = |source| MailboxError::Unusable { path: self.path().to_owned(), source };
        let peer = self.file.accept().map_err(|errno| {
            // Out of descriptors, most likely. The next call would fail at once, and servers call it in a loop.
            thread::sleep(PAUSE);
            failed(errno.into())
        })?;
        let received = self.take_from(&peer);
        answer(&peer, &received);
        received
    }

    fn take_from(&self, peer: &OwnedFd) -> Result<Sockets, Error> {
        socket_file::admit(peer.as_fd())?;
        let limit = Some(self.patience).filter(|patience| !patience.is_zero());
        sockopt::set_socket_timeout(peer, sockopt::Timeout::Recv, limit)
            .map_err(|errno| Error::System { what: "cannot limit the time of a peer", source: errno.into() })?;
        let (record, descriptors) = match transfer::receive(peer.as_fd()) {
            Err(TransferError::System(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(MailboxError::SilentPeer { patience: self.patience }.into());
            }
            received => received.map_err(Error::Transfer)?,
        };
        match Reply::parse(&record).map_err(Error::Record)? {
            Reply::Granted { names } => Ok(request::pair(names, descriptors)?.into_iter().collect()),
            Reply::Refused(refusal) => Err(Error::Refused(refusal)),
        }
    }
}

/// Best effort, and without waiting. It may be gone (no SIGPIPE for that).
fn answer(peer: &OwnedFd, received: &Result<Sockets, Error>) {
    let reply = match received {
        Ok(sockets) => Reply::Granted { names: sockets.names().map(str::to_owned).collect() },
        Err(error) => {
            let Message { what, why, fix } = error.message();
            let why = why.map_or_else(|| what.clone(), |why| format!("{what}: {why}"));
            let is_foreign = matches!(error, Error::Mailbox(MailboxError::ForeignPeer { .. }));
            let status = if is_foreign { status::REFUSED } else { error.status() };
            Reply::Refused(Refusal { status, why, fix, rule: None, program: None })
        }
    };
    if let Ok(record) = reply.encode() {
        let _ = send(peer, &record, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
