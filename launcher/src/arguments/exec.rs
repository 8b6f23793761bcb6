//! The options of `portgrant exec`, and which options go together.

use std::ffi::OsString;
use std::os::fd::RawFd;

use portgrant_protocol::{Endpoint, decimal};
use portgrant_server::Message;

use super::{Accept, ENDPOINTS, Life, distinct, endpoint};
use crate::{Error, servers};

const PLACEHOLDERS: &str = "\
In ARG and in the VALUE of --setenv, {fd} becomes the number of the only socket, and {fd:NAME}
the number of the socket with that name. Write {{fd}} for the text {fd}.
  portgrant exec -l 80 -- uvicorn --fd {fd} app:app
  portgrant exec -l web=80 -l tls=443 --setenv TLS={fd:tls} -- ./server {fd:web}";

/// `portgrant exec`
#[derive(Debug, Default, clap::Args)]
#[command(after_help = format!("{PLACEHOLDERS}\n\n{ENDPOINTS}"))]
pub struct Exec {
    /// A socket to pass to the program; repeatable; all are bound or none
    #[arg(short, long, value_name = "ENDPOINT", required = true, value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// Pass the one socket as descriptors 0 and 1, like a wait service of inetd, instead of from 3 on
    #[arg(long)]
    pub inetd: bool,
    /// Pass the sockets as SERVER expects them, such as nginx or exim; `portgrant recipe` lists the servers
    #[arg(long = "as", value_name = "SERVER", value_parser = servers::names_to_follow(), hide_possible_values = true)]
    pub server: Option<String>,
    /// Set a variable for the program; repeatable
    #[arg(long, value_name = "VAR=VALUE")]
    pub setenv: Vec<OsString>,
    /// Also pass on the descriptors that LISTEN_FDS announces to this process; they come first, then the sockets
    #[arg(long)]
    pub keep_listen: bool,
    /// Pass the sockets as descriptors N, N+1 and so on, for a program with a fixed number; N is 3 to 1023, and LISTEN_FDS
    /// is not set unless N is 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..=1023))]
    pub first_fd: Option<RawFd>,
    /// Give the program NAME as its own name (argv0), as argv0(1) does; programs such as tcpd act by it
    #[arg(long, value_name = "NAME")]
    pub argv0: Option<OsString>,
    /// Set no_new_privs: setuid programs that the program executes gain no privilege
    #[arg(long)]
    pub no_new_privs: bool,
    /// The program, a path or a name to look up in PATH, and its arguments; -- before it may be left out
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
    /// Whether there is a program for each connection; behind the others, so that its heading is over its own options alone
    #[command(flatten)]
    pub accept: Accept,
    /// As whom, where and from when on it runs; likewise
    #[command(flatten)]
    pub life: Life,
}

impl Exec {
    /// Checks what clap cannot: which values go together.
    pub(super) fn check(&self, arguments: &[OsString]) -> Result<(), Error> {
        self.require_seconds(arguments)?;
        distinct(&self.listen)?;
        self.accept.check(&self.listen)?;
        self.life.check()?;
        if self.accept.accept
            && let Some(option) = self.life.of_one_program()
        {
            let fix = format!(
                "leave out {option} (it is about one program); or leave out --accept (it starts one for each connection)"
            );
            return Err(Error::Usage(Box::new(
                Message::new(format!("{option} cannot be used with --accept")).fix(fix),
            )));
        }
        Ok(())
    }

    /// Checks that the helper can execute the program itself, as a rule with `exec` requires. The error is an option
    /// that the helper does not have.
    pub(crate) fn require_helper_options(&self) -> Result<(), &'static str> {
        let life = &self.life;
        let unknown = [
            (life.wait, "--wait"),
            (life.verify.is_some(), "--verify"),
            (self.argv0.is_some(), "--argv0"),
            (self.first_fd.is_some(), "--first-fd"),
            (self.keep_listen, "--keep-listen"),
        ];
        unknown.into_iter().find(|(given, _)| *given).map_or(Ok(()), |(_, option)| Err(option))
    }

    /// Refuses `--verify 5`: the number would be taken for the program.
    fn require_seconds(&self, arguments: &[OsString]) -> Result<(), Error> {
        let before = arguments.len().checked_sub(self.program.len() + 1).and_then(|at| arguments.get(at));
        let option = before.and_then(|word| word.to_str()).filter(|word| ["--verify", "--notify"].contains(word));
        let number = self.program.first().and_then(|word| word.to_str());
        let number = number.filter(|word| decimal::<u64>(word.as_bytes()).is_some());
        let (Some(option), Some(number)) = (option, number) else { return Ok(()) };
        let message = Message::new(format!("'{number}' is not expected here"));
        super::usage(message.fix(format!("write {option}={number}")))
    }
}
