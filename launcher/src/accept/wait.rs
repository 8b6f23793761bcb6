//! Udp sockets like a `wait` service of inetd: a program has the socket until it ends; then the loop waits for the next
//! datagram.

use std::os::fd::AsFd;
use std::time::Instant;

use log::debug;
use portgrant_server::Message;
use rustix::event::epoll::{self, EventFlags};

use super::datagrams::{Afterwards, Look};
use super::notices::Kind;
use super::supervisor::Supervisor;
use super::table::Service;
use super::wake::Wake;

impl Supervisor {
    pub(super) fn serve_datagrams(&mut self, number: usize) {
        let Some(socket) = self.datagrams.get_mut(number).filter(|socket| socket.is_awaited()) else { return };
        let look = socket.look(Instant::now());
        if look == Look::Nothing {
            return;
        }
        // While a program has the socket, or during a delay, its events are not for this loop.
        let _ = epoll::delete(&self.epoll, &*socket);
        if let Look::Rest(rest) = look {
            return debug!("{} has errors alone, and rests for {} ms", socket.name(), rest.as_millis());
        }
        match self.program.start(socket.as_fd(), Vec::new(), &[]) {
            Ok(pid) => {
                debug!("pid {pid} serves {}", socket.name());
                self.table.add(pid, Service::Datagrams(number));
                self.newest.push(pid);
            }
            Err(errno) => {
                if socket.ended(Instant::now()) == Afterwards::Wait {
                    self.await_datagram(number);
                }
                self.cannot_start(errno);
            }
        }
    }

    pub(super) fn datagrams_ended(&mut self, number: usize) {
        let now = Instant::now();
        let Some(socket) = self.datagrams.get_mut(number) else { return };
        match socket.ended(now) {
            Afterwards::Wait => self.await_datagram(number),
            Afterwards::Rest(rest) => {
                debug!("{} rests for {} ms", socket.name(), rest.as_millis());
                let what = format!("{} is served more slowly", socket.name());
                self.notices.say(Kind::Unread(number), now, || {
                    Message::new(what)
                        .why("the program ended without having read the datagram that it was started for")
                        .fix("name a program that reads from descriptor 0 (inetd's wait), with the options that it wants")
                });
            }
        }
    }

    pub(super) fn await_datagram(&mut self, number: usize) {
        let Some(socket) = self.datagrams.get_mut(number) else { return };
        // A datagram that already waits causes an event at once.
        let flags = EventFlags::IN | EventFlags::ET;
        match epoll::add(&self.epoll, &*socket, Wake::Datagrams(number).data(), flags) {
            Ok(()) => socket.begin_wait(),
            // The limit of watched descriptors, or memory (epoll_ctl(2)).
            Err(errno) => {
                let rest = socket.rest(Instant::now());
                debug!("{} cannot be waited for and rests for {} ms: {errno}", socket.name(), rest.as_millis());
            }
        }
    }
}
