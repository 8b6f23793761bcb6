//! The most common command line: `exec`, endpoints, `--inetd`, `--no-new-privs`, and the program, with or without `--`
//! before it. The launcher parses all others, and reports mistakes; a test there compares both parsers.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use portgrant_protocol::{Address, Endpoint};

/// A plain command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    /// The endpoints of `-l`, at least one, without conflicts
    pub listen: Vec<Endpoint>,
    /// `--inetd`
    pub inetd: bool,
    /// `--no-new-privs`
    pub no_new_privs: bool,
    /// The index of the program's word; its arguments follow
    pub program: usize,
}

impl Plain {
    /// Reads the words of a command line, the program's own name first. `None` if it is not plain, or wrong.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Option<Plain> {
        let mut words = words.into_iter().enumerate();
        if words.nth(1)?.1 != b"exec" {
            return None;
        }
        let (mut listen, mut inetd, mut no_new_privs) = (Vec::new(), false, false);
        let program = loop {
            let (at, word) = words.next()?;
            match word {
                b"-l" | b"--listen" => listen.push(Endpoint::from_bytes(words.next()?.1).ok()?),
                b"--inetd" if !inetd => inetd = true,
                b"--no-new-privs" if !no_new_privs => no_new_privs = true,
                b"--" => break words.next()?.0,
                word if !word.starts_with(b"-") => break at,
                _ => return None,
            }
        };
        let is_plain = !listen.is_empty() && given_twice(&listen).is_none();
        is_plain.then_some(Plain { listen, inetd, no_new_privs, program })
    }
}

/// Which endpoint is the first that is given for the second time. No two sockets of one command can have the same address and port,
/// unless they share it.
#[must_use]
pub fn given_twice(listen: &[Endpoint]) -> Option<usize> {
    let place = |asked: &Endpoint| {
        let is_any = matches!(asked.address, Address::Any | Address::V6(Ipv6Addr::UNSPECIFIED));
        let address = if is_any { Address::Any } else { asked.address };
        let Endpoint { port, protocol, options, .. } = asked;
        (address, port.clone(), protocol.transport(), options.v6only, options.dev.clone())
    };
    let shared = |asked: &Endpoint| asked.options.reuseport;
    let again = |(at, asked): &(usize, &Endpoint)| {
        listen.iter().take(*at).any(|other| place(other) == place(asked) && !(shared(other) && shared(asked)))
    };
    listen.iter().enumerate().find(again).map(|(at, _)| at)
}
