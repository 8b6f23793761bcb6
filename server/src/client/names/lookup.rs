//! The lookup of one address: PTR, and for each name the check that it has the address (RFC 1912, 2.1).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use portgrant_protocol::text::printable;

use super::system::Service;
use super::{HostName, ReverseName};

/// How many names of one address are checked. A client chooses how many names it has, and which servers are asked.
const TRIED: usize = 4;

/// The result, and how long DNS wants it to be remembered.
pub(super) struct Found {
    pub(super) name: ReverseName,
    pub(super) lives: Option<Duration>,
}

pub(super) async fn name_of(service: &Service, address: IpAddr) -> Found {
    if let Some(name) = service.hosts.name(address) {
        return ReverseName::Confirmed(name.clone()).into();
    }
    if !is_known_to_dns(address) {
        return ReverseName::Missing.into();
    }
    let names = match service.resolver.lookup(Name::from(address), RecordType::PTR).await {
        Ok(names) => names,
        Err(error) => return failed(&error),
    };
    let mut claims: Vec<Claim> = answers(&names).filter_map(Claim::of).collect();
    // Servers return them in any order. The same address should always have the same name.
    claims.sort();
    claims.dedup();
    if claims.is_empty() {
        return Found { name: ReverseName::Missing, lives: left(&names) };
    }
    let mut failure = None;
    for claim in claims.iter().take(TRIED) {
        let Claim { name: Some(name), .. } = claim else { continue };
        match confirm(service, name, address).await {
            Ok(Some(lives)) => {
                return Found { name: ReverseName::Confirmed(name.clone()), lives: lives.min(left(&names)) };
            }
            Ok(None) => {}
            Err(error) => failure = Some(failed(&error)),
        }
    }
    // A failed check does not prove that the claim is false.
    failure.unwrap_or_else(|| Found {
        name: ReverseName::Unconfirmed { claim: claims.swap_remove(0).shown },
        lives: left(&names),
    })
}

/// A name that an address claims. Valid names come first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    is_none: bool,
    name: Option<HostName>,
    shown: String,
}

impl Claim {
    fn of(data: &RData) -> Option<Claim> {
        let RData::PTR(name) = data else { return None };
        let host_name = HostName::from_labels(name.0.iter());
        let shown = match &host_name {
            Some(name) => name.to_string(),
            None => printable(name.0.iter().collect::<Vec<_>>().join(&b'.').as_slice()),
        };
        Some(Claim { is_none: host_name.is_none(), name: host_name, shown })
    }
}

/// How long `name` has this address, if it has it.
async fn confirm(service: &Service, name: &HostName, address: IpAddr) -> Result<Option<Option<Duration>>, NetError> {
    if let Some(known) = service.hosts.confirm(name, address) {
        return Ok(known.then_some(None));
    }
    let kind = if address.is_ipv4() { RecordType::A } else { RecordType::AAAA };
    // With its final dot: no search list. A name that encodes Unicode (xn--) stays as it is.
    let question = Name::from_ascii(format!("{name}."))?;
    let addresses = match service.resolver.lookup(question, kind).await {
        Ok(addresses) => addresses,
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_there = answers(&addresses).any(|data| data.ip_addr() == Some(address));
    Ok(is_there.then(|| left(&addresses)))
}

/// The records of the requested name, or of the one that its CNAMEs lead to (RFC 2317). The resolver also returns
/// records of other names.
fn answers(lookup: &Lookup) -> impl Iterator<Item = &RData> {
    let asked = lookup.query().name();
    let canonical = lookup.answers().iter().fold(asked, |name, record| {
        if let RData::CNAME(to) = &record.data
            && record.name == *name
        {
            &to.0
        } else {
            name
        }
    });
    let meant = move |name: &Name| name == asked || name == canonical;
    lookup.answers().iter().filter(move |record| meant(&record.name)).map(|record| &record.data)
}

fn failed(error: &NetError) -> Found {
    if let NetError::Dns(DnsError::NoRecordsFound(none)) = error {
        let lives = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
        return Found { name: ReverseName::Missing, lives };
    }
    if matches!(error, NetError::Timeout) {
        return ReverseName::TimedOut.into();
    }
    ReverseName::Failed { why: printable(error.to_string().as_bytes()) }.into()
}

fn left(lookup: &Lookup) -> Option<Duration> {
    Some(lookup.valid_until().saturating_duration_since(Instant::now()))
}

/// Loopback and link-local addresses mean another host on each host. Only /etc/hosts can name them, and DNS servers
/// should not learn of them. Multicast groups and wildcards are not hosts.
fn is_known_to_dns(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()),
    }
}

impl From<ReverseName> for Found {
    fn from(name: ReverseName) -> Found {
        Found { name, lives: None }
    }
}
