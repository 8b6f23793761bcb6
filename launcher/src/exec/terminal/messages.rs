//! The messages between relay and monitor: two bytes each, over a socket pair that only they have.

use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// From the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Start the program, or continue it after it was stopped
    Resume { foreground: bool },
    /// Send a signal that the relay received to the program or to its process group
    Send { signal: Signal, to: Recipient },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recipient {
    Program,
    Group,
}

/// From the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    Stopped(Signal),
    Ended(End),
}

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exited(u8),
    /// A number, since signals beyond 31 have no name
    Killed(u8),
}

/// The result of reading the channel.
pub(super) enum Received<T> {
    Message(T),
    Nothing,
    /// The other process has ended
    HungUp,
}

pub(super) fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

pub(super) trait Message: Sized {
    fn to_bytes(self) -> [u8; 2];
    fn from_bytes(bytes: [u8; 2]) -> Option<Self>;

    /// The buffer is never full: there are few messages, and the receiver always reads them.
    fn send(self, channel: &OwnedFd) {
        let _ = send(channel, &self.to_bytes(), SendFlags::NOSIGNAL);
    }

    fn receive(channel: &OwnedFd) -> Received<Self> {
        let mut bytes = [0; 2];
        match recv(channel, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((2, _)) => Self::from_bytes(bytes).map_or(Received::Nothing, Received::Message),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            Ok(_) | Err(_) => Received::HungUp,
        }
    }
}

impl Message for Order {
    fn to_bytes(self) -> [u8; 2] {
        match self {
            Order::Resume { foreground } => [0, u8::from(foreground)],
            Order::Send { signal, to: Recipient::Program } => [1, number(signal)],
            Order::Send { signal, to: Recipient::Group } => [2, number(signal)],
        }
    }

    fn from_bytes(bytes: [u8; 2]) -> Option<Order> {
        match bytes {
            [0, foreground] => Some(Order::Resume { foreground: foreground != 0 }),
            [1, number] => named(number).map(|signal| Order::Send { signal, to: Recipient::Program }),
            [2, number] => named(number).map(|signal| Order::Send { signal, to: Recipient::Group }),
            _ => None,
        }
    }
}

impl Message for Report {
    fn to_bytes(self) -> [u8; 2] {
        match self {
            Report::Stopped(signal) => [0, number(signal)],
            Report::Ended(End::Exited(status)) => [1, status],
            Report::Ended(End::Killed(number)) => [2, number],
        }
    }

    fn from_bytes(bytes: [u8; 2]) -> Option<Report> {
        match bytes {
            [0, number] => named(number).map(Report::Stopped),
            [1, status] => Some(Report::Ended(End::Exited(status))),
            [2, number] => Some(Report::Ended(End::Killed(number))),
            _ => None,
        }
    }
}

fn number(signal: Signal) -> u8 {
    // 1 to 31.
    (signal as i32).to_le_bytes()[0]
}

fn named(number: u8) -> Option<Signal> {
    Signal::try_from(i32::from(number)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_received_as_it_was_sent() {
        let (relays, monitors) = channel().expect("a pair");
        for signal in Signal::iterator() {
            for order in [
                Order::Send { signal, to: Recipient::Program },
                Order::Send { signal, to: Recipient::Group },
                Order::Resume { foreground: true },
                Order::Resume { foreground: false },
            ] {
                order.send(&relays);
                assert!(matches!(Order::receive(&monitors), Received::Message(received) if received == order));
            }
        }
        for end in [End::Exited(0), End::Exited(255), End::Killed(9), End::Killed(64)] {
            Report::Ended(end).send(&monitors);
            assert!(matches!(Report::receive(&relays), Received::Message(Report::Ended(received)) if received == end));
        }
        assert!(matches!(Report::receive(&relays), Received::Nothing));
        drop(monitors);
        assert!(matches!(Report::receive(&relays), Received::HungUp));
    }
}
