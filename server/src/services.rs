//! Service names and ports (services(5)), and the choice of a server's port.

use std::io;
use std::path::{Path, PathBuf};

use portgrant_protocol::endpoint::{self, AskedPort, Endpoint};
use portgrant_protocol::{Port, Protocol, service, status};
use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::failure::{Error, Report, failure, shown};
use crate::resolved::InvalidEndpoint;

/// Ports by name and names by port, from services(5). Entries of your own can come first.
///
/// ```
/// # use portgrant_server::{Protocol, Services};
/// let services = Services::system()?.with(b"mydaemon 7001/tcp");
/// assert_eq!(services.port("mydaemon", Protocol::Tcp), Some(7001));
/// assert_eq!(services.name(7001, Protocol::Tcp), Some("mydaemon"));
/// if services.name(9119, Protocol::Tcp).is_none() {
///     println!("9119 is nobody's in /etc/services: a port that a new server may choose");
/// }
/// # Ok::<(), portgrant_server::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Services {
    own: service::Services,
    system: service::Services,
}

impl Services {
    /// The entries of `/etc/services`. Empty if the file does not exist, as in many containers.
    pub fn system() -> Result<Services, Error> {
        Ok(Services { own: service::Services::default(), system: system()? })
    }

    /// The entries of another file in that format.
    pub fn read(path: impl AsRef<Path>) -> Result<Services, Error> {
        Ok(Services { own: service::Services::default(), system: open(path.as_ref())? })
    }

    /// Adds the entries of `text`, in the same format. They take precedence over the file, and replace those of an
    /// earlier `with`.
    pub fn with(self, text: &[u8]) -> Services {
        Services { own: service::Services::parse(text), ..self }
    }

    /// The port of the service `name`, or of an alias (getservbyname(3)).
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.own.port(name, protocol).or_else(|| self.system.port(name, protocol)).map(Port::get)
    }

    /// The name of `port`: the first one, not an alias (getservbyport(3)).
    pub fn name(&self, port: u16, protocol: Protocol) -> Option<&str> {
        let port = Port::new(port)?;
        self.own.name(port, protocol).or_else(|| self.system.name(port, protocol))
    }

    /// The endpoint of the server `service`, whose usual port is `usual`. In this order, it is chosen by
    /// 1. the user, with `wish`: any endpoint (`8119`, `127.0.0.1:nntp`, `[::1]:8119`) from an argument or a
    ///    configuration file;
    /// 2. the administrator, with an entry for `service`;
    /// 3. the server, with `usual`.
    ///
    /// The name of the endpoint is `service` unless the wish has another one. Its protocol is `protocol` unless the
    /// wish names another.
    ///
    /// ```
    /// # use portgrant_server::{Protocol, Request, Services};
    /// let wish = std::env::var("MYDAEMON_LISTEN").ok(); // nothing, or "8119", "127.0.0.1:8119"
    /// let services = Services::system()?;
    /// let endpoint = services.choose(wish.as_deref(), "mydaemon", Protocol::Tcp, 7001)?;
    /// assert_eq!(endpoint.to_string(), "mydaemon=7001");
    /// let request = Request::new().endpoint(endpoint); // .send()?.tcp("mydaemon")?
    /// # let _ = request;
    /// # Ok::<(), portgrant_server::Error>(())
    /// ```
    pub fn choose(&self, wish: Option<&str>, service: &str, protocol: Protocol, usual: u16) -> Result<Endpoint, Error> {
        let text = wish.map_or_else(|| self.port(service, protocol).unwrap_or(usual).to_string(), str::to_owned);
        let wrong = |source| InvalidEndpoint { text: text.clone(), source };
        let mut endpoint: Endpoint = text.parse().map_err(wrong)?;
        if endpoint.protocol == Protocol::default() {
            endpoint.protocol = protocol;
        }
        let own = match &endpoint.port {
            AskedPort::Service(name) => self.own.port(name, endpoint.protocol),
            AskedPort::Number(_) => None,
        };
        let port = match own {
            Some(port) => port,
            None => endpoint.clone().resolve(&self.system).map_err(wrong)?.port,
        };
        let name = endpoint.name.or_else(|| Some(service.to_owned()).filter(|name| endpoint::is_name(name)));
        Ok(Endpoint { port: AskedPort::Number(port), name, ..endpoint })
    }
}

/// The entries of `/etc/services`; none if it does not exist.
pub(crate) fn system() -> Result<service::Services, ServicesError> {
    match open(service::PATH.as_ref()) {
        Err(ServicesError { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(service::Services::default())
        }
        read => read,
    }
}

fn open(path: &Path) -> Result<service::Services, ServicesError> {
    let text = std::fs::read(path).map_err(|source| ServicesError { path: path.to_owned(), source })?;
    Ok(service::Services::parse(&text))
}

/// A services(5) file could not be read
#[derive(Debug)]
#[non_exhaustive]
pub struct ServicesError {
    /// The file
    pub path: PathBuf,
    /// Why it could not be read
    pub source: io::Error,
}

impl ServicesError {
    fn report(&self) -> Report<'_> {
        let report = Report::what(format!("cannot read {}", shown(&self.path))).because(&self.source);
        if self.path == Path::new(service::PATH) && self.source.kind() == io::ErrorKind::PermissionDenied {
            // As the helper says it of a table that its caller may not read.
            let closed = |folder: &&Path| access(*folder, Access::EXEC_OK) == Err(Errno::ACCESS);
            let fix = match self.path.ancestors().skip(1).filter(closed).last() {
                Some(folder) => format!("as root: chmod 0755 {}", shown(folder)),
                None => format!("as root: chmod 0644 {}", shown(&self.path)),
            };
            return report.fix(fix).status(status::BROKEN);
        }
        report.fix("check that the file exists and that this user may read it")
    }
}

failure!(ServicesError);

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        let system = service::Services::parse(b"nntp 119/tcp usenet\ndomain 53/tcp\ndomain 53/udp\nmydaemon 7002/tcp");
        Services { own: service::Services::default(), system }
    }

    #[test]
    fn own_service_names_override_those_of_the_system() {
        let services = services().with(b"nntp 8119/tcp\nalice 53/udp");
        assert_eq!(services.port("nntp", Protocol::Tcp), Some(8119));
        assert_eq!(services.port("usenet", Protocol::Tcp), Some(119));
        assert_eq!(services.name(53, Protocol::Udp), Some("alice"));
        assert_eq!(services.name(53, Protocol::Tcp), Some("domain"));
        assert_eq!(services.name(119, Protocol::Tcp), Some("nntp"));
    }

    #[test]
    fn the_port_comes_from_the_user_then_services_then_the_default() {
        /// The wish of the user, the service, and the endpoint.
        const CHOICES: &[(Option<&str>, &str, &str)] = &[
            (None, "unheard-of", "unheard-of=7001"),
            (None, "mydaemon", "mydaemon=7002"),
            (Some("7003"), "mydaemon", "mydaemon=7003"),
            (Some("127.0.0.1:usenet"), "mydaemon", "mydaemon=127.0.0.1:119"),
            (Some("news=[::1]:nntp"), "mydaemon", "news=[::1]:119"),
            (Some("mine"), "mydaemon", "mydaemon=7004"),
            (Some("domain/udp,rcvbuf=65536"), "mydaemon", "mydaemon=53/udp,rcvbuf=65536"),
        ];
        let services = services().with(b"mine 7004/tcp");
        for (wish, service, expected) in CHOICES {
            let chosen = services.choose(*wish, service, Protocol::Tcp, 7001).expect(expected);
            assert_eq!(chosen.to_string(), *expected);
        }
        let udp = services.choose(Some("5300"), "domain", Protocol::Udp, 53).expect("a port");
        assert_eq!(udp.to_string(), "domain=5300/udp", "a bare port is of the server's protocol");
    }

    #[test]
    fn an_invalid_port_argument_is_an_error_and_not_the_default() {
        for (wish, expected) in [("65655", "is not a valid port"), ("", "is empty"), ("nosuch", "is not a service")] {
            let error = services().choose(Some(wish), "mydaemon", Protocol::Tcp, 7001).expect_err(wish).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_unreadable_services_file_is_reported_by_name() {
        let error = Services::read("/nonexistent/services").expect_err("not there").to_string();
        assert!(error.contains("/nonexistent/services"), "{error}");
    }
}
