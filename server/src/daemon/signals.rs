//! Signals as flags, for poll(2), and as a future: SIGTERM, SIGINT and SIGHUP for every daemon, and further ones for
//! other modules.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::low_level::pipe;

use crate::failure::Error;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop
    Terminate,
    /// SIGHUP: read the configuration again
    Reload,
}

/// The signals of a server.
///
/// Several signals of one kind count as one until it is taken. There are three ways to take them: check a flag, wait,
/// or poll(2) this value (readable after a signal) and call [`Signals::pending`]. All three report the same signals.
///
/// ```
/// use std::sync::atomic::Ordering;
/// use std::time::Duration;
///
/// use portgrant_server::{Signal, Signals};
///
/// let mut signals = Signals::install()?;
/// let stopping = signals.stopping(); // for the threads that serve
/// std::thread::spawn(move || {
///     while !stopping.load(Ordering::SeqCst) {
///         std::thread::sleep(Duration::from_millis(10)); // serve
///     }
/// });
/// # rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
/// loop {
///     match signals.wait()? {
///         Signal::Terminate => break,
///         Signal::Reload => { /* read the configuration again */ }
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With the feature `tokio`, `signals.next().await` does the same without a thread.
#[derive(Debug)]
pub struct Signals {
    stopping: Arc<AtomicBool>,
    caught: Caught<2>,
    #[cfg(feature = "tokio")]
    watched: Option<tokio::net::UnixStream>,
}

impl Signals {
    /// Catches the signals from now on, until the process ends. Handlers that exist, such as tokio's, are still called.
    pub fn install() -> Result<Signals, Error> {
        Signals::catch().map_err(|source| Error::system("cannot catch signals", source))
    }

    fn catch() -> io::Result<Signals> {
        let stopping = Arc::new(AtomicBool::new(false));
        // Before the others, so that a thread that is woken finds the flag set.
        for signal in [SIGTERM, SIGINT] {
            flag::register(signal, Arc::clone(&stopping))?;
        }
        Ok(Signals {
            stopping,
            caught: Caught::catch([&[SIGTERM, SIGINT], &[SIGHUP]])?,
            #[cfg(feature = "tokio")]
            watched: None,
        })
    }

    /// The flag that SIGTERM and SIGINT set. It is never cleared.
    pub fn stopping(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stopping)
    }

    /// The next signal that was not taken yet, if any. SIGTERM and SIGINT come first.
    pub fn pending(&mut self) -> Option<Signal> {
        self.caught.rest();
        next_of(&self.caught)
    }

    /// Waits for the next signal.
    pub fn wait(&mut self) -> Result<Signal, Error> {
        loop {
            if let Some(signal) = self.pending() {
                return Ok(signal);
            }
            match poll(&mut [PollFd::new(self, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::system("cannot wait for signals", errno)),
            }
        }
    }

    /// Waits for the next signal. No signal is lost if the future is dropped.
    ///
    /// ```
    /// use portgrant_server::{Signal, Signals};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut signals = Signals::install()?;
    /// # rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP)?;
    /// tokio::select! {
    ///     signal = signals.next() => assert_eq!(signal?, Signal::Reload),
    ///     // accepted = listener.accept() => …
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tokio")]
    pub async fn next(&mut self) -> Result<Signal, Error> {
        let failed = |source| Error::system("cannot wait for signals", source);
        let watched = match self.watched.take() {
            Some(watched) => watched,
            None => self.caught.woken.try_clone().and_then(tokio::net::UnixStream::from_std).map_err(failed)?,
        };
        let watched = self.watched.insert(watched);
        loop {
            let mut bytes = [0; 64];
            while watched.try_read(&mut bytes).is_ok_and(|length| length > 0) {}
            if let Some(signal) = next_of(&self.caught) {
                return Ok(signal);
            }
            watched.readable().await.map_err(failed)?;
        }
    }
}

fn next_of(caught: &Caught<2>) -> Option<Signal> {
    let signals = [Signal::Terminate, Signal::Reload];
    (0..).zip(signals).find(|(group, _)| caught.take(*group)).map(|(_, signal)| signal)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.caught.as_fd()
    }
}

/// Signals in groups with the same meaning: a flag for each group, and one descriptor that is readable after any
/// signal.
#[derive(Debug)]
pub(crate) struct Caught<const N: usize> {
    flags: [Arc<AtomicBool>; N],
    woken: UnixStream,
}

impl<const N: usize> Caught<N> {
    /// Catches the signals from now on.
    pub(crate) fn catch(groups: [&[i32]; N]) -> io::Result<Caught<N>> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let flags = groups.map(|_| Arc::new(AtomicBool::new(false)));
        // They are called in this order, so that a thread that is woken finds the flag set.
        for (group, flag) in groups.iter().zip(&flags) {
            for &signal in *group {
                flag::register(signal, Arc::clone(flag))?;
            }
        }
        for &signal in groups.into_iter().flatten() {
            pipe::register(signal, waker.try_clone()?)?;
        }
        Ok(Caught { flags, woken })
    }

    /// Makes it unreadable. Call it before the flags are checked: a signal in between makes it readable again.
    pub(crate) fn rest(&self) {
        let mut bytes = [0; 64];
        while (&self.woken).read(&mut bytes).is_ok_and(|length| length > 0) {}
    }

    /// Whether a signal of that group came and was not taken yet.
    pub(crate) fn take(&self, group: usize) -> bool {
        self.flags.get(group).is_some_and(|flag| flag.swap(false, Ordering::SeqCst))
    }
}

impl<const N: usize> AsFd for Caught<N> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use nix::sys::signal::{Signal as Number, raise};

    use super::*;

    /// Signals reach every test of this process: run one at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Sends to this thread, so that each signal is handled before the next line. Another thread may handle a signal to
    /// the process later.
    fn send(signals: &[Number]) {
        for &signal in signals {
            raise(signal).expect("sent");
        }
    }

    #[test]
    fn each_signal_is_reported_once_and_termination_first() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut signals = Signals::install().expect("installed");
        assert_eq!(signals.pending(), None);
        send(&[Number::SIGHUP, Number::SIGHUP, Number::SIGINT, Number::SIGTERM]);
        assert_eq!(signals.wait().expect("a signal"), Signal::Terminate);
        assert_eq!(signals.wait().expect("a signal"), Signal::Reload);
        assert_eq!(signals.pending(), None);
        assert!(signals.stopping().load(Ordering::SeqCst), "and stays so");
    }

    #[test]
    fn a_thread_that_waits_or_polls_is_woken() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut signals = Signals::install().expect("installed");
        let sender = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            send(&[Number::SIGHUP]);
        });
        let mut fds = [PollFd::new(&signals, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Default::default())), Ok(0), "nothing is there to be read yet");
        let time_limit = Duration::from_secs(10).try_into().expect("a time");
        while poll(&mut fds, Some(&time_limit)) == Err(Errno::INTR) {}
        assert!(!fds[0].revents().is_empty());
        assert_eq!(signals.wait().expect("a signal"), Signal::Reload);
        assert!(!signals.stopping().load(Ordering::SeqCst));
        sender.join().expect("sent");
    }

    #[cfg(feature = "tokio")]
    #[tokio::test]
    #[allow(clippy::await_holding_lock, reason = "the runtime has this one task")]
    async fn an_awaiting_task_is_woken_and_a_dropped_one_loses_no_signal() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut signals = Signals::install().expect("installed");
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short, signals.next()).await.is_err(), "there is none");
        send(&[Number::SIGTERM]);
        assert_eq!(signals.next().await.expect("a signal"), Signal::Terminate);
        assert!(tokio::time::timeout(short, signals.next()).await.is_err(), "reported once");
        send(&[Number::SIGHUP]);
        assert_eq!(signals.wait().expect("a signal"), Signal::Reload, "all ways report the same");
    }
}
