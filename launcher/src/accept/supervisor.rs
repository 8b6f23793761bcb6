//! The event loop: accepts connections, starts programs, reaps them, and forwards signals.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use log::debug;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use portgrant_protocol::program::Unfit;
use portgrant_server::Message;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};

use super::Admission;
use super::access::Answer;
use super::connection::Connection;
use super::datagrams::Datagrams;
use super::idle::Idle;
use super::listener::Listener;
use super::lookups::Lookups;
use super::notices::{Kind, Notices};
use super::program::Program;
use super::rate::Rate;
use super::signals::{Received, Sender, Signals, end_by};
use super::table::{Service, Table};
use super::wake::Wake;

/// How many connections are accepted before signals and ended programs get their turn.
const BATCH: usize = 64;
/// How long nothing is accepted after descriptors, memory or processes have run out, unless a program ends earlier.
const SHORTAGE: Duration = Duration::from_millis(250);
/// How long programs may take to end when the launcher ends.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long to wait after SIGKILL. A program that the launcher may not signal keeps running.
const KILL_LIMIT: Duration = Duration::from_secs(1);

pub(super) struct Supervisor {
    pub(super) epoll: OwnedFd,
    signals: Signals,
    listeners: Vec<Listener>,
    /// The listener whose turn it is
    turn: usize,
    pub(super) datagrams: Vec<Datagrams>,
    pub(super) program: Program,
    pub(super) table: Table,
    idle: Option<Idle>,
    lookups: Option<Lookups>,
    admission: Admission,
    /// Connections that wait for their start: after a name lookup, or after a start that failed for lack of resources.
    /// They are counted in the table
    held: VecDeque<Connection>,
    /// Nothing is accepted until then
    shortage: Option<Instant>,
    ending: Option<Ending>,
    pub(super) notices: Notices,
    /// The programs that were started since signals were last read
    pub(super) newest: Vec<Pid>,
}

/// The launcher is ending.
struct Ending {
    by: Signal,
    /// The step of the shutdown
    stage: Stage,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The programs got SIGTERM
    Asked,
    /// They have been killed
    Killed,
}

impl Supervisor {
    pub(super) fn new(
        (listeners, datagrams): (Vec<Listener>, Vec<Datagrams>),
        program: Program,
        signals: Signals,
        table: Table,
        idle: Option<Idle>,
        lookups: Option<Lookups>,
        admission: Admission,
    ) -> Result<Supervisor, rustix::io::Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Edge-triggered: connections that wait for room in the table must not wake the loop again and again.
        epoll::add(&epoll, &signals, Wake::Signals.data(), EventFlags::IN | EventFlags::ET)?;
        if let Some(lookups) = &lookups {
            epoll::add(&epoll, lookups, Wake::Lookups.data(), EventFlags::IN | EventFlags::ET)?;
        }
        for (number, listener) in listeners.iter().enumerate() {
            epoll::add(&epoll, listener, Wake::Listener(number).data(), EventFlags::IN | EventFlags::ET)?;
        }
        for (number, socket) in datagrams.iter().enumerate() {
            epoll::add(&epoll, socket, Wake::Datagrams(number).data(), EventFlags::IN | EventFlags::ET)?;
        }
        Ok(Supervisor {
            epoll,
            signals,
            listeners,
            turn: 0,
            datagrams,
            program,
            table,
            idle,
            lookups,
            admission,
            held: VecDeque::new(),
            shortage: None,
            ending: None,
            notices: Notices::default(),
            newest: Vec::new(),
        })
    }

    /// Serves until a signal asks it to end and no program runs. Then it ends this process by that signal.
    pub(super) fn serve(mut self) -> Result<Infallible, rustix::io::Errno> {
        debug!("status: {}", self.table);
        let mut events = Vec::with_capacity(64);
        loop {
            for _ in 0..BATCH {
                let Some(connection) = self.next() else { break };
                let outcome =
                    self.program.start(connection.socket.as_fd(), connection.variables(), &connection.settings);
                self.record_start(connection, outcome);
            }
            if let Some(signal) = self.ended() {
                end_by(signal);
            }
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), self.timeout().as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            for event in &events {
                self.wake(event);
            }
            self.due(Instant::now());
        }
    }

    fn wake(&mut self, event: &Event) {
        match Wake::of(event.data) {
            Wake::Signals => self.receive(),
            Wake::Lookups => self.held.extend(self.lookups.as_mut().map(Lookups::answered).unwrap_or_default()),
            Wake::Listener(number) => {
                if let Some(listener) = self.listeners.get_mut(number) {
                    listener.wake();
                }
            }
            Wake::Datagrams(number) => self.serve_datagrams(number),
        }
    }

    /// How long to sleep at most; `None` means until the next event.
    fn timeout(&self) -> Option<Timespec> {
        if self.may_accept() && self.listeners.iter().any(Listener::is_ready) {
            return Some(Timespec::default());
        }
        let paused = self.datagrams.iter().filter_map(Datagrams::paused_until);
        let idle = self.idle.as_ref().and_then(Idle::next);
        let ending = self.ending.as_ref().map(|ending| ending.until);
        let rate = self.admission.rate.as_ref().and_then(Rate::paused_until);
        let next = paused.chain(idle).chain(ending).chain(self.shortage).chain(rate).min()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    /// Does what is due by now.
    fn due(&mut self, now: Instant) {
        self.shortage.take_if(|until| *until <= now);
        if let Some(connection) = self.admission.rate.as_mut().and_then(|rate| rate.wake(now))
            && let Some(connection) = self.within_rate(connection, now).and_then(|connection| self.counted(connection))
        {
            self.held.push_back(connection);
        }
        if let Some(idle) = &mut self.idle {
            idle.look(&mut self.table, now);
        }
        for number in 0..self.datagrams.len() {
            if self.datagrams.get_mut(number).is_some_and(|socket| socket.wakes(now)) {
                self.await_datagram(number);
            }
        }
        if self.ending.as_ref().is_some_and(|ending| ending.until <= now) {
            self.escalate(now);
        }
    }

    // --- connections ---

    fn may_accept(&self) -> bool {
        let paused = self.admission.rate.as_ref().is_some_and(Rate::is_paused);
        self.shortage.is_none() && !paused && self.held.is_empty() && self.table.has_room()
    }

    /// The next connection to start a program for. Without room, connections stay in the backlog.
    fn next(&mut self) -> Option<Connection> {
        if self.ending.is_some() {
            return None;
        }
        if self.shortage.is_none()
            && let Some(connection) = self.held.pop_front()
        {
            return Some(connection);
        }
        for _ in 0..BATCH {
            let number = self.next_ready().filter(|_| self.may_accept())?;
            self.turn = number + 1;
            match self.listeners.get_mut(number).map_or(Ok(None), Listener::accept) {
                Ok(accepted) => {
                    if let Some(connection) = accepted.and_then(|connection| self.admit(connection)) {
                        return Some(connection);
                    }
                }
                Err(errno) => self.run_short(Errno::from_raw(errno.raw_os_error())),
            }
        }
        None
    }

    /// The listeners take turns, so that a busy one does not keep the others waiting.
    fn next_ready(&self) -> Option<usize> {
        let count = self.listeners.len();
        let order = (0..count).map(|step| (self.turn + step) % count);
        order.into_iter().find(|&number| self.listeners.get(number).is_some_and(Listener::is_ready))
    }

    /// The connection, unless its client may not connect, a limit is reached, or it must wait.
    fn admit(&mut self, mut connection: Connection) -> Option<Connection> {
        let now = Instant::now();
        if let Err(message) = self.admission.access.refresh() {
            self.notices.say(Kind::Rules, now, || message.fix("mend it; until then the rules of before apply"));
        }
        let client = connection.remote.ip();
        match self.admission.access.decide(client) {
            Answer::Allow(settings) => connection.settings = settings,
            Answer::Deny(why) => {
                debug!("deny: {client}: {why}");
                let fix = "change --allow, --deny or the file of --access if it may connect";
                self.notices.say(Kind::Denied, now, || {
                    Message::new(format!("a connection from {client} was closed")).why(why).fix(fix)
                });
                return None;
            }
        }
        let connection = self.within_rate(connection, now)?;
        self.counted(connection)
    }

    /// The connection, unless the rate is exceeded. Then this one and all later ones wait.
    fn within_rate(&mut self, connection: Connection, now: Instant) -> Option<Connection> {
        let Some(rate) = &mut self.admission.rate else { return Some(connection) };
        let admitted = rate.admit(connection, now);
        if admitted.is_none() {
            let rest = rate.limit().rest.as_secs();
            debug!("resting: too many connections in a second");
            self.notices.say(Kind::Rate, now, || {
                Message::new(format!("connections have to wait for {rest} seconds"))
                    .why("more have come in a second than --max-rate permits")
                    .fix("raise --max-rate if they are wanted")
            });
        }
        admitted
    }

    /// The connection, unless its source has reached the limit, or its names must be looked up first.
    fn counted(&mut self, connection: Connection) -> Option<Connection> {
        let source = connection.source();
        if self.table.admits(source) {
            self.table.count(source);
            return match &mut self.lookups {
                Some(lookups) => lookups.ask(connection),
                None => Some(connection),
            };
        }
        debug!("deny: {source} has as many connections as it may");
        self.notices.say(Kind::Source, Instant::now(), || {
            Message::new(format!("a connection from {} was closed", connection.remote.ip()))
                .why(format!("{source} already has as many as --max-per-source permits"))
                .fix("raise --max-per-source if they are wanted")
        });
        None
    }

    /// Handles the outcome of a start.
    fn record_start(&mut self, connection: Connection, outcome: Result<Pid, Errno>) {
        match outcome {
            Ok(pid) => self.started(pid, connection),
            Err(errno @ (Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE)) => {
                self.held.push_back(connection);
                self.run_short(errno);
            }
            Err(errno) => {
                self.table.release(connection.source());
                self.cannot_start(errno);
            }
        }
    }

    fn started(&mut self, pid: Pid, connection: Connection) {
        let Connection { local, remote, names, .. } = &connection;
        let name = names.remote.as_deref().unwrap_or("-");
        debug!("status: {}", self.table);
        debug!("pid {pid} from {}", remote.ip());
        debug!("ok {pid} {local} {name} {remote}");
        let source = connection.source();
        let kept = self.idle.as_mut().map(|idle| {
            idle.watch(Instant::now());
            connection.socket
        });
        self.table.add(pid, Service::Connection { source, kept });
        self.newest.push(pid);
    }

    pub(super) fn cannot_start(&mut self, errno: Errno) {
        let unfit = Unfit::by_execve(self.program.path(), rustix::io::Errno::from_raw_os_error(errno as i32));
        debug!("{unfit}: {errno}");
        self.notices.say(Kind::Start, Instant::now(), || {
            Message::new(unfit.to_string()).why(unfit.why.to_string()).fix(unfit.fix())
        });
    }

    fn run_short(&mut self, errno: Errno) {
        let now = Instant::now();
        self.shortage = Some(now + SHORTAGE);
        debug!("resting: {errno}");
        let fix = if matches!(errno, Errno::EPERM | Errno::EACCES) {
            "permit accept(2) in the security module or seccomp filter that forbids it"
        } else if errno == Errno::EINVAL {
            "start portgrant again: something shut the listening socket down"
        } else {
            "raise the limit that is reached (ulimit -n, ulimit -u), or lower --max-conns"
        };
        self.notices.say(Kind::Shortage, now, || Message::new("connections have to wait").why(errno.desc()).fix(fix));
    }

    // --- programs and signals ---

    fn receive(&mut self) {
        while let Some(received) = self.signals.next() {
            match received {
                Received::Child => self.reap(),
                Received::Forward(signal) => self.forward(signal),
                Received::End(signal, sender) => self.end(signal, sender),
            }
        }
        self.newest.clear();
    }

    /// Reaps every ended child. The first process of a pid namespace also gets orphans.
    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status.pid().is_none() {
                return;
            }
            self.finish(status);
        }
    }

    fn finish(&mut self, status: WaitStatus) {
        let Some(service) = status.pid().and_then(|pid| self.table.ended(pid)) else { return };
        if let WaitStatus::Signaled(pid, signal, _) = status {
            debug!("end {pid} signal {signal}");
        } else if let WaitStatus::Exited(pid, status) = status {
            debug!("end {pid} status {status}");
        }
        self.shortage = None;
        match service {
            Service::Connection { .. } => debug!("status: {}", self.table),
            Service::Datagrams(number) => self.datagrams_ended(number),
        }
    }

    fn forward(&mut self, signal: Signal) {
        debug!("passing {signal} on");
        for pid in self.table.pids() {
            // This fails for a program that has become another user.
            let _ = kill(pid, signal);
        }
    }

    /// The first such signal asks the programs to end, the second kills them.
    fn end(&mut self, signal: Signal, sender: Sender) {
        let now = Instant::now();
        if self.ending.is_some() {
            return self.escalate(now);
        }
        debug!("ending by {signal}: nothing is accepted any more");
        self.listeners.clear();
        self.datagrams.clear();
        self.held.clear();
        if let Some(rate) = &mut self.admission.rate {
            rate.clear();
        }
        if let Some(lookups) = &mut self.lookups {
            lookups.clear();
        }
        match sender {
            Sender::Process => self.forward(signal),
            // The programs got the signal from the terminal, except perhaps those that were started since.
            Sender::Terminal => {
                for pid in self.table.pids().filter(|pid| self.newest.contains(pid)) {
                    let _ = kill(pid, signal);
                }
            }
        }
        self.ending = Some(Ending { by: signal, stage: Stage::Asked, until: now + TIME_LIMIT });
    }

    fn escalate(&mut self, now: Instant) {
        let Some(ending) = &mut self.ending else { return };
        let until = match ending.stage {
            Stage::Asked => now + KILL_LIMIT,
            Stage::Killed => ending.until,
        };
        (ending.stage, ending.until) = (Stage::Killed, until);
        self.forward(Signal::SIGKILL);
    }

    /// The signal to end by, when no program is left to wait for.
    fn ended(&self) -> Option<Signal> {
        let ending = self.ending.as_ref()?;
        let given_up = ending.stage == Stage::Killed && ending.until <= Instant::now();
        (given_up || self.table.is_empty()).then_some(ending.by)
    }
}
