//! Removes variables that the children of a server must not inherit: those that passed it its sockets, and those of its
//! service manager.
//!
//! With these variables a child may adopt descriptors that do not exist, or notify the service manager in the name of
//! the server. Do not use `unsetenv` in the server itself: it is unsafe in a program with threads. Change the
//! environment of the child instead.
//!
//! ```
//! use std::process::Command;
//!
//! use portgrant_server::environment;
//!
//! let mut command = Command::new("env");
//! environment::clean(&mut command).env_remove("UNICORN_FD"); // and what else this server adopts by
//! let output = command.output()?;
//! assert!(!String::from_utf8_lossy(&output.stdout).contains("LISTEN_FDS="));
//! # Ok::<(), std::io::Error>(())
//! ```

use std::ffi::{OsStr, OsString};
use std::process::Command;

use portgrant_protocol::listen;

pub use super::inherited::pidfd_id;

/// The variables of sd_notify(3) and sd_watchdog_enabled(3), which are also meant for the server alone.
const MANAGERS: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Names the predecessor to the process that a server starts as its successor (feature `restart`).
pub(crate) const PREDECESSOR: &str = "PORTGRANT_PREDECESSOR";

/// All variables that are removed.
pub fn variables() -> impl Iterator<Item = &'static str> {
    listen::VARIABLES.into_iter().chain(MANAGERS).chain([PREDECESSOR])
}

/// Removes the variables from the environment of `command`.
pub fn clean(command: &mut Command) -> &mut Command {
    variables().fold(command, |command, name| command.env_remove(name))
}

/// Removes the variables from `environment`, for a program that is executed in another way.
///
/// ```
/// # use portgrant_server::environment;
/// for (name, value) in environment::without(std::env::vars_os()) {
///     println!("{}={}", name.display(), value.display());
/// }
/// ```
pub fn without<V>(environment: impl IntoIterator<Item = (OsString, V)>) -> impl Iterator<Item = (OsString, V)> {
    let is_ours = |name: &OsStr| variables().any(|ours| name == ours);
    environment.into_iter().filter(move |(name, _)| !is_ours(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_starts_without_the_servers_own_variables() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo ${LISTEN_FDS-none} ${LISTEN_PIDFDID-none} ${NOTIFY_SOCKET-none} $KEPT"]);
        for (name, value) in [("LISTEN_FDS", "1"), ("LISTEN_PIDFDID", "9"), ("NOTIFY_SOCKET", "@x"), ("KEPT", "kept")] {
            command.env(name, value);
        }
        let output = clean(&mut command).output().expect("/bin/sh");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "none none none kept\n");
        let entry = |name: &str| (OsString::from(name), ());
        let before = ["LISTEN_FDSX", "LISTEN_FDNAMES", "WATCHDOG_USEC", "PORTGRANT_PREDECESSOR", "PATH"].map(entry);
        assert_eq!(without(before).collect::<Vec<_>>(), ["LISTEN_FDSX", "PATH"].map(entry));
    }
}
