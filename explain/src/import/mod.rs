//! `import`: turns files of authbind, inetd, xinetd, tcpserver or systemd into rules and commands. Only `--write`
//! writes files, and no existing file is replaced.
//!
//! A rule or a command never permits more than its source. A setting without an equivalent becomes a remark. If the
//! entry would permit more without the setting, the whole entry is left out, and the exit status is 1.

mod authbind;
mod draft;
mod inetd;
mod quote;
mod server;
mod systemd;
mod tcpserver;
mod xinetd;

use std::path::{Path, PathBuf};

use portgrant_policy::Distrust;
use portgrant_protocol::service::{self, Services};
use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};
use portgrant_trusted::read_unjudged;
use rustix::io::Errno;

use crate::arguments::{Import, Origin};
use crate::output;
use draft::Draft;

/// The file that is read if none is named.
fn usual_file(origin: Origin) -> Result<&'static str, Box<Message>> {
    match origin {
        Origin::Authbind => Ok("/etc/authbind"),
        Origin::Inetd => Ok("/etc/inetd.conf"),
        Origin::Xinetd => Ok("/etc/xinetd.conf"),
        Origin::Tcpserver => Err(Box::new(
            Message::of(Kind::Usage, "no file is given").fix("expected the run script with the tcpserver command"),
        )),
        Origin::Systemd => Err(Box::new(
            Message::of(Kind::Usage, "no file is given").fix("expected FILE.socket; its service is found beside it"),
        )),
    }
}

/// The names of ports. Empty if /etc/services is missing.
fn services() -> Result<Services, Box<Message>> {
    match read_unjudged(service::PATH.as_bytes()) {
        Ok(text) => Ok(Services::parse(&text)),
        Err(Distrust::System(Errno::NOENT)) => Ok(Services::default()),
        Err(why) => {
            let why = if why == Distrust::System(Errno::ACCESS) { Distrust::Unreadable } else { why };
            let message = Message::of(Kind::BrokenPolicy, format!("cannot read {}", service::PATH));
            Err(Box::new(message.why(why.to_string()).fix(why.fix(service::PATH.as_bytes()))))
        }
    }
}

/// Returns 0 if everything was imported, 1 if something was left out.
pub(crate) fn import(asked: &Import) -> Result<u8, Box<Message>> {
    let usual;
    let files = if asked.files.is_empty() {
        usual = [PathBuf::from(usual_file(asked.from)?)];
        &usual[..]
    } else {
        &asked.files
    };
    let services = match asked.from {
        Origin::Authbind | Origin::Systemd => Services::default(),
        Origin::Inetd | Origin::Xinetd | Origin::Tcpserver => services()?,
    };
    let mut draft = Draft::default();
    for file in files {
        match asked.from {
            Origin::Authbind => authbind::read(file, &mut draft)?,
            Origin::Inetd => inetd::read(file, &services, &mut draft)?,
            Origin::Xinetd => xinetd::read(file, &services, &mut draft)?,
            Origin::Tcpserver => tcpserver::read(file, &services, &mut draft)?,
            Origin::Systemd => systemd::read(file, &mut draft)?,
        }
    }
    let text = match &asked.write {
        Some(folder) => draft.write(folder, asked.from.word())?,
        None => draft.text(asked.from.word()),
    };
    output::print(&text)?;
    Ok(u8::from(draft.left_something_out()))
}

/// A file's text. Bytes that are not UTF-8 are replaced, and match no keyword.
fn text_of(path: &Path) -> Result<String, Box<Message>> {
    let text = read_unjudged(path.as_os_str().as_encoded_bytes()).map_err(|why| cannot_read(path, &why.to_string()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn cannot_read(path: &Path, why: &str) -> Box<Message> {
    let message = Message::of(Kind::Usage, format!("{} cannot be read", shown(path))).why(why);
    Box::new(message.fix("name the file that is to be imported, and read it as a user who may"))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}
