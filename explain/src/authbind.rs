//! Files of authbind that are given to `check` by mistake, as if they were a policy.

use std::ffi::OsStr;
use std::path::Path;

use portgrant_protocol::text::printable;
use portgrant_protocol::{Kind, Message};

/// The message for `file`, if it is one of authbind's files. Its path decides, because most of them are empty.
pub(crate) fn recognise(file: &Path) -> Option<Box<Message>> {
    let name = |path: &Path| path.file_name().map(OsStr::as_encoded_bytes).map(<[u8]>::to_vec).unwrap_or_default();
    let is_folder = |path: &Path| [&b"byport"[..], b"byaddr", b"byuid"].contains(&name(path).as_slice());
    let place = file.ancestors().take(2).find(|path| is_folder(path));
    let is_whole = name(file) == b"authbind" && file.is_dir();
    if place.is_none() && !is_whole {
        return None;
    }
    let what = match place.map(name).unwrap_or_default().as_slice() {
        b"byuid" => "each line there gives the user of that number some addresses and ports",
        b"byport" => "users who can execute that file may bind its port",
        b"byaddr" => "users who can execute that file may bind its address and port",
        _ => "its files give ports by their names and modes",
    };
    let message = Message::of(Kind::BrokenPolicy, format!("{} is authbind's", shown(file)));
    Some(Box::new(message.why(format!("{what}; portgrant does not read it")).fix("run: portgrant import authbind")))
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authbind_s_files_are_recognized_by_their_path() {
        for (path, expected) in [
            ("/etc/authbind/byport/80", Some("users who can execute that file may bind its port")),
            ("byport/!512", Some("users who can execute")),
            ("/etc/authbind/byuid/1000", Some("each line there gives the user of that number")),
            ("byaddr/127.0.0.1,80", Some("may bind its address and port")),
            ("/etc/authbind/byaddr", Some("may bind its address and port")),
            ("/etc/portgrant.conf", None),
            ("drafts/80", None),
            ("byport/80/x.conf", None),
        ] {
            let why = recognise(Path::new(path)).and_then(|message| message.why);
            assert_eq!(why.is_some(), expected.is_some(), "{path}");
            assert!(why.unwrap_or_default().contains(expected.unwrap_or_default()), "{path}");
        }
    }
}
