//! A server that replaces itself with a new generation of its program, without refusing a connection (feature
//! `restart`).
//!
//! After SIGUSR2, or when it is asked by its control socket ([`ask`]), the process starts the current content of its
//! program file, with its own arguments and environment. The new process receives the sockets, reads its configuration,
//! and reports that it could serve. Only then does the old process stop accepting, finish its connections within a
//! limit, and end.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use portgrant_server::restart::{Generation, Order};
//! use portgrant_server::{Error, Event, Listeners};
//!
//! fn main() -> Result<(), Error> {
//!     let mut generation = Generation::begin()?.drain_limit(Duration::from_secs(60));
//!     let mut listeners = Listeners::new()?;
//!     listeners.tcp("https", generation.tcp("https=443")?)?;
//!     generation.control("/run/my-server/control")?;
//!     let mut serving = generation.ready()?;
//!
//!     let drain = serving.drain();
//!     drain.stop(listeners.stopper());
//!     let accepting = drain.token();
//!     std::thread::spawn(move || {
//!         while let Ok(event) = listeners.event() {
//!             match event {
//!                 Event::Connection(client) => {
//!                     let token = accepting.clone();
//!                     std::thread::spawn(move || { /* serve it; token.is_stopping()? */ drop((client, token)) });
//!                 }
//!                 Event::Stopped => break,
//!                 _ => {}
//!             }
//!         }
//!         drop(accepting);
//!     });
//!     loop {
//!         match serving.wait()? {
//!             Order::Reload => {} // read the configuration again
//!             Order::Failed(error) => eprintln!("{error}"), // and everything is as it was
//!             Order::Retire(_) | Order::Finish => break,
//!             Order::Terminate => return Ok(()),
//!         }
//!     }
//!     let left = serving.finish()?;
//!     eprintln!("{left} connections were not finished");
//!     Ok(())
//! }
//! ```
//!
//! * **No old code keeps running.** The drain has a limit. One second later a thread of the old process ends it, even
//!   if all other threads hang. If that fails (because the process is stopped, for instance), the new process kills it
//!   by SIGKILL another second later.
//! * **A new generation that fails does no harm**, up to the last moment. It may crash, report that it cannot serve,
//!   hang, or be missing. The old process stops nothing until the new one serves, and reports why it failed. Its pid
//!   file, and whether its sockets block, are unchanged.
//! * **An old generation that dies does no harm either.** The new one has all sockets from its start. If the old one
//!   dies, for whatever reason, the new one serves. (If the old one is stopped, by SIGTERM, SIGINT or SIGQUIT, or
//!   returns from `main`, it ends a successor that is starting.)
//! * **One upgrade at a time, two generations at most.** While a successor starts, and while a predecessor drains,
//!   another upgrade is refused. The refusal names the process, and how long it may still take.
//! * **The result is reported** to the one who asked: the new process and the sockets that it closed, or why the
//!   upgrade failed.
//!
//! | signal | effect |
//! |---|---|
//! | SIGUSR2 | upgrade, as with nginx; the old process ends by itself |
//! | SIGHUP | [`Order::Reload`], for the server itself; or upgrade ([`Generation::upgrade_on_hangup`]) |
//! | SIGQUIT | end gracefully: [`Order::Finish`] |
//! | SIGTERM, SIGINT | end: [`Order::Terminate`] |
//! | SIGWINCH | nothing. (nginx's old generation drains after it. A terminal sends it to the foreground process when its window changes.) |
//!
//! With systemd, `Type=notify` and `ExecReload=kill -USR2 $MAINPID` are enough, or `Type=notify-reload` and
//! `ReloadSignal=USR2`. The old process reports the new main process to systemd (`MAINPID=`), which needs no
//! `NotifyAccess=all`. By then the new process is systemd's own child, so `systemctl stop` and `restart` let it finish
//! its connections (`KillSignal=SIGQUIT`), and systemd sees how it ends.
//!
//! This rests on being the child of the service manager: that `stop` and `restart` wait for the drain (a main process that
//! is no child gets SIGKILL right after SIGTERM), that a crash is seen at once and with its status (`Restart=on-failure`),
//! and that the watchdog's end counts as one. The tests try each of them under systemd 252, 257 and 262.
//!
//! # What runs twice
//! The process that the server starts for an upgrade starts the successor itself, in [`Generation::begin`], and waits
//! for it. So the part of `main` before `Generation::begin` runs twice in each upgrade: call it first. Until the
//! successor serves there is one process more, which ends as the successor ends.
//!
//! # Where it does not work
//! * Process 1 of a container cannot be replaced, since the kernel ends the container with it: an upgrade is refused.
//!   Under an init program that ends when its child ends (`docker run --init`, tini), the container ends without a
//!   refusal.
//! * A supervisor that waits for its own child (runit, s6, supervisord) takes the end of the old process for the end of
//!   the service. For servers without a supervisor there is [`Generation::daemon`] with a pid file.
//! * If a process between systemd and the server adopts orphans (PR_SET_CHILD_SUBREAPER), as `portgrant run` does under
//!   Yama, the new main process is not systemd's child, and `systemctl stop` does not wait for it.
//!
//! An upgrade needs no privilege and no helper, so it works under no_new_privs. Only a socket that the new
//! configuration adds is requested as usual. Data in memory can be passed on as a descriptor ([`Generation::keep`]).
//!
//! [`environment`](crate::environment) removes the variables that children must not inherit.

mod ask;
mod control;
mod conversation;
mod drain;
mod error;
mod events;
mod generation;
mod holdings;
mod order;
mod predecessor;
mod process;
mod program;
mod serving;
mod signals;
mod starter;
mod state;
mod successor;
mod upgrade;

pub use ask::ask;
#[cfg(fuzzing)]
pub(crate) use conversation::fuzz;
pub use drain::{Drain, Token};
pub use error::RestartError;
pub use generation::Generation;
pub use order::{Order, Upgraded};
pub use serving::Serving;
