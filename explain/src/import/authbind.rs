//! authbind's files as rules: `byport`, `byaddr` and `byuid` below /etc/authbind, as authbind-helper(8) 2.1 reads them.
//!
//! The first file that exists decides: `byport/PORT`, then `byaddr/ADDRESS:PORT` or `byaddr/ADDRESS,PORT`, then
//! `byuid/UID`. A file of the first two permits those who may execute it (access(2)), and refuses everybody else, whatever
//! `byuid` says. For ports from 512 on each name begins with `!`. authbind asks for no protocol, so a permission is for tcp,
//! udp and sctp.

mod addresses;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use portgrant_protocol::Message;
use rustix::fs::getxattr;

use super::draft::Draft;
use super::{cannot_read, shown, text_of};
use addresses::Block;
use names::{Name, name};

/// Ports whose files have `!` before their names.
const UPPER: RangeInclusive<u16> = 512..=1023;
/// authbind only handles these ports.
const ALL: RangeInclusive<u16> = 1..=1023;
/// The longest line of `byuid/UID` that authbind reads in one piece.
const LONGEST_LINE: usize = 297;

/// The content of /etc/authbind.
#[derive(Debug, Default)]
struct Authbind {
    by_port: BTreeMap<u16, Flag>,
    by_address: BTreeMap<(u16, IpAddr), Flag>,
    by_uid: Vec<Line>,
}

/// A file that permits something to those who may execute it.
#[derive(Debug, Clone)]
struct Flag {
    place: String,
    owner: u32,
    group: u32,
    mode: u32,
    /// Why its mode does not decide, if so
    unclear: Option<&'static str>,
}

/// A line of `byuid/UID`.
#[derive(Debug, Clone)]
struct Line {
    place: String,
    uid: u32,
    block: Block,
    ports: RangeInclusive<u16>,
}

/// Reads the folder `path`.
pub(super) fn read(path: &Path, draft: &mut Draft) -> Result<(), Box<Message>> {
    let meta = fs::metadata(path).map_err(|error| cannot_read(path, &error.to_string()))?;
    if !meta.is_dir() {
        return Err(cannot_read(path, "it is not a folder with byport, byaddr and byuid"));
    }
    let mut found = Authbind::default();
    for folder in ["byport", "byaddr", "byuid"] {
        let folder = path.join(folder);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        if let Some(closed) = [path, &folder].into_iter().find(|folder| !everybody_may_search(folder)) {
            let why = "not everybody may search this folder, so authbind refuses its users; make it 0755 first";
            draft.leave_out(&shown(closed), why);
            return Ok(());
        }
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            found.add(&file, draft)?;
        }
    }
    found.rules(draft);
    Ok(())
}

fn everybody_may_search(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|meta| meta.mode() & 0o111 == 0o111)
}

impl Authbind {
    fn add(&mut self, file: &Path, draft: &mut Draft) -> Result<(), Box<Message>> {
        let place = shown(file);
        let Ok(meta) = fs::metadata(file) else {
            draft.note(&place, "authbind takes a link that leads nowhere for no file at all");
            return Ok(());
        };
        let name = match name(file) {
            Ok(name) => name,
            Err(why) => {
                draft.note(&place, format!("authbind never reads a file of this name: {why}"));
                return Ok(());
            }
        };
        let flag = || {
            let listed = getxattr(file, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok();
            let unclear = listed.then_some("its access list says who may execute it, and portgrant has no such lists");
            Flag { place: place.clone(), owner: meta.uid(), group: meta.gid(), mode: meta.mode(), unclear }
        };
        match name {
            Name::Port(port) => {
                self.by_port.insert(port, flag());
            }
            Name::Address { address, port, comes_first } => {
                let taken = self.by_address.contains_key(&(port, address));
                if !taken || comes_first {
                    self.by_address.insert((port, address), flag());
                }
                if taken {
                    draft.note(&place, "two files are for this address and port; authbind reads one of them only");
                }
            }
            Name::Uid { uid: 0, .. } => draft.note(&place, "authbind never asks for root, who can bind without it"),
            Name::Uid { uid, ports } => {
                for (number, text) in text_of(file)?.lines().enumerate() {
                    let place = format!("{place}:{}", number + 1);
                    if text.trim().is_empty() || text.trim_start().starts_with('#') {
                        continue;
                    }
                    match addresses::line(text).filter(|_| text.len() <= LONGEST_LINE) {
                        Some((block, range)) => {
                            let ports = *range.start().max(ports.start())..=*range.end().min(ports.end());
                            self.by_uid.push(Line { place, uid, block, ports });
                        }
                        None => {
                            draft.note(&place, "authbind ignores this line: it is not ADDRESS[/LENGTH],PORT[-PORT]");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn rules(&self, draft: &mut Draft) {
        for (port, flag) in &self.by_port {
            flag.rules(&in_every_protocol(&[*port..=*port]), "", draft);
        }
        for ((port, address), flag) in &self.by_address {
            if let IpAddr::V6(ip) = address
                && ip.to_ipv4_mapped().is_some()
            {
                draft.leave_out(&flag.place, "an IPv4 address of an IPv6 socket: write its IPv4 address instead");
                continue;
            }
            let on = match address {
                IpAddr::V4(ip) => format!(" on {ip}"),
                IpAddr::V6(ip) => format!(" on [{ip}]"),
            };
            if !self.by_port.contains_key(port) {
                flag.rules(&in_every_protocol(&[*port..=*port]), &on, draft);
            }
        }
        for line in &self.by_uid {
            self.line(line, draft);
        }
    }

    /// The part of a line for which no other file decides, as rules.
    fn line(&self, line: &Line, draft: &mut Draft) {
        let is_elsewhere = |port: &u16| self.by_address.keys().any(|(at, ip)| at == port && line.block.holds(*ip));
        let (mut plain, mut apart): (Vec<RangeInclusive<u16>>, Vec<u16>) = (Vec::new(), Vec::new());
        for port in line.ports.clone().filter(|port| !self.by_port.contains_key(port)) {
            if is_elsewhere(&port) {
                apart.push(port);
                continue;
            }
            match plain.last_mut() {
                Some(range) if *range.end() + 1 == port => *range = *range.start()..=port,
                _ => plain.push(port..=port),
            }
        }
        let subject = names::user(line.uid);
        let mut permit = |ports: &[RangeInclusive<u16>], sets: Vec<String>| {
            let words = in_every_protocol(ports);
            if !words.is_empty() && !sets.is_empty() {
                draft.permit(&line.place, rule("permit", &subject, &words, &format!(" on {}", sets.join(" "))));
            }
        };
        permit(&plain, line.block.sets());
        for port in apart {
            let elsewhere = self.by_address.keys().filter(|(at, _)| *at == port).map(|(_, ip)| *ip);
            permit(&[port..=port], line.block.without(elsewhere).iter().flat_map(Block::sets).collect());
        }
        if line.block.is_everything_of_ipv6() && !line.ports.is_empty() {
            draft.note(
                &line.place,
                "[::] is a socket for IPv4 as well, in authbind too, so the rule also permits 0.0.0.0; addresses like \
                 ::ffff:10.0.0.1 are not taken over",
            );
        }
    }
}

impl Flag {
    /// The rules for a mode, by the rules of access(2): the owner's bit decides for the owner, the group's bit for the
    /// group.
    fn rules(&self, ports: &str, on: &str, draft: &mut Draft) {
        if let Some(why) = self.unclear {
            return draft.leave_out(&self.place, why);
        }
        let (owner, group) = (names::user(self.owner), names::group(self.group));
        let [of_owner, of_group, of_others] = [0o100, 0o010, 0o001].map(|bit| self.mode & bit != 0);
        // authbind is never asked for root.
        let is_root = self.owner == 0;
        let wanted = [
            ("permit", "any", of_others),
            ("permit", &group, of_group && !of_others),
            ("permit", &owner, of_owner && !of_others && !is_root),
            ("deny", &group, of_others && !of_group),
            ("deny", &owner, (of_others || of_group) && !of_owner && !is_root),
        ];
        for (effect, subject, _) in wanted.iter().filter(|(_, _, is_wanted)| *is_wanted) {
            draft.permit(&self.place, rule(effect, subject, ports, on));
        }
        if of_others {
            let text = format!("its mode is {:04o}, so authbind permits this to everybody", self.mode & 0o7777);
            let one = if of_owner && !is_root { owner.as_str() } else { "one user" };
            draft.note(&self.place, format!("{text}; if only {one} is meant, write permit {one} instead of any"));
        }
        if !of_group && of_others {
            draft.note(&self.place, "a deny for the group also refuses the owner of the file, if they are a member");
        }
        if !on.is_empty() && wanted.iter().any(|(effect, _, is_wanted)| *is_wanted && *effect == "deny") {
            draft.note(&self.place, "for udp a deny with an address refuses its whole family");
        }
        if !(of_owner && !is_root || of_group || of_others) {
            draft.note(&self.place, "only root may execute this file, so authbind permits it to no other user");
        }
    }
}

fn rule(effect: &str, subject: &str, ports: &str, on: &str) -> String {
    let first = ports.split([' ', '-', '/']).next().and_then(|port| port.parse().ok());
    let reserved = if effect == "permit" && first.is_some_and(|port| UPPER.contains(&port)) { " reserved" } else { "" };
    format!("{effect} {subject} {ports}{on}{reserved}")
}

/// tcp, udp and sctp: `80 80/udp 80/sctp`.
fn in_every_protocol(ranges: &[RangeInclusive<u16>]) -> String {
    let ranges: Vec<String> = ranges
        .iter()
        .map(|range| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        })
        .collect();
    ["", "/udp", "/sctp"]
        .iter()
        .flat_map(|end| ranges.iter().map(move |range| format!("{range}{end}")))
        .collect::<Vec<_>>()
        .join(" ")
}
