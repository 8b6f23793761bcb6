//! A program on a pseudo-terminal, whose other end is a telnet client.

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

/// How long a client may take to answer what it was asked, before the program starts without.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a program may go on without its terminal, and a client take for the last of its output.
const GRACE: Duration = Duration::from_secs(5);
/// How long a program that has closed its terminal may take to end before it is told.
const FAREWELL: Duration = Duration::from_secs(1);
/// What waits for the other side, at most; a side that is this far ahead is not read any more.
const AHEAD: usize = 64 << 10;

/// Between the opening of a terminal and the start of its program: pty-process opens it without close-on-exec, so a
/// program that another thread starts just then would hold it open after its client is gone.
static OPENING: Mutex<()> = Mutex::new(());

/// A program that gets a terminal of its own, for one telnet client.
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
/// The program leads a session and has the terminal as its standard input, output and error. TERM is what the client
/// says, if it is a name at all, else `dumb`; the terminal has the size of the client's window, and follows it
/// (SIGWINCH). Variables that were meant for the server are cleaned away ([`environment`]).
#[derive(Debug)]
pub struct Terminal {
    command: Command,
}

impl Terminal {
    /// `command` on a terminal. What is set as its standard input, output and error is replaced.
    pub fn new(command: Command) -> Terminal {
        Terminal { command }
    }

    /// Serves `client` until the program ends or the client hangs up; the program gets SIGHUP then, and SIGKILL if it is
    /// still there five seconds later. Returns how the program ended; `None` where SIGCHLD is ignored.
    ///
    /// A client that hangs up, however, is no error: only what keeps the program from starting is.
    pub fn serve(self, client: TcpStream) -> Result<Option<ExitStatus>, Error> {
        let connection = |source| Error::system("cannot use the client's connection", source);
        prepare(&client).map_err(connection)?;
        sockopt::set_socket_keepalive(&client, true).map_err(|errno| connection(errno.into()))?;
        client.set_nonblocking(true).map_err(connection)?;

        let mut session = Session { client, codec: Codec::new(Lines::Terminal), typed: Vec::new() };
        session.codec.ask_for_characters();
        session.settle();
        let (pty, mut child) = start(self.command, &session.codec)?;
        if session.relay(&pty) == Ended::Program {
            session.finish();
            // It may close its terminal and then end by itself, as coreutils do: SIGHUP would spoil its status.
            if ends_within(FAREWELL, &mut child) {
                return Ok(child.wait().ok());
            }
        }
        // The kernel hangs the terminal up, and tells the program (SIGHUP).
        drop(pty);
        if !ends_within(GRACE, &mut child) {
            let _ = child.kill();
        }
        // An error where SIGCHLD is ignored.
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

/// What a client does not know is as on the terminals of old.
fn resize(pty: &Pty, window: Option<Window>) -> pty_process::Result<()> {
    let known = |told: Option<u16>, usual| told.filter(|&told| told > 0).unwrap_or(usual);
    let (rows, columns) = (window.map(|window| window.rows), window.map(|window| window.columns));
    pty.resize(Size::new(known(rows, 24), known(columns, 80)))
}

fn ends_within(patience: Duration, child: &mut Child) -> bool {
    let deadline = Instant::now() + patience;
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

/// The client's end, and what is on its way. Neither side is ever waited for alone: a program that writes while it does
/// not read, as cat does of a long paste, would wait for us as we for it.
struct Session {
    client: TcpStream,
    codec: Codec,
    typed: Vec<u8>,
}

impl Session {
    /// Until the client has answered all that it was asked, hangs up, or takes too long.
    fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
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
        // Answers are output as well: who does not take them is not read.
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
            // A hang-up is reported also where nothing is wanted; of the program's, the output comes first.
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

    /// Reads and writes what can be; false once the client is gone.
    fn exchange(&mut self) -> bool {
        let mut bytes = [0; 4096];
        if self.wanted().contains(PollFlags::IN) {
            match (&self.client).read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => self.codec.decode(bytes.get(..length).unwrap_or_default(), &mut self.typed),
                Err(error) if is_for_later(&error) => {}
                Err(_) => return false,
            }
        }
        write_some(&self.client, &mut self.codec.output)
    }

    /// Reads and writes what can be; false once the program has ended: nobody has the terminal open (EIO).
    fn exchange_with(&mut self, mut pty: &Pty) -> bool {
        let mut bytes = [0; 4096];
        if self.codec.output.len() < AHEAD {
            match pty.read(&mut bytes) {
                Ok(0) => return false,
                Ok(length) => self.codec.encode(bytes.get(..length).unwrap_or_default()),
                Err(error) if is_for_later(&error) => {}
                Err(_) => return false,
            }
        }
        // What the program does not read any more is lost with it; its end is known by reading.
        if !write_some(pty, &mut self.typed) {
            self.typed.clear();
        }
        true
    }

    /// The last of the output, as far as the client takes it in time.
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
        Err(error) => is_for_later(&error),
    }
}

fn is_for_later(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
