//! Receiving. The privileged helper only sends, and is built without this.
//!
//! Every descriptor is received close-on-exec and owned at once, so that none can leak whatever happens next. A record
//! or a list of descriptors that was truncated is the end of the conversation.

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

/// Two connected sockets of the kind that records travel over, both close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Receives one record and the descriptors that came with it, at most [`listen::MAX`], each close-on-exec.
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
