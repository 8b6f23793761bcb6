//! A running server's own Unix socket, to which somebody sends one more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use portgrant_protocol::record::Reply;
use portgrant_protocol::transfer::{self, TransferError};
use portgrant_protocol::{Kind, Message};
use rustix::net::{SendFlags, send, sockopt};

use super::handover::{HandoverError, Refused, pair};
use super::socket_file::{NotBound, SocketFile, Stranger, stranger};
use super::sockets::Sockets;
use crate::accept::PAUSE;
use crate::failure::{Error, Report, failure, shown};

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
            Err(NotBound::Occupied(by)) => Err(MailboxError::Occupied { path, by }.into()),
            Err(NotBound::System(source)) => Err(MailboxError::Unusable { path, source }.into()),
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
        let asked = stranger(peer.as_fd());
        if let Some(Stranger { uid, own }) =
            asked.map_err(|source| Error::system("cannot identify the peer", source))?
        {
            return Err(MailboxError::ForeignPeer { uid, own }.into());
        }
        let limit = Some(self.patience).filter(|patience| !patience.is_zero());
        sockopt::set_socket_timeout(peer, sockopt::Timeout::Recv, limit)
            .map_err(|errno| Error::system("cannot set a time limit for a peer", errno))?;
        let (record, descriptors) = match transfer::receive(peer.as_fd()) {
            Err(TransferError::System(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(MailboxError::SilentPeer { patience: self.patience }.into());
            }
            received => received.map_err(HandoverError::Transfer)?,
        };
        match Reply::parse(&record).map_err(HandoverError::Record)? {
            Reply::Granted { names } => Ok(pair(names, descriptors)?.into_iter().collect()),
            Reply::Failed(message) => Err(Refused(message).into()),
        }
    }
}

/// Why a mailbox received nothing
#[derive(Debug)]
#[non_exhaustive]
pub enum MailboxError {
    /// Its file could not be made or used
    Unusable {
        /// Where
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// There is something at its path that is not to be replaced
    Occupied {
        /// Where
        path: PathBuf,
        /// What it is
        by: &'static str,
    },
    /// A peer of another user came
    ForeignPeer {
        /// Its effective uid
        uid: u32,
        /// This server's effective uid
        own: u32,
    },
    /// A peer came and said nothing
    SilentPeer {
        /// How long it was waited for
        patience: Duration,
    },
}

impl MailboxError {
    pub(super) fn report(&self) -> Report<'_> {
        match self {
            MailboxError::Unusable { path, source } => Report::what(format!("cannot use {} as a mailbox", shown(path)))
                .because(source)
                .fix("check that the folder exists and that this user may write to it"),
            MailboxError::Occupied { path, by } => Report::what(format!("cannot create a mailbox at {}", shown(path)))
                .why(format!("the path is {by}"))
                .fix("choose another path, or stop the program that uses this one"),
            MailboxError::ForeignPeer { uid, own } => {
                Report::what(format!("a message from uid {uid} to the mailbox was rejected"))
                    .why(format!("only uid {own} and root may send sockets"))
                    .fix("send the sockets as the user of the server")
            }
            MailboxError::SilentPeer { patience } => {
                Report::what(format!("a peer of the mailbox sent nothing for {} seconds", patience.as_secs_f32()))
            }
        }
    }
}

failure!(MailboxError);

/// Best effort, and without waiting. It may be gone (no SIGPIPE for that).
fn answer(peer: &OwnedFd, received: &Result<Sockets, Error>) {
    let reply = match received {
        Ok(sockets) => Reply::Granted { names: sockets.names().map(str::to_owned).collect() },
        Err(error) => {
            let message = error.message();
            let is_foreign = matches!(error.downcast_ref(), Some(MailboxError::ForeignPeer { .. }));
            let refused = |message| Message { kind: Kind::Refused, status: Kind::Refused.status(), ..message };
            Reply::Failed(if is_foreign { refused(message) } else { message })
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
