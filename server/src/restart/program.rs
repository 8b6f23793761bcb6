//! The program of the next generation: the file that this process was started from, with its current content.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path, `argv`, and the working folder from the beginning of this process.
#[derive(Debug, Clone)]
pub(super) struct Program {
    path: PathBuf,
    name: OsString,
    arguments: Vec<OsString>,
    folder: Option<PathBuf>,
}

impl Program {
    pub(super) fn of_this_process() -> Program {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let folder = env::current_dir().ok();
        let path = resolve(&name, env::var_os("PATH"), folder.as_deref());
        Program { path, name, arguments: arguments.collect(), folder }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The absolute form of `path`, relative to the folder in which this process began.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.folder.as_ref().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    /// Starts it like this process: in the same folder, so that relative paths among the arguments lead to the same
    /// files after a daemon's chdir(2).
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.arg0(&self.name).args(&self.arguments);
        // Only if the folder still exists and is another one.
        if let Some(folder) = self.folder.as_ref().filter(|folder| folder.is_dir())
            && env::current_dir().ok().as_ref() != Some(folder)
        {
            command.current_dir(folder);
        }
        command
    }
}

/// The path by which `name`, which is `argv[0]`, was found. Not /proc/self/exe: it leads past symbolic links, and to
/// the old file once that was replaced. The caller chooses `argv[0]`, so the path must lead to the running file.
fn resolve(name: &OsStr, path: Option<OsString>, folder: Option<&Path>) -> PathBuf {
    let running = fs::metadata("/proc/self/exe");
    let runs = |path: &PathBuf| {
        let is_same = |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
        matches!((&running, fs::metadata(path)), (Ok(running), Ok(there)) if is_same(running, &there))
    };
    let absolute = |path: PathBuf| folder.map_or_else(|| path.clone(), |folder| folder.join(&path));
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![absolute(name.into())]
    } else {
        let path = path.unwrap_or_default();
        env::split_paths(&path).map(|beside| absolute(beside.join(name))).collect()
    };
    candidates.into_iter().find(runs).unwrap_or_else(program_file)
}

fn program_file() -> PathBuf {
    let link = fs::read_link("/proc/self/exe").unwrap_or_default().into_os_string().into_vec();
    let kept = link.strip_suffix(b" (deleted)").unwrap_or(&link);
    PathBuf::from(OsStr::from_bytes(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_argv0_only_if_it_leads_to_the_running_file() {
        let program = env::current_exe().expect("this program");
        let (folder, name) = (program.parent().expect("a folder"), program.file_name().expect("a name"));
        let link = env::temp_dir().join(format!("portgrant-program-{}", std::process::id()));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(&program, &link).expect("a link");

        let path = Some(folder.as_os_str().to_owned());
        assert_eq!(resolve(name, path, None), program, "along PATH");
        assert_eq!(resolve(link.as_os_str(), None, None), link, "the link, not what it leads to");
        let relative = Path::new("..").join(folder.file_name().expect("a name")).join(name);
        assert_eq!(resolve(relative.as_os_str(), None, Some(folder)), folder.join(&relative));
        for claimed in ["/bin/sh", "sh", "-", "", "/nonexistent"] {
            let found = resolve(OsStr::new(claimed), env::var_os("PATH"), Some(folder));
            assert_eq!(found, fs::read_link("/proc/self/exe").expect("a link"), "{claimed}");
        }
        fs::remove_file(link).expect("removed");
    }
}
