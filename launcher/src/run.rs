//! `portgrant run`: runs a program that binds for itself under the supervisor, which answers its bind(2) calls.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use log::debug;
use portgrant_protocol::program::Unfit;
use portgrant_protocol::{Address, AskedPort, Endpoint, Protocol};
use portgrant_server::{Bind, Message, Services};
use portgrant_supervisor::helper;
use portgrant_supervisor::refusals;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{PTracer, set_ptracer};

use crate::{Error, Run, environment, podman, program};

/// Becomes the program, or the supervisor that becomes it.
pub(crate) fn run(asked: &Run, environment: Vec<CString>) -> Result<Infallible, Error> {
    let name = asked.program.first().map_or(OsStr::new(""), OsString::as_os_str);
    let path = portgrant_protocol::program::find(name, &environment)?;
    debug!("the program is {}", path.display());
    let helper = portgrant_server::helper::locate()?;
    if !asked.listen.is_empty() && !needs_help(&asked.listen, &helper)? {
        debug!("the kernel lets this process bind all of it: executing {}", path.display());
        return program::execute(&path, &asked.program, &environment)
            .map_err(|errno| Unfit::by_execve(&path, errno).into());
    }
    if let Some(warning) = podman::warning(&path, &environment) {
        crate::output::say(&warning);
    }
    let supervisor = helper.with_file_name("portgrant-supervisor");
    let mut words: Vec<OsString> = vec!["portgrant-supervisor".into()];
    if log::log_enabled!(log::Level::Debug) {
        words.push("--verbose".into());
    }
    words.extend(place()?);
    if let Some(file) = refusals::path(|name| environment::set(&environment, name).map(PathBuf::from)) {
        words.extend(["--refusals".into(), file.into()]);
    }
    words.extend([helper.into(), path.into()]);
    words.extend(asked.program.iter().cloned());
    debug!("executing {}", supervisor.display());
    program::execute(&supervisor, &words, &environment)
        .map_err(|errno| Error::Supervisor { path: supervisor, source: errno.into() })
}

/// Whether any endpoint needs the helper. A refusal ends the launcher here, before the program starts.
fn needs_help(listen: &[Endpoint], helper: &Path) -> Result<bool, Error> {
    let services = Services::system()?;
    let mut needs = false;
    for endpoint in listen {
        match try_bind(endpoint, &services) {
            Ok((_socket, Ok(()))) => debug!("{endpoint} needs no privilege here"),
            Ok((socket, Err(Errno::ACCESS))) => {
                granted(helper, endpoint, &socket)?;
                needs = true;
            }
            // In use or not there: the server crate finds the message.
            Ok((_, Err(_))) | Err(_) => {
                drop(Bind::endpoint(endpoint.clone()).socket()?);
                needs = true;
            }
        }
    }
    Ok(needs)
}

/// Checks that the policy permits it: the socket is bound and closed again. The program will bind its own.
fn granted(helper: &Path, endpoint: &Endpoint, socket: &OwnedFd) -> Result<(), Error> {
    debug!("asking {} whether {endpoint} will be granted", helper.display());
    helper::bind(helper, endpoint, socket.as_fd()).map_err(Error::Failed)
}

/// A socket like the program's, and the result of its bind(2). It does not listen, so no connection is lost.
fn try_bind(endpoint: &Endpoint, services: &Services) -> Result<(OwnedFd, Result<(), Errno>), Errno> {
    let ip = match endpoint.address {
        Address::V4(ip) => IpAddr::V4(ip),
        Address::V6(ip) => IpAddr::V6(ip),
        Address::Any | Address::Each => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let port = match &endpoint.port {
        AskedPort::Number(port) => port.get(),
        AskedPort::Service(name) => services.port(name, endpoint.protocol).ok_or(Errno::INVAL)?,
    };
    let (kind, protocol) = match endpoint.protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
        Protocol::Mptcp => (SocketType::STREAM, ipproto::MPTCP),
    };
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if endpoint.protocol.is_stream() {
        // Earlier connections in TIME_WAIT must not matter here.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    let bound = net::bind(&socket, &SocketAddr::new(ip, port));
    Ok((socket, bound))
}

/// The option for the supervisor's place. With Yama it may have to be the program's parent to inspect it (ptrace(2),
/// ptrace_scope).
fn place() -> Result<Option<OsString>, Error> {
    let scope = match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) => scope,
        // Without /proc, only Yama's presence can be found out. A parent may inspect its child with scope 0 and 1.
        Err(_) if set_ptracer(PTracer::None).is_ok() => "1".to_owned(),
        Err(_) => "0".to_owned(),
    };
    let (scope, why, fix) = match scope.trim() {
        "0" => return Ok(None),
        "1" => {
            debug!("kernel.yama.ptrace_scope is 1: the supervisor stays as the program's parent");
            return Ok(Some("--parent".into()));
        }
        // Not for root either: the supervisor gives that capability up, so that it has no more rights than the program.
        scope @ "2" => (
            scope,
            "only a process with CAP_SYS_PTRACE may inspect another, and the supervisor has no privilege",
            "sysctl kernel.yama.ptrace_scope=1",
        ),
        scope => {
            (scope, "no process may inspect another, until this machine is started again", "portgrant-kernel load")
        }
    };
    Err(Error::Unsupervised(Box::new(
        Message::new("portgrant run cannot work on this machine")
            .why(format!("kernel.yama.ptrace_scope is {scope}: {why}"))
            .fix(format!("use portgrant exec, which gives the program its sockets; or, as root, {fix}")),
    )))
}
