//! A socket file: a listening Unix socket that only its own user and root can reach.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::fs::{CWD, Mode, RenameFlags, fchmod, renameat_with};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

/// How many peers may wait to be accepted.
const BACKLOG: i32 = 8;

/// A listening SOCK_SEQPACKET socket at a path, with mode 0600.
#[derive(Debug)]
pub(crate) struct SocketFile {
    socket: OwnedFd,
    path: PathBuf,
    file: Identity,
    /// Whether the file is removed with this value
    is_ours: bool,
}

/// Why the socket file was not created. The caller knows what to call it.
#[derive(Debug)]
pub(crate) enum NotBound {
    /// The path is in use by something that must not be replaced
    Occupied(&'static str),
    /// A system call failed
    System(io::Error),
}

impl From<Errno> for NotBound {
    fn from(errno: Errno) -> NotBound {
        NotBound::System(errno.into())
    }
}

impl SocketFile {
    /// Creates it. A file that a dead server left behind is replaced. A socket that another process uses, or any other
    /// file at `path`, is left unchanged.
    pub(crate) fn bind(path: PathBuf) -> Result<SocketFile, NotBound> {
        let address = SocketAddrUnix::new(&path)?;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // bind(2) gives the file the mode of the socket (less the umask), so that it is never wider for a moment.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_dead(&path, &address)?;
                bind(&socket, &address)?;
            }
            bound => bound?,
        }
        let file = Identity::of(&path).map_err(NotBound::System)?;
        let made = SocketFile { socket, path, file, is_ours: true };
        listen(&made.socket, BACKLOG)?;
        Ok(made)
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A socket that another process created and passed to this one. The file still belongs to that process.
    #[cfg(feature = "restart")]
    pub(crate) fn of(path: PathBuf, file: Identity, socket: OwnedFd) -> SocketFile {
        SocketFile { socket, path, file, is_ours: false }
    }

    /// Removes the file with this value.
    #[cfg(feature = "restart")]
    pub(crate) fn own(&mut self) {
        self.is_ours = true;
    }

    /// Which file it is.
    #[cfg(feature = "restart")]
    pub(crate) fn identity(&self) -> Identity {
        self.file
    }

    /// Leaves the file to a process that also holds the socket.
    #[cfg(feature = "restart")]
    pub(crate) fn leave(mut self) {
        self.is_ours = false;
    }

    /// Waits for the next peer.
    pub(crate) fn accept(&self) -> Result<OwnedFd, Errno> {
        loop {
            match accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                accepted => return accepted,
            }
        }
    }
}

/// A peer that is neither this process's own user nor root. Those two have full control of this process anyway.
pub(crate) struct Stranger {
    /// The peer's effective uid
    pub(crate) uid: u32,
    /// This process's effective uid
    pub(crate) own: u32,
}

/// What is known of `peer` if it is a stranger.
pub(crate) fn find_stranger(peer: BorrowedFd<'_>) -> io::Result<Option<Stranger>> {
    let uid = getsockopt(&peer, PeerCredentials)?.uid();
    let own = rustix::process::geteuid().as_raw();
    Ok((!is_admitted(uid, own)).then_some(Stranger { uid, own }))
}

fn is_admitted(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

impl AsFd for SocketFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for SocketFile {
    /// Removes the file, if it is still the same file: a successor may have created its own.
    fn drop(&mut self) {
        if self.is_ours && Identity::of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The identity of a file, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

impl Identity {
    pub(crate) fn of(path: &Path) -> io::Result<Identity> {
        fs::symlink_metadata(path).map(|metadata| Identity::from(&metadata))
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Removes the socket file of a dead server, and nothing else.
fn remove_dead(path: &Path, address: &SocketAddrUnix) -> Result<(), NotBound> {
    let metadata = fs::symlink_metadata(path).map_err(NotBound::System)?;
    if !metadata.file_type().is_socket() {
        return Err(NotBound::Occupied("not a socket"));
    }
    // Non-blocking: a server that holds the socket but accepts nothing must not block this process.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    match probe.and_then(|probe| connect(&probe, address)) {
        Err(Errno::CONNREFUSED) => {}
        _ => return Err(NotBound::Occupied("a socket that another process uses")),
    }
    // Another server may have removed the file and created its own. Only the very file that did not answer may be
    // removed.
    let mut moved = path.as_os_str().to_owned();
    moved.push(format!(".{}", std::process::id()));
    let moved = PathBuf::from(moved);
    let rename = |from: &Path, to: &Path| renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE);
    rename(path, &moved)?;
    if Identity::of(&moved).is_ok_and(|file| file == Identity::from(&metadata)) {
        return fs::remove_file(&moved).map_err(NotBound::System);
    }
    let _ = rename(&moved, path);
    Err(NotBound::Occupied("a socket that another process has just created"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_user_and_root_are_admitted() {
        for (peer, own, expected) in [(1000, 1000, true), (0, 1000, true), (1001, 1000, false), (1000, 0, false)] {
            assert_eq!(is_admitted(peer, own), expected, "uid {peer} to uid {own}");
        }
    }
}
