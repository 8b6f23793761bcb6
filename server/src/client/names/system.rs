//! The name service of the system: /etc/resolv.conf and /etc/hosts, read again when they change.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;

use super::HostName;
use super::error::NameServiceError;
use crate::failure::Error;

/// The maximum that is read of a file. (Hosts files that block advertisers have some megabytes.)
const LONGEST: u64 = 16 << 20;

/// The files and the servers.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
    /// Instead of those in resolv.conf
    pub(super) servers: Vec<SocketAddr>,
    /// The time limit of one question
    pub(super) limit: Duration,
    /// How many questions run at once
    pub(super) questions: usize,
}

/// The current content of the files.
pub(super) struct Service {
    pub(super) resolver: TokioResolver,
    pub(super) hosts: Hosts,
}

#[derive(Debug)]
pub(super) struct System {
    sources: Sources,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    stamps: [Option<Stamp>; 2],
    service: Arc<Service>,
}

/// Device, inode, size and time of change: they differ if the file or its content changed.
type Stamp = (u64, u64, u64, (i64, i64));

impl System {
    pub(super) fn read(sources: Sources) -> Result<System, Error> {
        let stamps = sources.stamps();
        let service = Arc::new(sources.service()?);
        Ok(System { sources, current: Mutex::new(Current { stamps, service }) })
    }

    /// The current servers; `None` if they have not changed. A file that cannot be read changes nothing.
    pub(super) fn news(&self) -> Option<Arc<Service>> {
        let stamps = self.sources.stamps();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if stamps == current.stamps {
            return None;
        }
        let service = Arc::new(self.sources.service().ok()?);
        *current = Current { stamps, service: Arc::clone(&service) };
        Some(service)
    }

    /// The servers to ask.
    pub(super) fn service(&self) -> Arc<Service> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner).service)
    }
}

impl Sources {
    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.size(), (file.ctime(), file.ctime_nsec())))
        })
    }

    fn service(&self) -> Result<Service, Error> {
        let failed = |path: &Path, source| NameServiceError { path: path.to_owned(), source };
        let hosts = Hosts::parse(&content(&self.hosts).map_err(|source| failed(&self.hosts, source))?);
        let resolver = self.resolver().map_err(|source| failed(&self.resolv_conf, source))?;
        Ok(Service { resolver, hosts })
    }

    fn resolver(&self) -> io::Result<TokioResolver> {
        let (config, options) = self.config()?;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let settings = builder.options_mut();
        *settings = options;
        settings.timeout = settings.timeout.min(self.limit);
        settings.max_active_requests = self.questions;
        // Results are remembered instead, and Hosts has the file.
        settings.cache_size = 0;
        settings.use_hosts_file = ResolveHosts::Never;
        builder.build().map_err(io::Error::other)
    }

    fn config(&self) -> io::Result<(ResolverConfig, ResolverOpts)> {
        if self.servers.is_empty() {
            return resolv_conf(content(&self.resolv_conf)?).map_err(io::Error::other);
        }
        let servers = self.servers.iter().map(|address| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
            NameServerConfig::new(address.ip(), true, connections.into())
        });
        Ok((ResolverConfig::from_parts(None, Vec::new(), servers.collect()), ResolverOpts::default()))
    }
}

/// Without a server in it, the one of this machine is asked (resolv.conf(5)). hickory treats that as an error.
fn resolv_conf(mut text: Vec<u8>) -> Result<(ResolverConfig, ResolverOpts), NetError> {
    parse_resolv_conf(&text).or_else(|_| {
        text.extend_from_slice(b"\nnameserver 127.0.0.1\n");
        parse_resolv_conf(&text)
    })
}

/// The content of the file. A missing file counts as empty.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_end(&mut content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(content)
}

/// hosts(5), both ways. (hickory returns the names of an address in no order, but the first is the host's own.)
#[derive(Debug, Default)]
pub(super) struct Hosts {
    names: HashMap<IpAddr, HostName>,
    addresses: HashMap<HostName, Vec<IpAddr>>,
}

impl Hosts {
    fn parse(text: &[u8]) -> Hosts {
        let mut hosts = Hosts::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            let address = address.to_canonical();
            for name in words.filter_map(HostName::new) {
                hosts.names.entry(address).or_insert_with(|| name.clone());
                hosts.addresses.entry(name).or_default().push(address);
            }
        }
        hosts
    }

    /// The name of the host with this address.
    pub(super) fn name(&self, address: IpAddr) -> Option<&HostName> {
        self.names.get(&address)
    }

    /// Whether `name` has this address. `None` if the file has no address of that family for it, so that DNS is asked.
    pub(super) fn confirm(&self, name: &HostName, address: IpAddr) -> Option<bool> {
        let addresses = self.addresses.get(name)?;
        let mut of_family = addresses.iter().filter(|known| known.is_ipv4() == address.is_ipv4()).peekable();
        of_family.peek()?;
        Some(of_family.any(|known| *known == address))
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn the_first_name_of_the_first_hosts_line_wins() {
        let hosts = Hosts::parse(
            b"127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # loopback\n# 10.0.0.9 commented\n\
            10.0.0.1 Web.Example.ORG web\n10.0.0.1 other\n10.0.0.2 $(id) fine bad;name\nfe80::1%eth0 zoned\n\
            not-an-address name\n10.0.0.3\n::ffff:10.0.0.4 mapped\n\xff\xfe 10.0.0.5 x\n10.0.0.6 web\n",
        );
        let name = |address| hosts.name(ip(address)).map(HostName::as_str);
        assert_eq!(name("127.0.0.1"), Some("localhost"));
        assert_eq!(name("::1"), Some("localhost"));
        assert_eq!(name("10.0.0.1"), Some("web.example.org"));
        assert_eq!(name("10.0.0.2"), Some("fine"));
        assert_eq!(name("10.0.0.4"), Some("mapped"));
        for address in ["10.0.0.9", "10.0.0.3", "10.0.0.5", "fe80::1"] {
            assert_eq!(name(address), None, "{address}");
        }
        let web = HostName::new("web").expect("a name");
        assert_eq!(hosts.confirm(&web, ip("10.0.0.1")), Some(true));
        assert_eq!(hosts.confirm(&web, ip("10.0.0.6")), Some(true));
        assert_eq!(hosts.confirm(&web, ip("10.0.0.7")), Some(false));
        assert_eq!(hosts.confirm(&web, ip("::7")), None, "of the other family DNS may know some");
    }

    #[test]
    fn without_a_configured_name_server_localhost_is_asked() {
        for text in ["", "search example.org\n", "# nothing"] {
            let (config, _) = resolv_conf(text.into()).expect(text);
            let servers: Vec<IpAddr> = config.name_servers().iter().map(|server| server.ip).collect();
            assert_eq!(servers, [ip("127.0.0.1")], "{text}");
        }
        let (config, options) = resolv_conf(b"nameserver 10.9.9.9\noptions timeout:2 attempts:1".into()).expect("fine");
        assert_eq!(config.name_servers()[0].ip, ip("10.9.9.9"));
        assert_eq!((options.timeout, options.attempts), (Duration::from_secs(2), 1));
    }
}
