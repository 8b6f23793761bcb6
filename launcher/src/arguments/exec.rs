//! `portgrant exec`'s options, and which of them go together.

use std::ffi::OsString;

use portgrant_protocol::{Address, Endpoint};
use portgrant_server::Message;

use super::{Accept, ENDPOINTS, endpoint};
use crate::Error;

/// `portgrant exec`
#[derive(Debug, clap::Args)]
#[command(after_help = ENDPOINTS)]
pub struct Exec {
    /// A socket to hand over; repeatable, all or none are bound
    #[arg(short, long, value_name = "ENDPOINT", required = true, value_parser = endpoint(), allow_hyphen_values = true)]
    pub listen: Vec<Endpoint>,
    /// Hand the one socket over as descriptors 0 and 1, as inetd's wait services have it, instead of from 3 on
    #[arg(long)]
    pub inetd: bool,
    /// Set no_new_privs: setuid programs that the program executes gain nothing
    #[arg(long)]
    pub no_new_privs: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would take them for the command's own")]
    pub accept: Accept,
    /// The program, a path or a name to look up in PATH, and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    pub program: Vec<OsString>,
}

impl Exec {
    /// What clap cannot say: which values go together.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.accept.check(&self.listen)?;
        if self.inetd && self.accept.accept {
            let fix = "leave --inetd out: with --accept each connection is descriptor 0 and 1 of a program";
            return Err(Error::Usage(Box::new(Message::new("--inetd does not go with --accept").fix(fix))));
        }
        if self.inetd { one_socket(&self.listen) } else { Ok(()) }
    }
}

/// inetd's convention has room for one.
fn one_socket(listen: &[Endpoint]) -> Result<(), Error> {
    let what = match listen {
        [Endpoint { address: Address::Each, .. }] => {
            "--inetd does not go with 'each', which is several sockets".to_owned()
        }
        [_] => return Ok(()),
        several => format!("--inetd goes with one -l ENDPOINT, not {}", several.len()),
    };
    let fix = "expected one socket, which becomes descriptor 0; without --inetd they begin at descriptor 3";
    Err(Error::Usage(Box::new(Message::new(what).fix(fix))))
}
