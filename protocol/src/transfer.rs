//! Sends a record and descriptors as one message over a Unix socket (SOCK_SEQPACKET, SCM_RIGHTS; see unix(7)).

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, getpeername, sendmsg, sockopt,
};

use crate::errno::Described;
use crate::listen;

#[cfg(any(test, feature = "client"))]
mod receiving;

#[cfg(any(test, feature = "client"))]
pub use receiving::{pair, receive};

/// Checks that records can be sent over `socket`: a connected Unix socket of type SOCK_SEQPACKET.
pub fn check(socket: BorrowedFd<'_>) -> Result<(), TransferError> {
    let unix = sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX);
    let seqpacket = sockopt::socket_type(socket) == Ok(SocketType::SEQPACKET);
    if unix && seqpacket && getpeername(socket).is_ok() { Ok(()) } else { Err(TransferError::NotAConversation) }
}

/// Sends `record` and `descriptors` as one message. If the peer is gone, that is an error without SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, record: &[u8], descriptors: &[OwnedFd]) -> Result<(), TransferError> {
    send_with(socket, record, descriptors, SendFlags::NOSIGNAL)
}

/// Sends `record` alone and never waits: if the socket buffer is full, that is an error.
pub fn send_now(socket: BorrowedFd<'_>, record: &[u8]) -> Result<(), TransferError> {
    send_with(socket, record, &[], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
}

fn send_with(
    socket: BorrowedFd<'_>,
    record: &[u8],
    descriptors: &[OwnedFd],
    flags: SendFlags,
) -> Result<(), TransferError> {
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(listen::MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(TransferError::Truncated);
    }
    let sent = loop {
        match sendmsg(socket, &[IoSlice::new(record)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other.map_err(TransferError::System)?,
        }
    };
    if sent == record.len() { Ok(()) } else { Err(TransferError::Truncated) }
}

/// Why a record and its descriptors could not be sent or received.
#[derive(Debug)]
pub enum TransferError {
    /// Not a connected Unix socket of type SOCK_SEQPACKET
    NotAConversation,
    /// The record was too long, or descriptors were lost (RLIMIT_NOFILE, or more than 253)
    Truncated,
    /// The other side is gone
    Ended,
    /// A system call failed
    System(Errno),
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransferError::NotAConversation => f.write_str("not a connected Unix socket of type SOCK_SEQPACKET"),
            TransferError::Truncated => {
                f.write_str("the record was too long, or descriptors were lost (is RLIMIT_NOFILE too low?)")
            }
            TransferError::Ended => f.write_str("the other side ended the conversation"),
            TransferError::System(errno) => Described(*errno).fmt(f),
        }
    }
}

impl core::error::Error for TransferError {}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixDatagram;

    use sendfd::SendWithFd;

    use super::*;
    use crate::record::MAX_LEN;

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("/dev/null").into()
    }

    #[test]
    fn descriptors_arrive_owned_and_close_on_exec() {
        let (ours, theirs) = pair().expect("socketpair");
        assert!(check(ours.as_fd()).is_ok());
        send(theirs.as_fd(), b"hello", &[null(), null()]).expect("sent");
        let (record, descriptors) = receive(ours.as_fd()).expect("received");
        assert_eq!((record.as_slice(), descriptors.len()), (b"hello".as_slice(), 2));
        for descriptor in &descriptors {
            let flags = rustix::io::fcntl_getfd(descriptor).expect("open");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn descriptors_of_a_peer_that_uses_another_library_arrive_as_well() {
        let (ours, theirs) = pair().expect("socketpair");
        // sendfd needs std's types, so this is a UnixDatagram: sendmsg(2) is the same for both types of socket.
        let sent = UnixDatagram::from(theirs).send_with_fd(b"hello", &[null().as_raw_fd()]).expect("sent");
        let (record, descriptors) = receive(ours.as_fd()).expect("received");
        assert_eq!((sent, record.as_slice(), descriptors.len()), (5, b"hello".as_slice(), 1));
    }

    #[test]
    fn a_record_that_has_no_room_is_an_error_and_nobody_waits() {
        let (ours, theirs) = pair().expect("socketpair");
        let error = loop {
            if let Err(error) = send_now(theirs.as_fd(), &[b'x'; MAX_LEN]) {
                break error;
            }
        };
        assert!(matches!(error, TransferError::System(Errno::AGAIN)), "{error}");
        assert!(receive(ours.as_fd()).is_ok_and(|(record, _)| record.len() == MAX_LEN));
    }

    #[test]
    fn a_truncated_record_and_an_ended_connection_are_errors() {
        let (ours, theirs) = pair().expect("socketpair");
        send(theirs.as_fd(), &[b'x'; MAX_LEN + 1], &[null()]).expect("sent");
        assert!(matches!(receive(ours.as_fd()), Err(TransferError::Truncated)));
        send(theirs.as_fd(), &[b'x'; MAX_LEN], &[]).expect("sent");
        assert!(
            receive(ours.as_fd()).is_ok_and(|(record, descriptors)| record.len() == MAX_LEN && descriptors.is_empty())
        );
        drop(theirs);
        assert!(matches!(receive(ours.as_fd()), Err(TransferError::Ended)));
    }

    #[test]
    fn only_a_connected_seqpacket_socket_carries_records() {
        let (datagram, _other) = UnixDatagram::pair().expect("pair");
        for wrong in [null(), OwnedFd::from(datagram)] {
            assert!(matches!(check(wrong.as_fd()), Err(TransferError::NotAConversation)));
        }
        let unconnected = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("socket");
        assert!(matches!(check(unconnected.as_fd()), Err(TransferError::NotAConversation)));
    }
}
