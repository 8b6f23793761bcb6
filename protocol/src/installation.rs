//! Where the programs of an installation are.

/// The folder below the prefix for programs that users do not start themselves: the launcher, the helper and others.
pub const FOLDER: &str = "libexec/portgrant";

/// The prefixes that are tried after the program's own prefix.
pub const PREFIXES: [&str; 2] = ["/usr/local", "/usr"];

/// The prefix of the program at `path`: the path above `bin` or [`FOLDER`]. No file is checked, since an upgrade may be
/// replacing them.
#[must_use]
pub fn prefix(path: &[u8]) -> Option<&[u8]> {
    let folder = parent(path)?;
    let above = folder.strip_suffix(FOLDER.as_bytes()).and_then(|above| above.strip_suffix(b"/"));
    above.or_else(|| parent(folder))
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|&byte| byte == b'/')?;
    path.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_above_bin_and_above_the_folder_of_the_helper() {
        let found = [
            ("/opt/pg/bin/portgrant", Some("/opt/pg")),
            ("/usr/sbin/portgrant-kernel", Some("/usr")),
            ("/opt/pg/libexec/portgrant/portgrant", Some("/opt/pg")),
            ("/libexec/portgrant/portgrant (deleted)", Some("")),
            ("/opt/otherlibexec/portgrant/x", Some("/opt/otherlibexec")),
            ("/bin/portgrant", Some("")),
            ("/server", None),
            ("server", None),
            ("", None),
        ];
        for (path, expected) in found {
            assert_eq!(prefix(path.as_bytes()), expected.map(str::as_bytes), "{path}");
        }
    }
}
