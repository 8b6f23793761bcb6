//! A running server's own Unix socket, to which somebody sends one more.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use portgrant_protocol::record::{Refusal, Reply};
use portgrant_protocol::status;
use portgrant_protocol::transfer::{self, TransferError};
use rustix::fs::{CWD, Mode, RenameFlags, fchmod, renameat_with};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, send,
    socket_with, sockopt,
};

use crate::{Error, Message, Sockets, request};

/// How long a peer may keep its conversation silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Peers that may wait for their turn.
const BACKLOG: i32 = 8;

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
    socket: OwnedFd,
    path: PathBuf,
    file: Identity,
    patience: Duration,
}

impl Mailbox {
    /// Makes the socket file. One that a server left behind when it died is replaced; one that is answered, and
    /// whatever else is at `path`, is left alone and an error.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Mailbox, Error> {
        let path = path.into();
        let failed = |errno: Errno| Error::Mailbox { path: path.clone(), source: errno.into() };
        let address = SocketAddrUnix::new(&path).map_err(failed)?;
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(failed)?;
        // The mode of the socket is the mode that bind(2) gives the file (less the umask): it is never wider for a
        // moment.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_dead(&path, &address)?;
                bind(&socket, &address).map_err(failed)?;
            }
            bound => bound.map_err(failed)?,
        }
        let file = Identity::of(&path).map_err(|source| Error::Mailbox { path: path.clone(), source })?;
        let mailbox = Mailbox { socket, path, file, patience: PATIENCE };
        listen(&mailbox.socket, BACKLOG)
            .map_err(|errno| Error::Mailbox { path: mailbox.path.clone(), source: errno.into() })?;
        Ok(mailbox)
    }

    /// Gives each peer `patience` to speak, instead of five seconds. Zero is no limit.
    pub fn patience(mut self, patience: Duration) -> Mailbox {
        self.patience = patience;
        self
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.path
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
        let peer = self.accept()?;
        let received = self.take_from(&peer);
        answer(&peer, &received);
        received
    }

    fn take_from(&self, peer: &OwnedFd) -> Result<Sockets, Error> {
        let credentials = getsockopt(peer, PeerCredentials)
            .map_err(|errno| Error::System { what: "cannot tell who the peer is", source: errno.into() })?;
        let own = rustix::process::geteuid().as_raw();
        if !may_send(credentials.uid(), own) {
            return Err(Error::ForeignPeer { uid: credentials.uid(), own });
        }
        let limit = Some(self.patience).filter(|patience| !patience.is_zero());
        sockopt::set_socket_timeout(peer, sockopt::Timeout::Recv, limit)
            .map_err(|errno| Error::System { what: "cannot limit the time of a peer", source: errno.into() })?;
        let (record, descriptors) = match transfer::receive(peer.as_fd()) {
            Err(TransferError::System(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(Error::SilentPeer { patience: self.patience });
            }
            received => received.map_err(Error::Transfer)?,
        };
        match Reply::parse(&record).map_err(Error::Record)? {
            Reply::Granted { names } => Ok(request::pair(names, descriptors)?.into_iter().collect()),
            Reply::Refused(refusal) => Err(Error::Refused(refusal)),
        }
    }

    fn accept(&self) -> Result<OwnedFd, Error> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                accepted => {
                    return accepted.map_err(|errno| Error::Mailbox { path: self.path.clone(), source: errno.into() });
                }
            }
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
            let status = if matches!(error, Error::ForeignPeer { .. }) { status::REFUSED } else { error.status() };
            Reply::Refused(Refusal { status, why, fix, rule: None, program: None })
        }
    };
    if let Ok(record) = reply.encode() {
        let _ = send(peer, &record, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }
}

/// Whoever could do to the server what they like anyway.
fn may_send(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Mailbox {
    /// Removes the file, if it is still the one that was made here: a successor may have put its own there.
    fn drop(&mut self) {
        if Identity::of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Identity> {
        fs::symlink_metadata(path).map(|metadata| Identity::from(&metadata))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Removes the socket file of a server that is gone, and nothing else.
fn remove_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), Error> {
    let occupied = |by| Error::MailboxOccupied { path: path.to_owned(), by };
    let failed = |source| Error::Mailbox { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.file_type().is_socket() {
        return Err(occupied("something that is no socket"));
    }
    // Not blocking: a server that holds it and accepts nothing must not hold us.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    match probe.and_then(|probe| connect(&probe, address)) {
        Err(Errno::CONNREFUSED) => {}
        _ => return Err(occupied("a socket that somebody holds")),
    }
    // Another server may have come to the same conclusion and be there already: what is taken out of the way must be
    // the very file that did not answer.
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let aside = PathBuf::from(aside);
    let rename = |from: &Path, to: &Path| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    rename(path, &aside).map_err(|errno| failed(errno.into()))?;
    if Identity::of(&aside).is_ok_and(|file| file == Identity::from(&metadata)) {
        return fs::remove_file(&aside).map_err(failed);
    }
    let _ = rename(&aside, path);
    Err(occupied("a socket that somebody made just now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_user_and_root_may_send() {
        for (peer, own, expected) in [(1000, 1000, true), (0, 1000, true), (1001, 1000, false), (1000, 0, false)] {
            assert_eq!(may_send(peer, own), expected, "uid {peer} to uid {own}");
        }
    }
}
