//! Checks that only root can change a file and every folder above it. Otherwise another user could replace the file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use portgrant_protocol::user_namespace;

use super::{Finding, State, shown};

/// What is wrong with `path` and the folders above it, both for the path as given and for the file that a symlink
/// names.
pub(super) fn judge(about: &'static str, path: &Path) -> Vec<Finding> {
    let real = fs::canonicalize(path);
    let real = match real {
        Ok(real) => real,
        Err(error) => return vec![unseen(about, path, &error)],
    };
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let places: BTreeSet<PathBuf> =
        real.ancestors().chain(folder.iter().flat_map(|folder| folder.ancestors())).map(Path::to_owned).collect();
    places.iter().filter_map(|place| wrong(about, place)).collect()
}

fn wrong(about: &'static str, place: &Path) -> Option<Finding> {
    let found = match fs::metadata(place) {
        Ok(found) => found,
        Err(error) => return Some(unseen(about, place, &error)),
    };
    let name = shown(place);
    let broken = |text| Finding::new(State::Broken, about, text);
    if found.uid() == user_namespace::OVERFLOW_ID && !user_namespace::is_first() {
        let text = format!("the owner of {name} has no id in this user namespace, so it may be anybody's");
        let fix = "run it outside of the user namespace, or install it inside as that namespace's root";
        return Some(broken(text).fix(fix));
    }
    if found.uid() != 0 {
        let text = format!("{name} belongs to uid {}, who can put anything there", found.uid());
        return Some(broken(text).fix(format!("as root: chown root {name}")));
    }
    if found.mode() & 0o022 != 0 {
        let text = format!("{name} has mode {:04o}: users other than root can change it", found.mode() & 0o7777);
        // A sticky folder is writable for everybody on purpose.
        let shared = found.is_dir() && found.mode() & 0o1000 != 0;
        let mend = if shared { ", install it outside of" } else { ": chmod go-w" };
        return Some(broken(text).fix(format!("as root{mend} {name}")));
    }
    None
}

fn unseen(about: &'static str, place: &Path, error: &io::Error) -> Finding {
    Finding::new(State::Broken, about, format!("{}: {error}", shown(place)))
        .fix(format!("as root, look at {}", shown(place)))
}
