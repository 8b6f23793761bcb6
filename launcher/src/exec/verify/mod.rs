//! `--verify`: checks that the program really accepts on its sockets.
//!
//! Some servers silently ignore an inherited socket, because they compare addresses or are started by a wrapper. Then
//! clients connect, and nobody answers. So this makes one connection to each listener, sends nothing, and looks in the
//! kernel's table whether it was accepted: while a connection waits in the queue, its inode is 0.
//!
//! Only a connection that has reached this listener and was not accepted counts against the program. If none can reach
//! it (loopback is down, the address does not exist, a filter drops it), nothing is known, and the program is not
//! ended.

mod probe;
mod report;
mod tables;
mod watcher;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portgrant_protocol::{Address, Endpoint, Protocol};
use portgrant_server::Message;
use portgrant_server::SocketInfo;

use probe::{Fate, Probe};
use report::Suspects;
use tables::Tables;

pub(crate) use watcher::start_watcher;

/// How often the kernel's tables are read.
pub(crate) const PACE: Duration = Duration::from_millis(100);
/// How long a program that has closed a socket has to listen elsewhere; and how long a datagram socket must stay open,
/// since reading cannot be observed.
const SETTLING: Duration = Duration::from_secs(1);

/// The result so far.
pub(crate) enum Verdict {
    /// Not known yet
    Pending,
    /// Each socket is served, or could not be checked, which was reported
    Serving,
    /// Some are not served, with the reason
    Ignored(Message),
}

/// The program's sockets, and the state of each.
pub(crate) struct Verification {
    given: Vec<Given>,
    time_limit: Duration,
    begun: Option<Instant>,
}

struct Given {
    name: String,
    info: SocketInfo,
    /// Its inode, as in /proc/PID/fd and the kernel's tables
    inode: u64,
    /// Its backlog, if the caller asked for one
    backlog: Option<u32>,
    state: State,
}

enum State {
    /// Not connected yet, with the reason of the last failure
    Unknown(Option<String>),
    Probed(Probe),
    Served,
    Closed {
        since: Instant,
    },
}

/// The result for a socket at the end of the time limit.
enum Finding {
    Served,
    Closed,
    /// A connection waits in its queue
    Waiting,
    /// No connection has reached it, with the reason
    Untried(String),
}

impl Verification {
    /// A verification of `sockets`. Call it while this process still has them; they are not kept.
    pub(crate) fn of(asked: &[Endpoint], names: &[String], sockets: &[OwnedFd], time_limit: Duration) -> Verification {
        // Without `each`, endpoints and sockets are in the same order.
        let is_plain = asked.iter().all(|endpoint| endpoint.address != Address::Each);
        let wants_backlog = |at: usize| is_plain && asked.get(at).is_some_and(|asked| asked.options.backlog.is_some());
        let given = names.iter().zip(sockets).enumerate().filter_map(|(at, (name, socket))| {
            let info = SocketInfo::of(socket.as_fd()).ok()?;
            let inode = rustix::fs::fstat(socket).ok()?.st_ino;
            let backlog = if wants_backlog(at) { tables::queue(&info, inode).map(|queue| queue.most) } else { None };
            Some(Given { name: name.clone(), info, inode, backlog, state: State::Unknown(None) })
        });
        Verification { given: given.collect(), time_limit, begun: None }
    }

    /// Checks once. Call it again after [`PACE`] while the verdict is pending.
    pub(crate) fn look(&mut self, program: u32) -> Verdict {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        let tables = Tables::read();
        for given in &mut self.given {
            given.look(&tables, begun);
        }
        let is_decided = |given: &Given| match &given.state {
            State::Served => true,
            State::Closed { since } => since.elapsed() >= SETTLING,
            State::Unknown(_) | State::Probed(_) => false,
        };
        if !self.given.iter().all(is_decided) && begun.elapsed() < self.time_limit {
            return Verdict::Pending;
        }
        let tables = Tables::read();
        let found: Vec<(&Given, Finding)> = self.given.iter().map(|given| (given, given.finding(&tables))).collect();
        let ignored = |finding: &Finding| matches!(finding, Finding::Closed | Finding::Waiting);
        if found.iter().any(|(_, finding)| ignored(finding)) {
            let ignored: Vec<_> = found.iter().filter(|(_, finding)| ignored(finding)).collect();
            let suspects = Suspects::of(program, &self.given, &tables);
            return Verdict::Ignored(report::ignored(&ignored, &suspects, begun));
        }
        for (given, finding) in &found {
            if let Finding::Untried(why) = finding {
                crate::output::say(&report::not_reached(given, why));
            }
            if let Some(message) = report::replaced_backlog(given) {
                crate::output::say(&message);
            }
        }
        Verdict::Serving
    }
}

impl Given {
    fn look(&mut self, tables: &Tables, begun: Instant) {
        let next = match &mut self.state {
            State::Served | State::Closed { .. } => None,
            _ if !tables.holds(&self.info, self.inode) => Some(State::Closed { since: Instant::now() }),
            State::Unknown(_) if !matches!(self.info.protocol, Protocol::Tcp | Protocol::Mptcp) => {
                (begun.elapsed() >= SETTLING).then_some(State::Served)
            }
            State::Unknown(_) => Some(match Probe::connect(&self.info) {
                Ok(probe) => State::Probed(probe),
                Err(why) => State::Unknown(Some(why)),
            }),
            State::Probed(probe) => match probe.fate(tables, &self.info, self.inode) {
                Fate::Accepted => Some(State::Served),
                Fate::Failed(why) => Some(State::Unknown(Some(why))),
                Fate::Waiting | Fate::Nowhere(_) => {
                    probe.wake_deferred(tables);
                    None
                }
            },
        };
        if let Some(next) = next {
            self.state = next;
        }
    }

    fn finding(&self, tables: &Tables) -> Finding {
        match &self.state {
            State::Served => Finding::Served,
            State::Closed { .. } => Finding::Closed,
            State::Unknown(why) => {
                Finding::Untried(why.clone().unwrap_or_else(|| "there was no time for it".to_owned()))
            }
            State::Probed(probe) => match probe.fate(tables, &self.info, self.inode) {
                Fate::Accepted => Finding::Served,
                Fate::Waiting => Finding::Waiting,
                Fate::Failed(why) => Finding::Untried(why),
                Fate::Nowhere(why) => Finding::Untried(why),
            },
        }
    }
}
