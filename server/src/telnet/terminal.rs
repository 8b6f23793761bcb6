//! A program on a pseudo-terminal with a telnet client at the other end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{self as pty, Pty};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt;

use super::codec::{Codec, Lines};
use super::error::TelnetError;
use super::{Window, prepare};
use crate::adopting::environment;
use crate::failure::Error;

/// How long a client may take to answer, before the program is started anyway.
const TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long a program may run without its terminal, and a client may take for the last output.
const GRACE: Duration = Duration::from_secs(5);
/// How long a program that closed its terminal may take to end before it gets SIGHUP.
const TIME_TO_END: Duration = Duration::from_secs(1);
/// How much may wait for the other side. A side that is this far ahead is not read.
const AHEAD: usize = 64 << 10;

/// Held between opening a terminal and starting its program. pty-process opens the terminal without close-on-exec, so a
/// program that another thread starts at that moment would hold it open after its client is gone.
static OPENING: Mutex<()> = Mutex::new(());

/// A program with its own terminal, for one telnet client.
///
/// ```no_run
/// use std::process::Command;
///
/// use portgrant_server::Sockets;
/// use portgrant_server::telnet::Terminal;
///
/// let listener = Sockets::request(["telnet=23"])?.tcp("telnet")?;
/// loop {
///     let (client, _) = portgrant_server::accept(&listener)?;
///     std::thread::spawn(move || Terminal::new(Command::new("nethack")).serve(client));
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The program leads a session. The terminal is its standard input, output and error. TERM is the client's value if
/// that is a valid name, else `dumb`. The terminal has the size of the client's window, and follows it (SIGWINCH). The
/// variables that were meant for the server are removed ([`environment`]).
#[derive(Debug)]
pub struct Terminal {
    command: Command,
}

impl Terminal {
    /// Runs `command` on a terminal. Its standard input, output and error are replaced.
    pub fn new(command: Command) -> Terminal {
        Terminal { command }
    }

    /// Serves `client` until the program ends or the client hangs up. The program then gets SIGHUP, and SIGKILL five
    /// seconds later. Returns how the program ended; `None` if SIGCHLD is ignored.
    ///
    /// A client that hangs up, in whatever way, is not an error. Only a program that cannot be started is one.
    pub fn serve(self, client: TcpStream) -> Result<Option<ExitStatus>, Error> {
        let connection = |source| Error::system("cannot use the client's connection", source);
        prepare(&client).map_err(connection)?;
        sockopt::set_socket_keepalive(&client, true).map_err(|errno| connection(errno.into()))?;
        client.set_nonblocking(true).map_err(connection)?;

        let mut session = Session { client, codec: Codec::new(Lines::Terminal), typed: Vec::new() };
        session.codec.ask_for_characters();
        session.await_answers();
        let (pty, mut child) = start(self.command, &session.codec)?;
        if session.relay(&pty) == Ended::Program {
            session.finish();
            // It may close its terminal and then end by itself, as coreutils do: SIGHUP would change its status.
            if ends_within(TIME_TO_END, &mut child) {
                return Ok(child.wait().ok());
            }
        }
        // The kernel hangs up the terminal, and sends SIGHUP to the program.
        drop(pty);
        if !ends_within(GRACE, &mut child) {
            let _ = child.kill();
        }
        // An error if SIGCHLD is ignored.
        Ok(child.wait().ok())
    }
}

fn start(mut command: Command, codec: &Codec) -> Result<(Pty, Child), TelnetError> {
    let program = command.get_program().to_os_string();
    environment::clean(&mut command).env("TERM", codec.terminal().filter(|&name| name != "unknown").unwrap_or("dumb"));
    let failed = |error: pty_process::Error| TelnetError::Terminal { source: std::io::Error::other(error) };
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let (pty, pts) = pty::open().map_err(failed)?;
    resize(&pty, codec.window()).map_err(failed)?;
    ioctl_fionbio(&pty, true).map_err(|errno| TelnetError::Terminal { source: errno.into() })?;
    let started = pty::Command::from(command).spawn(pts);
    let child = started.map_err(|error| match error {
        pty_process::Error::Io(source) => TelnetError::Program { program: program.into(), source },
        error => TelnetError::Program { program: program.into(), source: std::io::Error::other(error) },
    })?;
    Ok((pty, child))
}

/// A client that does not know its window has the size of old terminals.
fn resize(pty: &Pty, window: Option<Window>) -> pty_process::Result<()> {
    let known = |size: Option<u16>, usual| size.filter(|&size| size > 0).unwrap_or(usual);
    let (rows, columns) = (window.map(|window| window.rows), window.map(|window| window.columns));
    pty.resize(Size::new(known(rows, 24), known(columns, 80)))
}

fn ends_within(time_limit: Duration, child: &mut Child) -> bool {
    let deadline = Instant::now() + time_limit;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Who ended first.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Client,
    Program,
}

/// The client's end, and the data on its way. Never wait for one side alone: a program that writes while it does not
/// read, as cat does with a long paste, would wait for this process as this one for it.
struct Session {
    client: TcpStream,
    codec: Codec,
    typed: Vec<u8>,
}

impl Session {
    /// Waits until the client has answered all requests, hangs up, or takes too long.
    fn await_answers(&mut self) {
        let deadline = Instant::now() + TIME_LIMIT;
        while !self.codec.is_settled() && self.typed.len() < AHEAD {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return };
            let mut fds = [PollFd::new(&self.client, self.wanted())];
            if matches!(poll(&mut fds, Some(&left)), Ok(0)) || !self.exchange() {
                return;
            }
        }
    }

    fn wanted(&self) -> PollFlags {
        let mut wanted = PollFlags::empty();
        // Answers are output as well: a client that does not read them is not read.
        wanted.set(PollFlags::IN, self.typed.len() < AHEAD && self.codec.output.len() < AHEAD);
        wanted.set(PollFlags::OUT, !self.codec.output.is_empty());
        wanted
    }

    fn relay(&mut self, pty: &Pty) -> Ended {
        let mut window = self.codec.window();
        loop {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, self.codec.output.len() < AHEAD);
            wanted.set(PollFlags::OUT, !self.typed.is_empty());
            let mut fds = [PollFd::new(&self.client, self.wanted()), PollFd::new(pty, wanted)];
            // A hang-up is reported even if nothing is watched. The program's output comes first.
            let count = if wanted.is_empty() { 1 } else { 2 };
            match poll(fds.get_mut(..count).unwrap_or_default(), None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return Ended::Client,
            }
            let [client, program] = [fds[0].revents(), fds[1].revents()];
            if client.intersects(PollFlags::ERR | PollFlags::HUP) {
                return Ended::Client;
            }
            if !client.is_empty() && !self.exchange() {
                return Ended::Client;
            }
            if self.codec.window() != window {
                window = self.codec.window();
                let _ = resize(pty, window);
            }
            if !program.is_empty() && !self.exchange_with(pty) {
                return Ended::Program;
            }
        }
    }

    /// Reads and writes what is possible. Returns false once the client is gone.
    fn exchange(&mut self) -> bool {
        let mut bytes = [0; 4096];
        if self.wanted().contains(PollFlags::IN) {
            match (&self.client).read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => self.codec.decode(bytes.get(..length).unwrap_or_default(), &mut self.typed),
                Err(error) if is_retryable(&error) => {}
                Err(_) => return false,
            }
        }
        write_some(&self.client, &mut self.codec.output)
    }

    /// Reads and writes what is possible. Returns false once no process has the terminal open (EIO).
    fn exchange_with(&mut self, mut pty: &Pty) -> bool {
        let mut bytes = [0; 4096];
        if self.codec.output.len() < AHEAD {
            match pty.read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => self.codec.encode(bytes.get(..length).unwrap_or_default()),
                Err(error) if is_retryable(&error) => {}
                Err(_) => return false,
            }
        }
        // Input that the program no longer reads is lost with it. Its end is noticed by reading.
        if !write_some(pty, &mut self.typed) {
            self.typed.clear();
        }
        true
    }

    /// Writes the last output, as far as the client accepts it in time.
    fn finish(&mut self) {
        let output = std::mem::take(&mut self.codec.output);
        let blocks = self.client.set_nonblocking(false).and_then(|()| self.client.set_write_timeout(Some(GRACE)));
        let _ = blocks.and_then(|()| self.client.write_all(&output));
        let _ = self.client.shutdown(Shutdown::Write);
    }
}

fn write_some(mut to: impl Write, bytes: &mut Vec<u8>) -> bool {
    if bytes.is_empty() {
        return true;
    }
    match to.write(bytes) {
        Ok(length) => {
            bytes.drain(..length);
            true
        }
        Err(error) => is_retryable(&error),
    }
}

fn is_retryable(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
