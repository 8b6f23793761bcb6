//! Notifications for the service manager: sd_notify(3).

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use portgrant_protocol::decimal;
use portgrant_protocol::text::printable;
use rustix::time::{ClockId, clock_gettime};

use super::error::DaemonError;
use crate::failure::Error;

/// How long a manager that does not read may delay the server.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The service manager that started this process, by the socket in `NOTIFY_SOCKET`.
///
/// ```
/// use portgrant_server::Notify;
///
/// # fn main() -> Result<(), portgrant_server::Error> {
/// // Without a service manager this does nothing.
/// let manager = Notify::from_environment()?;
/// if let Some(manager) = &manager {
///     manager.ready()?;
///     manager.status("serving 3 sockets")?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    address: SocketAddr,
    shown: String,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The manager in `NOTIFY_SOCKET`; `None` if it is not set.
    pub fn from_environment() -> Result<Option<Notify>, Error> {
        Notify::read(|name| std::env::var_os(name), std::process::id())
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>, own: u32) -> Result<Option<Notify>, Error> {
        let Some(address) = variable("NOTIFY_SOCKET") else { return Ok(None) };
        let mut notify = Notify::at(&address)?;
        notify.watchdog = watchdog(variable, own)?;
        Ok(Some(notify))
    }

    /// The manager at `address`: an absolute path, or `@` and the name of an abstract socket (unix(7)).
    pub fn at(address: impl AsRef<OsStr>) -> Result<Notify, Error> {
        let text = address.as_ref();
        let shown = printable(text.as_bytes());
        let parsed = match text.as_bytes() {
            [b'@', name @ ..] if !name.is_empty() => SocketAddr::from_abstract_name(name),
            [b'/', ..] => SocketAddr::from_pathname(text),
            _ => return Err(DaemonError::NotifyAddress { address: shown }.into()),
        };
        let address = parsed.map_err(|_| DaemonError::NotifyAddress { address: shown.clone() })?;
        let made = UnixDatagram::unbound().and_then(|socket| {
            socket.set_write_timeout(Some(TIME_LIMIT))?;
            Ok(socket)
        });
        let socket = made.map_err(|source| DaemonError::Notify { address: shown.clone(), source })?;
        Ok(Notify { socket, address, shown, watchdog: None })
    }

    /// `READY=1`: the server is ready, or a reload is complete.
    pub fn ready(&self) -> Result<(), Error> {
        self.send("READY=1")
    }

    /// `RELOADING=1`, with the `MONOTONIC_USEC` that `Type=notify-reload` needs. Call [`Notify::ready`] afterwards.
    pub fn reloading(&self) -> Result<(), Error> {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"))
    }

    /// `STOPPING=1`: the server is stopping.
    pub fn stopping(&self) -> Result<(), Error> {
        self.send("STOPPING=1")
    }

    /// `STATUS=`: one line for people. Line feeds and other control characters become spaces, so that `text` cannot
    /// contain another notification.
    pub fn status(&self, text: &str) -> Result<(), Error> {
        self.send(&status_line(text))
    }

    /// `MAINPID=`: this process is the main process of the service, after a fork. (The unit needs `NotifyAccess=all`.)
    pub fn main_pid(&self) -> Result<(), Error> {
        self.send(&format!("MAINPID={}", std::process::id()))
    }

    /// `MAINPID=` of a successor that is ready, and `STATUS=`. By default (`NotifyAccess=main`) the manager accepts
    /// this from the main process, which this one is until this message.
    #[cfg(feature = "restart")]
    pub(crate) fn succeeded_by(&self, pid: u32, status: &str) -> Result<(), Error> {
        self.send(&format!("MAINPID={pid}\nREADY=1\n{}", status_line(status)))
    }

    /// `WATCHDOG=1`: the server is alive. Call it twice in each [`Notify::watchdog_interval`].
    pub fn watchdog(&self) -> Result<(), Error> {
        self.send("WATCHDOG=1")
    }

    /// How long the server may be silent before the manager considers it dead (sd_watchdog_enabled(3)). `None` if the
    /// manager does not watch this process.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    fn send(&self, assignments: &str) -> Result<(), Error> {
        let mut message = String::with_capacity(assignments.len() + 1);
        let _ = writeln!(message, "{assignments}");
        match self.socket.send_to_addr(message.as_bytes(), &self.address) {
            Ok(_) => Ok(()),
            Err(source) => Err(DaemonError::Notify { address: self.shown.clone(), source }.into()),
        }
    }
}

fn status_line(text: &str) -> String {
    let printed = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    "STATUS=".chars().chain(printed).collect()
}

fn watchdog(variable: impl Fn(&str) -> Option<OsString>, own: u32) -> Result<Option<Duration>, DaemonError> {
    let number = |name: &'static str| match variable(name) {
        None => Ok(None),
        Some(value) => {
            let number: Option<u64> = decimal(value.as_bytes());
            let wrong = || DaemonError::Watchdog { variable: name, value: printable(value.as_bytes()) };
            number.filter(|&number| number > 0).map(Some).ok_or_else(wrong)
        }
    };
    let (micros, pid) = (number("WATCHDOG_USEC")?, number("WATCHDOG_PID")?);
    let meant = pid.is_none_or(|pid| pid == u64::from(own));
    Ok(micros.filter(|_| meant).map(Duration::from_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message that the manager at `address` received.
    fn heard(manager: &UnixDatagram) -> String {
        manager.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn messages_reach_path_and_abstract_notify_sockets() {
        let path = std::env::temp_dir().join(format!("portgrant-notify-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let name = format!("portgrant-notify-{}", std::process::id());
        let abstractly = SocketAddr::from_abstract_name(&name).expect("a name");
        let managers = [
            (UnixDatagram::bind(&path).expect("bound"), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstractly).expect("bound"), format!("@{name}").into()),
        ];
        for (manager, address) in managers {
            let notify = Notify::at(&address).expect("an address");
            notify.ready().expect("sent");
            assert_eq!(heard(&manager), "READY=1\n");
            notify.stopping().expect("sent");
            assert_eq!(heard(&manager), "STOPPING=1\n");
            notify.watchdog().expect("sent");
            assert_eq!(heard(&manager), "WATCHDOG=1\n");
            notify.main_pid().expect("sent");
            assert_eq!(heard(&manager), format!("MAINPID={}\n", std::process::id()));
            notify.status("drei \u{e4}pfel\nREADY=1\u{1b}").expect("sent");
            assert_eq!(heard(&manager), "STATUS=drei \u{e4}pfel READY=1 \n");
            notify.reloading().expect("sent");
            let message = heard(&manager);
            let micros = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&message).trim_end();
            let uptime = std::fs::read_to_string("/proc/uptime").expect("/proc");
            let uptime: f64 = uptime.split('.').next().expect("seconds").parse().expect("a number");
            let seconds = micros.parse::<f64>().expect("a number") / 1e6;
            assert!((seconds - uptime).abs() < 60.0, "{message}: up for {uptime} seconds");
        }
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn an_invalid_address_and_a_missing_manager_are_different_errors() {
        for address in ["", "@", "relative", "vsock:2:1234", &"/x".repeat(200)] {
            assert!(
                matches!(
                    Notify::at(address).as_ref().map_err(Error::downcast_ref),
                    Err(Some(DaemonError::NotifyAddress { .. }))
                ),
                "{address}"
            );
        }
        let error = Notify::at("/no/such/socket").expect("well-formed").ready().expect_err("gone");
        assert!(
            matches!(error.downcast_ref(), Some(DaemonError::Notify { .. }))
                && error.to_string().contains("/no/such/socket"),
            "{error}"
        );
    }

    #[test]
    fn the_watchdog_applies_only_to_the_named_process() {
        let read = |usec: &'static str, pid: Option<&'static str>| {
            watchdog(|name| if name == "WATCHDOG_USEC" { Some(usec.into()) } else { pid.map(OsString::from) }, 7)
        };
        assert_eq!(read("2500000", None).expect("read"), Some(Duration::from_millis(2500)));
        assert_eq!(read("1", Some("7")).expect("read"), Some(Duration::from_micros(1)));
        assert_eq!(read("1", Some("8")).expect("read"), None);
        for wrong in ["", "0", "-1", "1s"] {
            assert!(
                matches!(read(wrong, None), Err(DaemonError::Watchdog { variable: "WATCHDOG_USEC", .. })),
                "{wrong}"
            );
        }
        assert!(matches!(Notify::read(|_| None, 7), Ok(None)));
    }
}
