//! Receiving. The privileged helper only sends, so it is built without this module.
//!
//! Every descriptor is received close-on-exec and owned at once, so that none can leak. If the record or the list of
//! descriptors was truncated, that is an error.

use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use super::TransferError;
use crate::listen;
use crate::record::MAX_LEN;

/// Two connected sockets for records, both close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Receives one record and its descriptors, at most [`listen::MAX`], each close-on-exec.
pub fn receive(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), TransferError> {
    let mut bytes = vec![0; MAX_LEN];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(listen::MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.map_err(TransferError::System)?,
        }
    };
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(TransferError::Truncated);
    }
    if received.bytes == 0 {
        return Err(TransferError::Ended);
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}
