//! Adoption of descriptor 0: inetd's `wait` services, and `portgrant exec --inetd`.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use portgrant_protocol::listen::FIRST;
use portgrant_protocol::socket::Facts;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio;

use crate::{Error, Socket, Sockets};

const NAME: &str = "descriptor 0";

/// Whether descriptor 0 was taken already; it is /dev/null since.
static TAKEN: AtomicBool = AtomicBool::new(false);

pub(crate) fn adopt() -> Result<Sockets, Error> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::AdoptedBefore { what: NAME });
    }
    let adopted = take_standard_input();
    TAKEN.store(adopted.is_ok(), Ordering::SeqCst);
    adopted
}

fn take_standard_input() -> Result<Sockets, Error> {
    let name = name(stdio::stdin())?;
    let failed = |errno: Errno| Error::System { what: "cannot adopt descriptor 0", source: errno.into() };
    let socket = fcntl_dupfd_cloexec(stdio::stdin(), FIRST).map_err(failed)?;
    // Not closed: the next file that is opened would become standard input.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    if is_same(stdio::stdin(), stdio::stdout()) {
        stdio::dup2_stdout(&null).map_err(failed)?;
    }
    if is_same(stdio::stdin(), stdio::stderr()) {
        stdio::dup2_stderr(&null).map_err(failed)?;
    }
    stdio::dup2_stdin(&null).map_err(failed)?;
    Ok(std::iter::once(Socket::new(name, socket)).collect())
}

/// inetd gives no name: it is the endpoint's, as if none had been written. Refuses what cannot be served.
fn name(input: BorrowedFd<'_>) -> Result<String, Error> {
    let facts = Facts::of(input).map_err(|mismatch| Error::WrongKind { name: NAME.to_owned(), mismatch })?;
    if facts.protocol.is_stream() && !facts.listening {
        return Err(Error::NotListening { name: NAME.to_owned() });
    }
    Ok(format!("{}/{}", facts.local.port(), facts.protocol.word()))
}

fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
