//! The supervisor: it answers each bind(2) of the program and of whatever the program starts, until the last of them is
//! gone.
//!
//! It has no privilege. What it does not understand, cannot read or is not concerned with goes on to the kernel, with the
//! program's own rights; so nothing here can give anybody more than they had but the helper's bind.
//!
//! **Its death.** With the last holder of the listener every later bind(2) would get ENOSYS, also on high ports. So there
//! is an heir: a fork of it that holds the listener as well, waits for its end, and goes on. What it was at when it died
//! is written in memory that both have (a memfd), so that not even that call is left hanging.

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
/// What a slot takes in the memory that the heir has too: the notification, and how many have tried.
const SLOT: usize = 73;

/// What it needs to know.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// The notifications of the filter
    pub(crate) listener: OwnedFd,
    pub(crate) wait: Wait,
    /// The helper's path
    pub(crate) helper: PathBuf,
    /// Where refusals are kept
    pub(crate) refusals: Option<PathBuf>,
    /// Ports from here on need no privilege
    pub(crate) unprivileged: u16,
    /// Each step is printed
    pub(crate) verbose: bool,
    /// For fork(2)
    pub(crate) only_thread: OnlyThread,
    /// What is being answered: [`SLOTS`] of [`SLOT`] bytes
    pub(crate) memory: File,
    /// Whether it was reported that a process cannot be inspected
    pub(crate) reported: Cell<bool>,
    /// What was refused just now
    pub(crate) repeats: RefCell<Repeats>,
}

/// What is being answered, a slot each.
pub(crate) type Desk = [Option<Pending>; SLOTS];

/// A call that the helper was asked about.
pub(crate) struct Pending {
    notification: Notification,
    call: Call,
    /// The very socket, held to see what became of it
    socket: OwnedFd,
    asking: Asking,
}

/// Why waiting ended.
pub(crate) enum Turn {
    /// No process has the filter any more
    Alone,
    /// What was waited for besides
    Other,
}

impl Supervisor {
    /// Answers until nobody is left to ask. `begun` is called once both are there, and again by an heir.
    pub(crate) fn serve(&self, mut begun: impl FnMut()) -> io::Result<()> {
        seccomp::wake_synchronously(self.listener.as_fd());
        let mut desk = Self::desk();
        let mut has_taken_over = false;
        loop {
            let before = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
            let heir = match process::fork(self.only_thread) {
                Ok(Fork::Child) => {
                    // The other's, as long as that lives.
                    desk = Self::desk();
                    match self.inherit(&before)? {
                        Turn::Alone => return Ok(()),
                        Turn::Other => has_taken_over = true,
                    }
                    continue;
                }
                Ok(Fork::Parent(heir)) => Pid::from_raw(heir),
                // With a limit of processes it goes on without an heir.
                Err(_) => None,
            };
            drop(before);
            begun();
            if std::mem::take(&mut has_taken_over) {
                desk = self.inherited();
            }
            let news = match heir {
                Some(heir) => pidfd_open(heir, PidfdFlags::empty())?,
                None => a_second()?,
            };
            if let Turn::Alone = self.answer_until(&mut desk, news.as_fd())? {
                return Ok(());
            }
            if heir.is_some() {
                let _ = rustix::process::waitpid(heir, rustix::process::WaitOptions::empty());
            }
        }
    }

    /// The heir's whole life, up to the other's end.
    fn inherit(&self, other: &OwnedFd) -> io::Result<Turn> {
        loop {
            let mut ends = [PollFd::new(other, PollFlags::IN), PollFd::new(&self.listener, PollFlags::empty())];
            wait_for(&mut ends, None)?;
            if ends[1].revents().contains(PollFlags::HUP) {
                return Ok(Turn::Alone);
            }
            if !ends[0].revents().is_empty() {
                return Ok(Turn::Other);
            }
        }
    }

    /// What a predecessor was at when it was killed: tried once more, and after that left to the kernel.
    fn inherited(&self) -> Desk {
        let mut desk = [const { None }; SLOTS];
        let mut reported = false;
        for (number, slot) in desk.iter_mut().enumerate() {
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
        desk
    }

    /// Answers until `other` is ready, or nobody is left to ask.
    pub(crate) fn answer_until(&self, desk: &mut Desk, other: BorrowedFd<'_>) -> io::Result<Turn> {
        loop {
            let free = desk.iter().position(Option::is_none);
            let asked = if free.is_some() { PollFlags::IN } else { PollFlags::empty() };
            let mut ends = vec![PollFd::new(&other, PollFlags::IN), PollFd::new(&self.listener, asked)];
            ends.extend(desk.iter().flatten().map(|pending| PollFd::new(&pending.asking, PollFlags::IN)));
            let left = desk.iter().flatten().map(|pending| pending.asking.left()).chain(self.silence_left()).min();
            wait_for(&mut ends, left.as_ref())?;
            self.summarize(Some(Instant::now()));
            let (others, asked) = (!ends[0].revents().is_empty(), ends[1].revents());
            drop(ends);
            // Before the heir's end, which it is the reason for. What the helper is asked for is for nobody any more.
            if asked.contains(PollFlags::HUP) {
                self.summarize(None);
                return Ok(Turn::Alone);
            }
            // Who asks first: until it is heard, a signal may interrupt it. ENOENT: it was killed before it was heard.
            if let Some(number) = free.filter(|_| asked.contains(PollFlags::IN))
                && let Ok(notification) = seccomp::receive(self.listener.as_fd())
            {
                desk[number] = self.begin(number, notification, 1);
            }
            for (number, slot) in desk.iter_mut().enumerate() {
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

    /// A desk with nothing on it.
    pub(crate) fn desk() -> Desk {
        [const { None }; SLOTS]
    }

    /// Whether `child`, which has ended, is a helper that is asked on `desk`. It is waited for then.
    pub(crate) fn collect(desk: &mut Desk, child: nix::unistd::Pid) -> bool {
        desk.iter_mut().flatten().any(|pending| pending.asking.collect(child))
    }

    /// Answers at once, or asks the helper.
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
        // It fails where the target was killed meanwhile.
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
        let (call, socket) = match self.look(notification) {
            Ok(found) => found,
            Err(error) => {
                self.not_inspected(notification.thread, &error);
                return Decision::Answer(Answer::Continue);
            }
        };
        // Also what has no port, and what asks for any.
        let concerned = call.port().is_some_and(|port| port != 0 && port < self.unprivileged);
        let Some(endpoint) = call.endpoint(socket.as_fd()).filter(|_| concerned) else {
            return Decision::Answer(Answer::Continue);
        };
        // The kernel asks for the right to the port first, so one that lacks it would hear EACCES instead.
        if let Some(local) = local(&socket) {
            // By an answer that a signal kept from the target, or by a supervisor that was killed before its answer.
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

    /// Reads the address and takes the socket; the target is still in its call after each, so both were its own.
    fn look(&self, notification: &Notification) -> io::Result<(Call, OwnedFd)> {
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

    /// What the program gets for the helper's answer, and what people read if it is a refusal.
    fn result(
        &self,
        notification: &Notification,
        call: &Call,
        socket: &OwnedFd,
        answered: Result<(), Box<Message>>,
    ) -> Answer {
        let Err(refused) = answered else { return Answer::Done };
        // By this helper, which failed afterwards, or by that of a call before this one: see `decide`.
        if let Some(local) = local(socket) {
            return if call.asks_for(local) { Answer::Done } else { Answer::Fail(EINVAL) };
        }
        let refused = match (refused.kind, call.port()) {
            (Kind::InUse, Some(port)) => time_wait::explained(*refused, socket.as_fd(), port),
            _ => *refused,
        };
        let is_news = self.repeats.borrow_mut().is_news(&refused.what, Instant::now());
        let text = refused.text("portgrant");
        if is_news {
            self.say(&text);
        }
        if matches!(refused.kind, Kind::InUse | Kind::NotThere) {
            return Answer::Fail(call.unfit(socket.as_fd()).unwrap_or(EADDRINUSE));
        }
        if let Some(path) = self.refusals.as_ref().filter(|_| is_news) {
            let (pid, program) = (notification.thread, name(notification.thread));
            refusals::keep(path, &Kept { at: SystemTime::now(), pid, program, message: text });
        }
        Answer::Fail(EACCES)
    }

    /// Reports it once: each time is too often, as it may be one of many binds that need no help.
    fn not_inspected(&self, thread: u32, error: &io::Error) {
        if self.reported.replace(true) && !self.verbose {
            return;
        }
        let is_elsewhere = !user_namespace::is_first();
        // There the kernel permits the program every port.
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

    /// EPERM is not the kernel's own answer to bind(2): a cgroup program's, or a seccomp filter's.
    fn forbidden(&self, endpoint: &Endpoint) {
        let message = Message::new(format!("{endpoint} cannot be bound"))
            .why("bind(2) answered EPERM: SocketBindDeny= of the service, or a seccomp filter, forbids it")
            .fix("in the unit, write SocketBindAllow= with this port, or remove SocketBindDeny= (systemd.resource-control(5))");
        if self.repeats.borrow_mut().is_news(&message.what, Instant::now()) {
            self.say(&message.text("portgrant"));
        }
    }

    fn step(&self, notification: &Notification, what: &str) {
        if self.verbose {
            self.say(&format!("portgrant run: {} ({}) {what}\n", name(notification.thread), notification.thread));
        }
    }

    /// How long until what was refused again is summed up.
    fn silence_left(&self) -> Option<Timespec> {
        let next = self.repeats.borrow().next()?;
        Timespec::try_from(next.saturating_duration_since(Instant::now())).ok()
    }

    /// Prints how often something was refused again, as far as it is time for that.
    fn summarize(&self, now: Option<Instant>) {
        for line in self.repeats.borrow_mut().due(now) {
            self.say(&line);
        }
    }

    /// To standard error, which is the program's too: never where that would have to wait for its reader.
    fn say(&self, text: &str) {
        let mut end = io::stderr();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&end, PollFlags::OUT)], Some(&now)) == Ok(1) {
            let _ = end.write_all(text.get(..4096).unwrap_or(text).as_bytes());
        }
    }
}

/// What is to be done about a call.
enum Decision {
    /// Nothing but this
    Answer(Answer),
    /// The helper is asked
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

/// Readable in a second.
fn a_second() -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let [it_interval, it_value] = [0, 1].map(|tv_sec| Timespec { tv_sec, tv_nsec: 0 });
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value })?;
    Ok(timer)
}

/// What a thread calls itself.
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
