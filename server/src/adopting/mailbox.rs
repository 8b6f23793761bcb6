//! The Unix socket of a running server, to which another program sends further sockets.

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
use super::socket_file::{NotBound, SocketFile, Stranger, find_stranger};
use super::sockets::Sockets;
use crate::accept::PAUSE;
use crate::failure::{Error, Report, failure, shown};

/// How long a peer may stay silent.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A socket file at which this server accepts further sockets from its own user and from root.
///
/// The sender (`portgrant pass --to`, or `portgrant-binder pass --to` with a connection to this file) sends one record
/// with the descriptors, and receives a record as the answer. The file has mode 0600, and is removed when the mailbox
/// is dropped.
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
///         Err(error) => eprintln!("{error}"), // an error of this peer; the next one is served
///     }
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), portgrant_server::Error>(())
/// ```
#[derive(Debug)]
pub struct Mailbox {
    file: SocketFile,
    time_limit: Duration,
}

impl Mailbox {
    /// Creates the socket file. A file that a dead server left behind is replaced. A socket that another process uses,
    /// or any other file at `path`, is left unchanged and is an error.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Mailbox, Error> {
        let path = path.into();
        match SocketFile::bind(path.clone()) {
            Ok(file) => Ok(Mailbox { file, time_limit: TIME_LIMIT }),
            Err(NotBound::Occupied(by)) => Err(MailboxError::Occupied { path, by }.into()),
            Err(NotBound::System(source)) => Err(MailboxError::Unusable { path, source }.into()),
        }
    }

    /// Waits for each peer for `time_limit` instead of five seconds. Zero means no limit.
    pub fn time_limit(mut self, time_limit: Duration) -> Mailbox {
        self.time_limit = time_limit;
        self
    }

    /// The path of its file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits for the next peer and receives its sockets. To wait for other events as well, poll(2) the mailbox: it is
    /// readable when a peer has connected.
    ///
    /// A peer of another user (except root) is rejected before anything is read from it. A silent peer delays the
    /// server by a few seconds only. The mailbox can be used again after an error.
    ///
    /// The peer receives an answer: a record with the names of the sockets, or with the reason why they were not
    /// accepted. It need not wait for the answer.
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
        let asked = find_stranger(peer.as_fd());
        if let Some(Stranger { uid, own }) =
            asked.map_err(|source| Error::system("cannot identify the peer", source))?
        {
            return Err(MailboxError::ForeignPeer { uid, own }.into());
        }
        let limit = Some(self.time_limit).filter(|time_limit| !time_limit.is_zero());
        sockopt::set_socket_timeout(peer, sockopt::Timeout::Recv, limit)
            .map_err(|errno| Error::system("cannot set a time limit for a peer", errno))?;
        let (record, descriptors) = match transfer::receive(peer.as_fd()) {
            Err(TransferError::System(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(MailboxError::SilentPeer { time_limit: self.time_limit }.into());
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
    /// The socket file could not be created or used
    Unusable {
        /// Its path
        path: PathBuf,
        /// Why it failed
        source: io::Error,
    },
    /// The path is in use by something that must not be replaced
    Occupied {
        /// The path
        path: PathBuf,
        /// What is there
        by: &'static str,
    },
    /// A peer of another user connected
    ForeignPeer {
        /// Its effective uid
        uid: u32,
        /// This server's effective uid
        own: u32,
    },
    /// A peer connected and sent nothing
    SilentPeer {
        /// How long the mailbox waited
        time_limit: Duration,
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
            MailboxError::SilentPeer { time_limit } => {
                Report::what(format!("a peer of the mailbox sent nothing for {} seconds", time_limit.as_secs_f32()))
            }
        }
    }
}

failure!(MailboxError);

/// Sends the answer if it can, without waiting. The peer may have disconnected (so no SIGPIPE).
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
