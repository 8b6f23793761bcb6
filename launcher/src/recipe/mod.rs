//! `portgrant recipe`: prints the recipe of a server or a list of them, or writes the files of one.

mod text;

use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use portgrant_protocol::text::printable;
use portgrant_server::Message;

use crate::servers::{Server, named};
use crate::{Error, Recipe};

/// Returns the text to print, as [`Error::Answered`].
pub(crate) fn recipe(asked: &Recipe) -> Result<Infallible, Error> {
    let server = asked.server.as_deref().and_then(named);
    match (&asked.write, server) {
        (Some(folder), Some(server)) => Err(Error::Answered(write(server, folder)?)),
        (_, server) => Err(Error::Answered(server.map_or_else(text::list, text::of))),
    }
}

/// Writes the files of `server`. Returns a text that names them and the next command. No existing file is replaced.
fn write(server: &Server, folder: &Path) -> Result<String, Error> {
    let name = server.name;
    if server.files.is_empty() {
        let message = Message::new(format!("the recipe of {name} has no file")).why("its command is all that it needs");
        return Err(Error::Usage(Box::new(message.fix(format!("see portgrant recipe {name}")))));
    }
    let files: Vec<(PathBuf, &str)> =
        server.files.iter().map(|(file, content)| (folder.join(file), *content)).collect();
    let shown = |path: &Path| printable(path.as_os_str().as_bytes());
    if let Some((path, _)) = files.iter().find(|(path, _)| fs::symlink_metadata(path).is_ok()) {
        let message = Message::new(format!("{} exists already", shown(path))).why("no file is ever replaced");
        return Err(Error::Usage(Box::new(message.fix("name an empty folder, or a new one"))));
    }
    let mut text = String::new();
    for (path, content) in &files {
        let written = fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| OpenOptions::new().write(true).create_new(true).open(path))
            .and_then(|mut file| file.write_all(content.as_bytes()));
        written.map_err(|error| {
            let message = Message::new(format!("{} cannot be written", shown(path))).why(error.to_string());
            Error::Failed(Box::new(message.fix("name a folder in which you may write")))
        })?;
        text += &format!("{}\n", shown(path));
    }
    Ok(text + &text::next(server, &shown(folder)))
}
