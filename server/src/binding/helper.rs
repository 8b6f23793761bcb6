//! The privileged helper, `portgrant-binder`: where it is, and how it is asked for sockets.

use std::ffi::OsString;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use portgrant_protocol::Endpoint;
use portgrant_protocol::record::Reply;
use portgrant_protocol::transfer;

use super::error::RequestError;
use crate::adopting::{HandoverError, Refused};
use crate::failure::Error;

/// The variable that names a helper in another place, by an absolute path.
pub const VARIABLE: &str = "PORTGRANT_BINDER";

/// Where installations put the helper, below their prefix.
const BELOW_PREFIX: &str = "libexec/portgrant/portgrant-binder";
const PREFIXES: [&str; 2] = ["/usr/local", "/usr"];

/// The path of the helper: the variable `PORTGRANT_BINDER`, else `../libexec/portgrant/portgrant-binder` as seen from
/// the folder of the running program, else the same below /usr/local and /usr. The first that is there.
///
/// The variable is the caller's word, so a program that runs with another's privilege (setuid, setgid) ignores it.
pub fn locate() -> Result<PathBuf, Error> {
    let places = places()?;
    match places.iter().find(|place| place.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(RequestError::HelperMissing { places }.into()),
    }
}

/// Every path at which [`locate`] looks, in its order.
pub fn places() -> Result<Vec<PathBuf>, Error> {
    let variable = std::env::var_os(VARIABLE).filter(|_| !is_setid());
    // The link itself, not where it leads to after an upgrade has replaced the program.
    let program = std::fs::read_link("/proc/self/exe").ok();
    places_of(variable, program.as_deref())
}

fn places_of(variable: Option<OsString>, program: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    if let Some(path) = variable.map(PathBuf::from) {
        return if path.is_absolute() { Ok(vec![path]) } else { Err(RequestError::HelperNotAbsolute { path }.into()) };
    }
    let beside = program.and_then(Path::parent).and_then(Path::parent);
    let prefixes = beside.into_iter().chain(PREFIXES.map(Path::new));
    let mut places: Vec<PathBuf> = prefixes.map(|prefix| prefix.join(BELOW_PREFIX)).collect();
    places.dedup();
    Ok(places)
}

fn is_setid() -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    getuid() != geteuid() || getgid() != getegid()
}

/// Runs `helper` to bind `endpoints`, and receives its one reply with the descriptors that came along.
///
/// Whatever happens, no child is left behind: the helper's end of the conversation closes with it, and it is waited
/// for.
pub(crate) fn pass(helper: &Path, endpoints: &[Endpoint]) -> Result<(Reply, Vec<OwnedFd>), Error> {
    let (ours, theirs) = transfer::pair().map_err(|source| Error::system("cannot create a pair of sockets", source))?;
    let child = start(helper, endpoints, theirs)?;
    let received = transfer::receive(ours.as_fd());
    drop(ours);
    let status = wait(child);
    let (record, descriptors) = match received {
        Ok(received) => received,
        Err(transfer::TransferError::Ended) => {
            return Err(RequestError::unanswered(helper, status).into());
        }
        Err(error) => return Err(HandoverError::Transfer(error).into()),
    };
    let reply = Reply::parse(&record).map_err(HandoverError::Record)?;
    Ok((reply, descriptors))
}

/// Runs `helper` to bind this process's own `socket` to `endpoint`.
pub(crate) fn bind(helper: &Path, endpoint: &Endpoint, socket: &UdpSocket) -> Result<(), Error> {
    let failed = |source| Error::system("cannot pass a socket to the helper", source);
    let copy: OwnedFd = socket.try_clone().map_err(failed)?.into();
    let (ours, theirs) = transfer::pair().map_err(failed)?;
    let mut command = Command::new(helper);
    command.args(["bind", "-l", &endpoint.to_string(), "--socket", "0", "--answer", "1"]);
    command.stdin(Stdio::from(copy)).stdout(Stdio::from(theirs));
    let child = command.spawn().map_err(|source| RequestError::Helper { helper: helper.to_owned(), source })?;
    drop(command);
    let answer = transfer::receive(ours.as_fd());
    let status = wait(child);
    // The socket tells, not the status: that is not known where SIGCHLD is ignored.
    if socket.local_addr().is_ok_and(|local| local.port() != 0) {
        return Ok(());
    }
    match answer.map(|(record, _)| Reply::parse(&record)) {
        Ok(Ok(Reply::Failed(message))) => Err(Refused(message).into()),
        _ => Err(RequestError::unanswered(helper, status).into()),
    }
}

/// The command, and with it our copy of the helper's end, is gone when this returns: only so is its silence noticed.
///
/// Nothing is set on the command that would make std fork by itself (a folder, a uid, a hook): its posix_spawn(3)
/// reports a failed execve also where SIGCHLD is ignored, and there its own fork panics.
fn start(helper: &Path, endpoints: &[Endpoint], conversation: OwnedFd) -> Result<Child, RequestError> {
    let mut command = Command::new(helper);
    command.arg("pass");
    for endpoint in endpoints {
        command.arg("-l").arg(endpoint.to_string());
    }
    command.args(["--to", "0"]).stdin(Stdio::from(conversation)).stdout(Stdio::null());
    command.spawn().map_err(|source| RequestError::Helper { helper: helper.to_owned(), source })
}

/// `None` where the kernel kept no status: SIGCHLD is ignored (ECHILD then), or a handler of the server's was faster.
fn wait(mut child: Child) -> Option<ExitStatus> {
    child.wait().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_the_program_and_then_where_systems_put_it() {
        let found = places_of(None, Some(Path::new("/opt/pg/bin/portgrant"))).expect("places");
        let expected = [
            "/opt/pg/libexec/portgrant/portgrant-binder",
            "/usr/local/libexec/portgrant/portgrant-binder",
            "/usr/libexec/portgrant/portgrant-binder",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let found = places_of(None, Some(Path::new("/usr/local/bin/portgrant"))).expect("places");
        assert_eq!(found, expected[1..].iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(places_of(None, Some(Path::new("/server"))).expect("places").len(), 2);
    }

    #[test]
    fn the_variable_replaces_every_other_place_and_must_be_absolute() {
        let found = places_of(Some("/elsewhere/binder".into()), Some(Path::new("/usr/bin/portgrant")));
        assert_eq!(found.expect("a place"), [PathBuf::from("/elsewhere/binder")]);
        for relative in ["binder", "./binder", ""] {
            let error = places_of(Some(relative.into()), None).expect_err(relative).to_string();
            assert!(error.contains("PORTGRANT_BINDER") && error.contains("absolute"), "{error}");
        }
    }
}
