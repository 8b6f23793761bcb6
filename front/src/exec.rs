//! A plain `exec`, done in this process: it runs the helper as a child, and then becomes the program.

use alloc::ffi::CString;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use portgrant_protocol::program::{self, Unfit};
use portgrant_protocol::record::Reply;
use portgrant_protocol::service::Services;
use portgrant_protocol::socket_info::SocketInfo;
use portgrant_protocol::{
    Address, AskedPort, Kind, Message, Resolved, listen, transfer, unprivileged_ports, user_namespace,
};
use portgrant_sys::{Word, execve, spawn, without};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{WaitOptions, getpid, getuid, waitpid};
use rustix::thread::{CapabilitySet, capabilities, set_no_new_privs};

use crate::plain::Plain;
use crate::{HELPER, Installation, LAUNCHER};

/// What the launcher must do.
pub(crate) enum Left {
    /// Everything: nothing has been done
    All,
    /// Report the failure in this record
    Report(CString),
}

/// A plain `exec` that the launcher would do in the same way.
pub(crate) struct Exec<'a> {
    asked: Vec<Resolved>,
    inetd: bool,
    no_new_privs: bool,
    /// The options `-l` with their endpoints, as given
    words: Vec<Word<'a>>,
    /// The program's file
    path: CString,
    /// Its argv
    program: &'a [Word<'a>],
    environment: &'a [Word<'a>],
    helper: CString,
    installation: &'a Installation,
}

impl<'a> Exec<'a> {
    /// `None` if the command line is not plain or has a mistake, or if the launcher would not ask the helper.
    pub(crate) fn of(
        arguments: &'a [Word<'a>],
        environment: &'a [Word<'a>],
        installation: &'a Installation,
    ) -> Option<Exec<'a>> {
        let plain = Plain::read(arguments.iter().map(|word| word.to_c_str().to_bytes()))?;
        let Plain { listen, inetd, no_new_privs, program } = plain;
        let (before, program) = arguments.split_at_checked(program)?;
        let words = pairs(before);
        // Placeholders in arguments and service names in endpoints are left to the launcher.
        let is_filled = |word: &Word<'_>| word.to_c_str().to_bytes().windows(3).any(|bytes| bytes == b"{fd");
        let needs_names = listen
            .iter()
            .any(|endpoint| endpoint.address == Address::Each || matches!(endpoint.port, AskedPort::Service(_)));
        if program.iter().skip(1).any(is_filled) || needs_names || (inetd && listen.len() > 1) {
            return None;
        }
        let asked: Option<Vec<Resolved>> =
            listen.into_iter().map(|endpoint| endpoint.resolve(&Services::default()).ok()).collect();
        let asked = asked?;
        let variable = |name| environment.iter().find_map(|entry| entry.value_of(name));
        if variable("PORTGRANT_BINDER").is_some() {
            return None;
        }
        let path = program::look_up(program.first()?.to_c_str(), variable("PATH").map(Word::to_c_str)).ok()?;
        if program::ends_in_carriage_return(&path) {
            return None;
        }
        if !inetd {
            listen::free(listen::FIRST, asked.len()).ok()?;
        }
        let start = unprivileged_ports::start();
        let needs_rules = asked.iter().all(|endpoint| u32::from(endpoint.port.get()) < start);
        if !needs_rules || asked.len() > listen::MAX || may_be_elsewhere() {
            return None;
        }
        let helper = installation.find(HELPER).ok()?;
        Some(Exec { asked, inetd, no_new_privs, words, path, program, environment, helper, installation })
    }

    /// Becomes the program, or returns what the launcher must do.
    pub(crate) fn perform(self) -> Left {
        match self.ask() {
            Some((Reply::Granted { names }, _, sockets)) if self.is_asked(&names, &sockets) => {
                self.become_program(&names, sockets)
            }
            Some((Reply::Failed(message), ..)) if message.program.is_some() => {
                self.become_helper();
                Left::All
            }
            Some((Reply::Failed(_), record, _)) => CString::new(record).map_or(Left::All, Left::Report),
            Some((Reply::Granted { .. }, ..)) | None => Left::All,
        }
    }

    /// The helper's reply, its record, and the descriptors. After any other failure, the launcher tries again, and
    /// reports.
    fn ask(&self) -> Option<(Reply, Vec<u8>, Vec<OwnedFd>)> {
        let (ours, theirs) = transfer::pair().ok()?;
        fcntl_setfd(&theirs, FdFlags::empty()).ok()?;
        let number = CString::new(theirs.as_raw_fd().to_string()).ok()?;
        let mut words: Vec<Word<'_>> = vec![c"portgrant-binder".into(), c"pass".into()];
        words.extend(&self.words);
        words.extend([Word::from(c"--to"), number.as_c_str().into()]);
        let helper = spawn(&self.helper, &words, self.environment);
        // Now only the helper has this end, so its end is noticed.
        drop(theirs);
        let helper = helper.ok()?;
        let received = transfer::receive(ours.as_fd());
        drop(ours);
        // It fails if SIGCHLD is ignored. Then there is nothing to wait for.
        let _ = waitpid(Some(helper), WaitOptions::empty());
        let (record, sockets) = received.ok()?;
        Some((Reply::parse(&record).ok()?, record, sockets))
    }

    fn is_asked(&self, names: &[String], sockets: &[OwnedFd]) -> bool {
        let count = self.asked.len();
        let fits = |((asked, name), socket): ((&Resolved, &String), &OwnedFd)| {
            *name == asked.name() && SocketInfo::of(socket.as_fd()).is_ok_and(|found| found.fit(asked).is_ok())
        };
        (names.len(), sockets.len()) == (count, count) && self.asked.iter().zip(names).zip(sockets).all(fits)
    }

    fn become_program(&self, names: &[String], sockets: Vec<OwnedFd>) -> Left {
        let pid = getpid().as_raw_nonzero().get().cast_unsigned();
        let Ok((_open, announced)) = listen::hand_over(sockets, names, self.inetd, pid) else { return Left::All };
        if self.no_new_privs && set_no_new_privs(true).is_err() {
            return Left::All;
        }
        let kept = without(self.environment, &listen::VARIABLES);
        let environment: Vec<Word<'_>> = kept.chain(announced.iter().map(|entry| entry.as_c_str().into())).collect();
        let unfit = Unfit::of_execve(&self.path, execve(&self.path, self.program, &environment));
        let message = Message::of(Kind::Program, unfit.to_string()).why(unfit.why.to_string()).fix(unfit.fix());
        let record = Reply::Failed(message.status(unfit.status())).encode().ok();
        record.and_then(|record| CString::new(record).ok()).map_or(Left::All, Left::Report)
    }

    /// For a rule with `exec`, only the helper may start the program. It decides whether this is the program.
    fn become_helper(&self) {
        // The launcher reports failures of the helper.
        let Ok(launcher) = self.installation.find(LAUNCHER) else { return };
        let mut words: Vec<Word<'_>> = vec![c"portgrant-binder".into(), c"exec".into()];
        words.extend(&self.words);
        words.extend([Word::from(c"--on-failure"), launcher.as_c_str().into()]);
        words.extend(self.inetd.then(|| Word::from(c"--inetd")));
        words.extend(self.no_new_privs.then(|| Word::from(c"--no-new-privs")));
        words.push(c"--".into());
        words.extend(self.program);
        let _ = execve(&self.helper, &words, self.environment);
    }
}

/// Whether this process may be in another user namespace than the initial one. The launcher handles that: a network of
/// that namespace needs no rule, and a user who is not mapped there gets no port. For most processes the answer needs
/// no /proc.
fn may_be_elsewhere() -> bool {
    let can_bind = capabilities(None).map_or(true, |sets| sets.effective.contains(CapabilitySet::NET_BIND_SERVICE));
    (can_bind || getuid().as_raw() == user_namespace::OVERFLOW_ID) && !user_namespace::is_first()
}

/// The options `-l`, each with its endpoint, among the words before the program.
fn pairs<'a>(before: &[Word<'a>]) -> Vec<Word<'a>> {
    let mut words = before.iter().skip(2);
    let mut pairs = Vec::new();
    while let Some(word) = words.next() {
        if matches!(word.to_c_str().to_bytes(), b"-l" | b"--listen") {
            pairs.push(*word);
            pairs.extend(words.next());
        }
    }
    pairs
}
