//! A server that replaces itself with a new generation of its program, without refusing a connection (feature `restart`).
//!
//! SIGUSR2, or [`ask`] by the control socket, has the process start its program file anew, whatever is in it by then,
//! with the arguments and the environment that it had itself. The new process gets the very sockets; it reads its
//! configuration, says that it could serve, and is let. Only then does the old one stop accepting, finish its connections
//! within a limit, and end.
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
//! * **No old code is left running.** The drain has a limit. A thread of the old process ends it a second after that,
//!   even if every other one hangs; and if it cannot (the process is stopped, say), the new process does, by SIGKILL, a
//!   second later.
//! * **A new generation that fails is harmless**, up to the last moment: it crashes, says that it cannot, hangs, or its
//!   program is gone. The old one has stopped nothing until the new one says that it serves, and tells why it failed.
//!   Its pid file says its pid, its sockets block or not as they did.
//! * **An old generation that fails as well.** From its first moment on the new one has everything. If the old one dies,
//!   whatever kills it, the new one serves. (One that was told to end, by SIGTERM, SIGINT or SIGQUIT, or that returns
//!   from `main`, takes a successor that is starting with it.)
//! * **One upgrade at a time, two generations at most.** While a successor starts, and while a predecessor drains, another
//!   upgrade is refused, and the refusal says who is in the way and for how long at most.
//! * **Who asked is told**: who took over and which sockets it closed, or why none did.
//!
//! | signal | what it does |
//! |---|---|
//! | SIGUSR2 | upgrade, as nginx does. The old one need not be told to go |
//! | SIGHUP | [`Order::Reload`], the server's own business; or upgrade ([`Generation::upgrade_on_hangup`]) |
//! | SIGQUIT | end gracefully: [`Order::Finish`] |
//! | SIGTERM, SIGINT | end: [`Order::Terminate`] |
//! | SIGWINCH | nothing. nginx's old generation is told by it to drain, which is done here; and a terminal sends it to whoever is in the foreground when its window changes |
//!
//! With systemd, `Type=notify` and `ExecReload=kill -USR2 $MAINPID` are enough, or `Type=notify-reload` and
//! `ReloadSignal=USR2`. The old process tells systemd the new main process (`MAINPID=`), which needs no `NotifyAccess=all`.
//! By then the new process is systemd's own child, so `systemctl stop` and `restart` let it finish its connections
//! (`KillSignal=SIGQUIT`), and systemd sees how it ends.
//!
//! # What runs twice
//! The process that the server starts for an upgrade starts the successor itself, in [`Generation::begin`], and waits for
//! it. So what `main` does before `Generation::begin` is done twice in each upgrade: call it first. Until the successor
//! serves there is one process more, which ends as the successor ends.
//!
//! # Where it does not work
//! * Process 1 of a container cannot be replaced, since the kernel ends the container with it: an upgrade is refused. The
//!   same happens, without a refusal, under an init program that ends when its child ends (`docker run --init`, tini).
//! * A supervisor that waits for its own child (runit, s6, supervisord) takes the end of the old process for the end of the
//!   service. [`Generation::daemon`] with a pid file is for servers without a supervisor.
//! * Where a process between systemd and the server adopts orphans (PR_SET_CHILD_SUBREAPER), as `portgrant run` does under
//!   Yama, the new main process is no child of systemd's, and `systemctl stop` does not wait for it.
//!
//! No privilege and no helper is needed to upgrade, so it works under no_new_privs; only a socket that the new
//! configuration adds is asked for as in the beginning. State in memory goes along as a descriptor ([`Generation::keep`]).
//!
//! What is not meant for children is cleaned from their environment by [`environment`](crate::environment).

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
pub use drain::{Drain, Token};
pub use error::RestartError;
pub use generation::Generation;
pub use order::{Order, Upgraded};
pub use serving::Serving;
