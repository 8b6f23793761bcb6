//! Where the programs of an installation are.

/// The folder of the programs that nobody types, below the prefix: the launcher, the helper, and what stands beside them.
pub const FOLDER: &str = "libexec/portgrant";

/// The prefixes that are tried behind the one that a program finds itself below.
pub const PREFIXES: [&str; 2] = ["/usr/local", "/usr"];

/// The prefix of the program at `path`: what is above `bin` or [`FOLDER`]. Not judged by what exists, since an upgrade may be
/// under way.
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
