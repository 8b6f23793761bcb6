//! NFS with sec=sys, mounted or exported here: it trusts every client with a source port below 1024 (nfs(5), exports(5)).

use std::fs;
use std::path::{Path, PathBuf};

/// The place of such a mount or export, for a message; `None` if there is none.
pub(crate) fn with_sec_sys() -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounted(&mounts).map(|place| format!("mounted at {place}")).or_else(|| {
        let folder = fs::read_dir("/etc/exports.d").into_iter().flatten().flatten();
        let more = folder.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "exports"));
        let mut files: Vec<PathBuf> = std::iter::once(PathBuf::from("/etc/exports")).chain(more).collect();
        files.sort();
        let exports = |file: &&PathBuf| fs::read_to_string(file).is_ok_and(|text| exported(&text));
        files.iter().find(exports).map(|file| format!("exported by {}", shown(file)))
    })
}

/// The first NFS mount that does not require Kerberos.
fn mounted(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_source, place, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_nfs = matches!(kind, "nfs" | "nfs4");
        (is_nfs && trusts_ports(options)).then(|| shown(Path::new(place)))
    })
}

/// Whether any line of an exports(5) file exports with sec=sys, which is the default.
fn exported(exports: &str) -> bool {
    let lines = exports.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).any(trusts_ports)
}

fn trusts_ports(options: &str) -> bool {
    let flavours: Vec<&str> =
        options.split([',', '(', ')', ' ', '-']).filter_map(|word| word.strip_prefix("sec=")).collect();
    flavours.is_empty() || flavours.iter().any(|flavour| flavour.split(':').any(|one| one == "sys"))
}

fn shown(path: &Path) -> String {
    portgrant_protocol::text::printable(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nfs_with_sec_sys_is_found_and_with_kerberos_is_not() {
        let mount = |options| format!("/dev/sda / ext4 rw 0 0\nserver:/x /mnt nfs4 {options} 0 0\n");
        assert_eq!(mounted(&mount("rw,vers=4.2,sec=sys,addr=1.2.3.4")).as_deref(), Some("/mnt"));
        assert_eq!(mounted(&mount("rw,vers=4.2")).as_deref(), Some("/mnt"), "the default");
        assert_eq!(mounted(&mount("rw,sec=krb5p")), None);
        assert_eq!(mounted("tmpfs /mnt tmpfs rw 0 0\n"), None);
        for (exports, expected) in [
            ("", false),
            ("# /srv *(rw)\n", false),
            ("/srv *(rw)\n", true),
            ("/srv -sec=krb5 *(rw)\n", false),
            ("/srv *(rw,sec=krb5:sys)\n", true),
            ("/srv *(sec=krb5i,rw)\n/home 10.0.0.0/8\n", true),
        ] {
            assert_eq!(exported(exports), expected, "{exports}");
        }
    }
}
