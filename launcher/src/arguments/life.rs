//! The options for a program's life: its user, its folder, when it starts, and who watches it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;
use clap::builder::{OsStringValueParser, TypedValueParser};
use portgrant_server::Message;

use portgrant_protocol::decimal;

use crate::Error;

/// Who runs the program, where, from when on, and what is learnt of it.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "A program's life")]
pub struct Life {
    /// As root: become USER (a name or the number of an account) first, so that the policy decides for that user; HOME,
    /// USER, LOGNAME and SHELL are set for the account, all other variables stay
    #[arg(long, value_name = "USER", value_hint = ValueHint::Username)]
    pub user: Option<OsString>,
    /// The program's working folder, entered as the program's user
    #[arg(long, value_name = "FOLDER")]
    pub chdir: Option<PathBuf>,
    /// Start the program at the first connection or datagram, which then waits for the program
    #[arg(long)]
    pub wait: bool,
    /// Check that the program accepts on its sockets, and report why not; with --daemon the start then fails (10 SECONDS
    /// if not given)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "10",
        value_parser = seconds())]
    pub verify: Option<Duration>,
    /// Run the program in the background, under a guard; exit status 0 means that it was executed, and that --notify and
    /// --verify succeeded if they are given
    #[arg(long)]
    pub daemon: bool,
    /// With --daemon: write the guard's pid to FILE and lock it; the guard forwards signals, and removes FILE at its end
    #[arg(long, value_name = "FILE", requires = "daemon", value_parser = absolute())]
    pub pid_file: Option<PathBuf>,
    /// With --daemon: wait until the program sends READY=1 (sd_notify(3); 90 SECONDS if not given)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "90",
        value_parser = seconds(), requires = "daemon")]
    pub notify: Option<Duration>,
    /// With --daemon: where standard output and error go: syslog, syslog:FACILITY, none, or inherit (unchanged)
    #[arg(long, value_name = "WHERE", default_value = "syslog", hide_default_value = true, requires = "daemon",
        value_parser = log())]
    pub log: Log,
}

/// Where a daemon's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// To syslog, one message for each line
    Syslog {
        /// As syslog(3) numbers them: 3 is `daemon`
        facility: u8,
    },
    /// Nowhere
    None,
    /// Where the caller had it
    Inherit,
}

impl Default for Log {
    fn default() -> Log {
        Log::Syslog { facility: DAEMON }
    }
}

/// The facility `daemon`.
const DAEMON: u8 = 3;

/// syslog(3)'s names, each at its number.
const FACILITIES: [&str; 12] =
    ["kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"];

impl Life {
    /// Checks what clap cannot: which options go together.
    pub(super) fn check(&self) -> Result<(), Error> {
        let reason = match (self.wait && self.daemon, self.verify.is_some(), self.notify.is_some()) {
            (true, true, _) => "--verify",
            (true, _, true) => "--notify",
            _ => return Ok(()),
        };
        let what = format!("{reason} cannot be used with --wait and --daemon together");
        let message = Message::new(what).why("the command ends before the first connection starts the program");
        Err(Error::Usage(Box::new(
            message.fix(format!("leave out {reason}; or leave out --daemon; or leave out --wait")),
        )))
    }

    /// The first given option that only works for a single program.
    pub(super) fn of_one_program(&self) -> Option<&'static str> {
        let given = [("--wait", self.wait), ("--verify", self.verify.is_some()), ("--notify", self.notify.is_some())];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
}

fn seconds() -> impl TypedValueParser<Value = Duration> {
    parsed(|word| {
        let seconds = decimal(word.as_encoded_bytes()).filter(|seconds| (2..=3600).contains(seconds));
        seconds.map(Duration::from_secs).ok_or("expected 2 to 3600 seconds")
    })
}

/// A path, made absolute before --chdir changes the working folder.
pub(super) fn absolute() -> impl TypedValueParser<Value = PathBuf> {
    parsed(|word| std::path::absolute(word).map_err(|_| "expected the path of a file"))
}

fn log() -> impl TypedValueParser<Value = Log> {
    parsed(|word| match word.to_str() {
        Some("none") => Ok(Log::None),
        Some("inherit") => Ok(Log::Inherit),
        Some("syslog") => Ok(Log::default()),
        Some(text) => match text.strip_prefix("syslog:").and_then(facility) {
            Some(facility) => Ok(Log::Syslog { facility }),
            None => {
                Err("expected syslog, syslog:FACILITY (daemon, news, mail, user, local0 to local7...), none, inherit")
            }
        },
        None => Err("expected syslog, none or inherit"),
    })
}

fn facility(name: &str) -> Option<u8> {
    let local = name.strip_prefix("local").and_then(|number| number.parse().ok()).filter(|number| *number < 8);
    let named = || FACILITIES.iter().position(|facility| *facility == name).and_then(|place| u8::try_from(place).ok());
    local.map(|number: u8| 16 + number).or_else(named)
}

pub(super) fn parsed<T: Clone + Send + Sync + 'static>(
    parse: impl Fn(OsString) -> Result<T, &'static str> + Clone + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T> {
    OsStringValueParser::new().try_map(move |word| parse(word).map_err(io::Error::other))
}
