//! The privileged helper, `portgrant-binder`: where it is installed, and how it is asked for sockets.

use std::ffi::{OsStr, OsString};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use portgrant_protocol::Endpoint;
use portgrant_protocol::record::Reply;
use portgrant_protocol::{installation, transfer};

use super::error::RequestError;
use crate::adopting::{HandoverError, Refused};
use crate::failure::Error;

/// The variable that names a helper at another path, which must be absolute.
pub const VARIABLE: &str = "PORTGRANT_BINDER";

/// The path of the helper. It is the first of these that exists: the variable `PORTGRANT_BINDER`;
/// `../libexec/portgrant/portgrant-binder` relative to the folder of the running program; the same below /usr/local and
/// /usr. A program in `libexec/portgrant` looks beside itself.
///
/// A program that runs with another user's privilege (setuid, setgid) ignores the variable, which its caller controls.
pub fn locate() -> Result<PathBuf, Error> {
    let places = places()?;
    match places.iter().find(|place| place.is_file()) {
        Some(found) => Ok(found.clone()),
        None => Err(RequestError::HelperMissing { places }.into()),
    }
}

/// All paths at which [`locate`] looks, in order.
pub fn places() -> Result<Vec<PathBuf>, Error> {
    let variable = std::env::var_os(VARIABLE).filter(|_| !is_setid());
    // The path of the link itself. After an upgrade it no longer leads to the running program.
    let program = std::fs::read_link("/proc/self/exe").ok();
    places_of(variable, program.as_deref())
}

fn places_of(variable: Option<OsString>, program: Option<&Path>) -> Result<Vec<PathBuf>, Error> {
    if let Some(path) = variable.map(PathBuf::from) {
        return if path.is_absolute() { Ok(vec![path]) } else { Err(RequestError::HelperNotAbsolute { path }.into()) };
    }
    let own = program.and_then(|program| installation::prefix(program.as_os_str().as_bytes()));
    let usual = installation::PREFIXES.map(str::as_bytes).into_iter().filter(|prefix| Some(*prefix) != own);
    let prefixes = own.into_iter().chain(usual).map(OsStr::from_bytes);
    let below = |prefix| Path::new("/").join(prefix).join(installation::FOLDER).join("portgrant-binder");
    Ok(prefixes.map(below).collect())
}

fn is_setid() -> bool {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    getuid() != geteuid() || getgid() != getegid()
}

/// Runs `helper` to bind `endpoints`, and receives its reply with the descriptors.
///
/// No child is left behind in any case: the helper's end of the conversation closes when the helper ends, and the
/// helper is waited for.
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

/// Runs `helper` to bind `socket`, which this process created, to `endpoint`.
pub(crate) fn bind(helper: &Path, endpoint: &Endpoint, socket: &UdpSocket) -> Result<(), Error> {
    let failed = |source| Error::system("cannot pass a socket to the helper", source);
    let copy: OwnedFd = socket.try_clone().map_err(failed)?.into();
    let (ours, theirs) = transfer::pair().map_err(|errno| failed(errno.into()))?;
    let mut command = Command::new(helper);
    command.args(["bind", "-l", &endpoint.to_string(), "--socket", "0", "--answer", "1"]);
    command.stdin(Stdio::from(copy)).stdout(Stdio::from(theirs));
    let child = command.spawn().map_err(|source| RequestError::Helper { helper: helper.to_owned(), source })?;
    drop(command);
    let answer = transfer::receive(ours.as_fd());
    let status = wait(child);
    // Check the socket, not the status, which is unknown if SIGCHLD is ignored.
    if socket.local_addr().is_ok_and(|local| local.port() != 0) {
        return Ok(());
    }
    match answer.map(|(record, _)| Reply::parse(&record)) {
        Ok(Ok(Reply::Failed(message))) => Err(Refused(message).into()),
        _ => Err(RequestError::unanswered(helper, status).into()),
    }
}

/// Starts the helper. When this returns, only the helper has its end of the conversation, so that its end is noticed.
///
/// Set nothing on the command for which std would fork by itself (a folder, a uid, a hook). With posix_spawn(3) std
/// reports a failed execve even if SIGCHLD is ignored; with its own fork it panics then.
fn start(helper: &Path, endpoints: &[Endpoint], conversation: OwnedFd) -> Result<Child, RequestError> {
    let mut command = Command::new(helper);
    command.arg("pass");
    for endpoint in endpoints {
        command.arg("-l").arg(endpoint.to_string());
    }
    command.args(["--to", "0"]).stdin(Stdio::from(conversation)).stdout(Stdio::null());
    command.spawn().map_err(|source| RequestError::Helper { helper: helper.to_owned(), source })
}

/// Returns `None` if the status is lost: SIGCHLD is ignored (ECHILD), or a handler of the server was faster.
fn wait(mut child: Child) -> Option<ExitStatus> {
    child.wait().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_searched_beside_the_program_and_in_libexec() {
        let found = places_of(None, Some(Path::new("/opt/pg/bin/portgrant"))).expect("places");
        let expected = [
            "/opt/pg/libexec/portgrant/portgrant-binder",
            "/usr/local/libexec/portgrant/portgrant-binder",
            "/usr/libexec/portgrant/portgrant-binder",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let found = places_of(None, Some(Path::new("/opt/pg/libexec/portgrant/portgrant"))).expect("places");
        assert_eq!(found, expected.map(PathBuf::from));
        let found = places_of(None, Some(Path::new("/usr/local/bin/portgrant"))).expect("places");
        assert_eq!(found, expected[1..].iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(places_of(None, Some(Path::new("/server"))).expect("places").len(), 2);
    }

    #[test]
    fn the_helper_variable_overrides_all_places_and_must_be_absolute() {
        let found = places_of(Some("/elsewhere/binder".into()), Some(Path::new("/usr/bin/portgrant")));
        assert_eq!(found.expect("a place"), [PathBuf::from("/elsewhere/binder")]);
        for relative in ["binder", "./binder", ""] {
            let error = places_of(Some(relative.into()), None).expect_err(relative).to_string();
            assert!(error.contains("PORTGRANT_BINDER") && error.contains("absolute"), "{error}");
        }
    }
}
