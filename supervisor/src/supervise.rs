//! The supervisor: answers each bind(2) of the program and of its descendants, until the last of them has ended.
//!
//! It has no privilege. A call that it cannot read, or that needs no help, continues in the kernel with the program's
//! own rights. So only the helper's bind gives a program more than it had.
//!
//! **If the supervisor is killed**, and no other process has the listener, every later bind(2) would fail with ENOSYS,
//! also on high ports. So it forks a standby process, which has the listener too, waits for the supervisor's end, and
//! then takes over. Calls in progress are noted in a memfd that both share, so that these are answered as well.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use nix::libc::{EACCES, EADDRINUSE, EINVAL, EPERM};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Endpoint, Kind, Message, user_namespace};
use portgrant_sys::process::{self, Fork};
use portgrant_sys::seccomp::{self, Answer, Notification, Wait};
use portgrant_sys::{OnlyThread, network_is_ours};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use crate::helper::Asking;
use crate::refusals::{self, Kept};
use crate::repeats::Repeats;
use crate::target::Call;
use crate::time_wait;

/// Calls that are answered at once. More wait in the kernel, where a signal without SA_RESTART interrupts them.
const SLOTS: usize = 64;
/// The size of a slot in the memfd: the notification, and the number of attempts.
const SLOT: usize = 73;

/// The supervisor's state.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// The notifications of the filter
    pub(crate) listener: OwnedFd,
    pub(crate) wait: Wait,
    /// The helper's path
    pub(crate) helper: PathBuf,
    /// Where refusals are kept
    pub(crate) refusals: Option<PathBuf>,
    /// Only ports below this one are handled
    pub(crate) unprivileged: u32,
    /// Whether each step is printed
    pub(crate) verbose: bool,
    /// For fork(2)
    pub(crate) only_thread: OnlyThread,
    /// Calls in progress, shared with the standby: [`SLOTS`] slots of [`SLOT`] bytes
    pub(crate) memory: File,
    /// Whether it was reported that a process cannot be inspected
    pub(crate) reported: Cell<bool>,
    /// Recent refusals
    pub(crate) repeats: RefCell<Repeats>,
}

/// Calls in progress.
pub(crate) type Slots = [Option<Pending>; SLOTS];

/// A call that waits for the helper.
pub(crate) struct Pending {
    notification: Notification,
    call: Call,
    /// The socket, held to see whether it was bound
    socket: OwnedFd,
    asking: Asking,
}

/// Why waiting ended.
pub(crate) enum Turn {
    /// No process has the filter any more
    Ended,
    /// The other descriptor is ready
    Other,
}

impl Supervisor {
    /// Answers until no process has the filter. `ready` is called once the standby runs, and again after a takeover.
    pub(crate) fn serve(&self, mut ready: impl FnMut()) -> io::Result<()> {
        seccomp::wake_synchronously(self.listener.as_fd());
        let mut slots = Self::no_slots();
        let mut takes_over = false;
        loop {
            let before = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
            let standby = match process::fork(self.only_thread) {
                Ok(Fork::Child) => {
                    // These calls are the supervisor's, as long as it runs.
                    slots = Self::no_slots();
                    match self.stand_by(&before)? {
                        Turn::Ended => return Ok(()),
                        Turn::Other => takes_over = true,
                    }
                    continue;
                }
                Ok(Fork::Parent(standby)) => Pid::from_raw(standby),
                // If a limit forbids another process, try again in a second.
                Err(_) => None,
            };
            drop(before);
            ready();
            if std::mem::take(&mut takes_over) {
                slots = self.take_over();
            }
            let event = match standby {
                Some(standby) => pidfd_open(standby, PidfdFlags::empty())?,
                None => one_second_timer()?,
            };
            if let Turn::Ended = self.answer_until(&mut slots, event.as_fd())? {
                return Ok(());
            }
            if standby.is_some() {
                let _ = rustix::process::waitpid(standby, rustix::process::WaitOptions::empty());
            }
        }
    }

    /// The standby: waits until `other`, the supervisor, ends.
    fn stand_by(&self, other: &OwnedFd) -> io::Result<Turn> {
        loop {
            let mut ends = [PollFd::new(other, PollFlags::IN), PollFd::new(&self.listener, PollFlags::empty())];
            wait_for(&mut ends, None)?;
            if ends[1].revents().contains(PollFlags::HUP) {
                return Ok(Turn::Ended);
            }
            if !ends[0].revents().is_empty() {
                return Ok(Turn::Other);
            }
        }
    }

    /// The calls that were in progress when the supervisor was killed. Each is tried once more; after a second kill it
    /// continues in the kernel.
    fn take_over(&self) -> Slots {
        let mut slots = [const { None }; SLOTS];
        let mut reported = false;
        for (number, slot) in slots.iter_mut().enumerate() {
            let mut bytes = [0; SLOT];
            if self.memory.read_exact_at(&mut bytes, at(number)).is_err() || bytes[72] == 0 {
                continue;
            }
            if !std::mem::replace(&mut reported, true) {
                self.say("portgrant: the supervisor of portgrant run was killed; another has taken over\n");
            }
            let notification = Notification::from_bytes(&bytes);
            *slot = if bytes[72] > 1 {
                self.answer(number, &notification, Answer::Continue);
                None
            } else {
                self.begin(number, notification, 2)
            };
        }
        slots
    }

    /// Answers until `other` is ready, or until no process has the filter.
    pub(crate) fn answer_until(&self, slots: &mut Slots, other: BorrowedFd<'_>) -> io::Result<Turn> {
        loop {
            let free = slots.iter().position(Option::is_none);
            let asked = if free.is_some() { PollFlags::IN } else { PollFlags::empty() };
            let mut ends = vec![PollFd::new(&other, PollFlags::IN), PollFd::new(&self.listener, asked)];
            ends.extend(slots.iter().flatten().map(|pending| PollFd::new(&pending.asking, PollFlags::IN)));
            let left = slots.iter().flatten().map(|pending| pending.asking.left()).chain(self.silence_left()).min();
            wait_for(&mut ends, left.as_ref())?;
            self.summarize(Some(Instant::now()));
            let (others, asked) = (!ends[0].revents().is_empty(), ends[1].revents());
            drop(ends);
            // Checked before `others`, since it also ends the standby. Nobody waits for the pending answers any more.
            if asked.contains(PollFlags::HUP) {
                self.summarize(None);
                return Ok(Turn::Ended);
            }
            // New calls first: a signal can interrupt a call until it is received. receive() fails with ENOENT if the
            // caller was killed.
            if let Some(number) = free.filter(|_| asked.contains(PollFlags::IN))
                && let Ok(notification) = seccomp::receive(self.listener.as_fd())
            {
                slots[number] = self.begin(number, notification, 1);
            }
            for (number, slot) in slots.iter_mut().enumerate() {
                let answer = |pending: &mut Pending| pending.asking.answer(&self.helper, pending.socket.as_fd());
                if let Some(answered) = slot.as_mut().and_then(answer)
                    && let Some(Pending { notification, call, socket, .. }) = slot.take()
                {
                    let answer = self.result(&notification, &call, &socket, answered);
                    drop(socket);
                    self.answer(number, &notification, answer);
                }
            }
            if others {
                return Ok(Turn::Other);
            }
        }
    }

    /// No calls in progress.
    pub(crate) fn no_slots() -> Slots {
        [const { None }; SLOTS]
    }

    /// Whether `child`, which has ended, is the helper of a call in progress. If so, it is waited for.
    pub(crate) fn collect(slots: &mut Slots, child: nix::unistd::Pid) -> bool {
        slots.iter_mut().flatten().any(|pending| pending.asking.collect(child))
    }

    /// Answers at once, or starts the helper.
    fn begin(&self, number: usize, notification: Notification, tries: u8) -> Option<Pending> {
        self.remember(number, Some((&notification, tries)));
        let answer = match self.decide(&notification, tries) {
            Decision::Answer(answer) => answer,
            Decision::Ask(endpoint, call, socket) => {
                self.step(&notification, &format!("asks for {endpoint}"));
                match Asking::start(&self.helper, &endpoint, socket.as_fd()) {
                    Ok(asking) => return Some(Pending { notification, call, socket, asking }),
                    Err(refusal) => self.result(&notification, &call, &socket, Err(refusal)),
                }
            }
        };
        self.answer(number, &notification, answer);
        None
    }

    fn answer(&self, number: usize, notification: &Notification, answer: Answer) {
        // This fails if the caller was killed meanwhile.
        let _ = seccomp::answer(self.listener.as_fd(), notification.id, answer);
        self.remember(number, None);
    }

    fn remember(&self, number: usize, what: Option<(&Notification, u8)>) {
        let mut bytes = [0; SLOT];
        if let Some((notification, tries)) = what {
            notification.write_to(&mut bytes);
            bytes[72] = tries;
        }
        let _ = self.memory.write_all_at(&bytes, at(number));
    }

    fn decide(&self, notification: &Notification, tries: u8) -> Decision {
        let (call, socket) = match self.inspect(notification) {
            Ok(found) => found,
            Err(error) => {
                self.not_inspected(notification.thread, &error);
                return Decision::Answer(Answer::Continue);
            }
        };
        // No IP address, port 0 and high ports need no help.
        let needs_help = call.port().is_some_and(|port| port != 0 && u32::from(port) < self.unprivileged);
        let Some(endpoint) = call.endpoint(socket.as_fd()).filter(|_| needs_help) else {
            return Decision::Answer(Answer::Continue);
        };
        // If the socket is bound, the answer is EINVAL. The kernel would return EACCES, since it checks the port first.
        if let Some(local) = local(&socket) {
            // Unless this supervisor bound it: a signal interrupted the call before the answer, or the supervisor was
            // killed.
            let is_ours = (tries > 1 || self.wait == Wait::Interruptible) && call.asks_for(local);
            return Decision::Answer(if is_ours { Answer::Done } else { Answer::Fail(EINVAL) });
        }
        let tried = seccomp::bind(socket.as_fd(), &call.address);
        Decision::Answer(match tried.map_err(|error| error.raw_os_error()) {
            Ok(()) => Answer::Done,
            Err(Some(EACCES)) => return Decision::Ask(endpoint, call, socket),
            Err(Some(EPERM)) => {
                self.forbidden(&endpoint);
                Answer::Fail(EPERM)
            }
            Err(errno) => Answer::Fail(errno.unwrap_or(EACCES)),
        })
    }

    /// Reads the address and copies the socket. After each, it checks that the caller is still in this call, so both
    /// are its own.
    fn inspect(&self, notification: &Notification) -> io::Result<(Call, OwnedFd)> {
        let still = |what: io::ErrorKind| {
            let valid = seccomp::is_valid(self.listener.as_fd(), notification.id);
            if valid { Ok(()) } else { Err(io::Error::from(what)) }
        };
        let call = Call::read(notification)?;
        still(io::ErrorKind::NotFound)?;
        let socket = call.socket(notification)?;
        still(io::ErrorKind::NotFound)?;
        Ok((call, socket))
    }

    /// Turns the helper's answer into the answer to the program, and prints a refusal.
    fn result(
        &self,
        notification: &Notification,
        call: &Call,
        socket: &OwnedFd,
        answered: Result<(), Box<Message>>,
    ) -> Answer {
        let Err(refused) = answered else { return Answer::Done };
        // Bound by this helper, which failed afterwards, or for an earlier call: see `decide`.
        if let Some(local) = local(socket) {
            return if call.asks_for(local) { Answer::Done } else { Answer::Fail(EINVAL) };
        }
        let refused = match (refused.kind, call.port()) {
            (Kind::InUse, Some(port)) => time_wait::explained(*refused, socket.as_fd(), port),
            _ => *refused,
        };
        let is_new = self.repeats.borrow_mut().is_new(&refused.what, Instant::now());
        let text = refused.text("portgrant");
        if is_new {
            self.say(&text);
        }
        if matches!(refused.kind, Kind::InUse | Kind::NotThere) {
            return Answer::Fail(call.unfit(socket.as_fd()).unwrap_or(EADDRINUSE));
        }
        if let Some(path) = self.refusals.as_ref().filter(|_| is_new) {
            let (pid, program) = (notification.thread, name(notification.thread));
            refusals::keep(path, &Kept { at: SystemTime::now(), pid, program, message: text });
        }
        Answer::Fail(EACCES)
    }

    /// Reports this once only: a process may make many binds that need no help.
    fn not_inspected(&self, thread: u32, error: &io::Error) {
        if self.reported.replace(true) && !self.verbose {
            return;
        }
        let is_elsewhere = !user_namespace::is_first();
        // In a user namespace with its own network, the kernel permits every port.
        let needs_no_help = is_elsewhere && network_is_ours();
        if needs_no_help && !self.verbose {
            return;
        }
        let fix = if is_elsewhere && !needs_no_help {
            "  fix: run it outside of this user namespace, or give the namespace its own network\n"
        } else {
            ""
        };
        self.say(&format!(
            "portgrant: the supervisor cannot inspect {} ({thread}), which binds with its own rights\n  why: {error}\n{fix}",
            name(thread)
        ));
    }

    /// The kernel's own answer is never EPERM: it comes from a cgroup program or a seccomp filter.
    fn forbidden(&self, endpoint: &Endpoint) {
        let message = Message::new(format!("{endpoint} cannot be bound"))
            .why("bind(2) answered EPERM: SocketBindDeny= of the service, or a seccomp filter, forbids it")
            .fix("in the unit, write SocketBindAllow= with this port, or remove SocketBindDeny= (systemd.resource-control(5))");
        if self.repeats.borrow_mut().is_new(&message.what, Instant::now()) {
            self.say(&message.text("portgrant"));
        }
    }

    fn step(&self, notification: &Notification, what: &str) {
        if self.verbose {
            self.say(&format!("portgrant run: {} ({}) {what}\n", name(notification.thread), notification.thread));
        }
    }

    /// How long until the next count of refusals is due.
    fn silence_left(&self) -> Option<Timespec> {
        let next = self.repeats.borrow().next()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    /// Prints the counts of repeated refusals that are due.
    fn summarize(&self, now: Option<Instant>) {
        for line in self.repeats.borrow_mut().due(now) {
            self.say(&line);
        }
    }

    /// Writes to standard error, which the program shares. If that would block, the text is dropped.
    fn say(&self, text: &str) {
        let mut end = io::stderr();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&end, PollFlags::OUT)], Some(&now)) == Ok(1) {
            let _ = end.write_all(text.get(..4096).unwrap_or(text).as_bytes());
        }
    }
}

/// How a call is answered.
enum Decision {
    /// At once
    Answer(Answer),
    /// By the helper
    Ask(Endpoint, Call, OwnedFd),
}

fn at(number: usize) -> u64 {
    u64::try_from(number * SLOT).unwrap_or(0)
}

/// Where a socket is bound, if it is.
fn local(socket: &OwnedFd) -> Option<SocketAddr> {
    let local = rustix::net::getsockname(socket).ok().and_then(|local| SocketAddr::try_from(local).ok());
    local.filter(|local| local.port() != 0)
}

/// A timer that becomes readable after a second.
fn one_second_timer() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let [it_interval, it_value] = [0, 1].map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
    Ok(timer)
}

/// The name of a thread.
fn name(thread: u32) -> String {
    let name = std::fs::read(format!("/proc/{thread}/comm")).unwrap_or_default();
    printable(name.trim_ascii_end())
}

fn wait_for(ends: &mut [PollFd<'_>], limit: Option<&Timespec>) -> io::Result<()> {
    loop {
        match poll(ends, limit) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}

/// The descriptors that a supervisor needs.
pub(crate) fn kept(supervisor: &Supervisor) -> [i32; 2] {
    [supervisor.listener.as_raw_fd(), supervisor.memory.as_raw_fd()]
}
