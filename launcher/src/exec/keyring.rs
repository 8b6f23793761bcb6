//! A separate session keyring for the user (keyrings(7)). Otherwise the user would inherit the caller's, and possess
//! every key that is linked to it, such as an encryption key or a Kerberos ticket.

use std::fs;

use keyutils_raw::{
    KEY_SPEC_SESSION_KEYRING, keyctl_assume_authority, keyctl_get_keyring_id, keyctl_join_session_keyring, keyctl_read,
};
use nix::errno::Errno;
use nix::unistd::getuid;

/// The permission to view a key as its group or as any user.
const VIEW_BY_OTHERS: u32 = 0x0101;

/// Gives the process a new session keyring, which belongs to the current user. Reads it back: it must be the session
/// keyring, and nothing may be linked to it.
///
/// If there cannot be one (a kernel without keyrings, a seccomp filter), that is not an error as long as no key leaks.
pub(crate) fn renew() -> Result<(), Errno> {
    // Gives up an authority to instantiate a key for request_key(2). Fails if there is none.
    let _ = keyctl_assume_authority(None);
    let refusal = match keyctl_join_session_keyring(None) {
        Ok(joined) => {
            let is_it = keyctl_get_keyring_id(KEY_SPEC_SESSION_KEYRING, false) == Ok(joined);
            return if is_it && keyctl_read(joined, None) == Ok(0) { Ok(()) } else { Err(Errno::EKEYREJECTED) };
        }
        Err(errno) => Errno::from_raw(errno.0),
    };
    let own = getuid().as_raw();
    match fs::read_to_string("/proc/keys") {
        Ok(keys) if keys.lines().any(|key| is_possessed(key, own)) => Err(refusal),
        Ok(_) => Ok(()),
        // If this process cannot use keyctl(2), the program cannot either.
        Err(_) if matches!(refusal, Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(()),
        Err(_) => Err(refusal),
    }
}

/// Whether a line of /proc/keys, which lists the keys that this process may view, is a key of another user that it may
/// view only because the key is linked to its session keyring. Keyrings themselves are not counted.
fn is_possessed(key: &str, own: u32) -> bool {
    let fields: Vec<&str> = key.split_ascii_whitespace().collect();
    let [_, _, _, _, permissions, uid, _, kind, ..] = fields.as_slice() else { return false };
    let permissions = u32::from_str_radix(permissions, 16).unwrap_or(0);
    *kind != "keyring" && uid.parse() != Ok(own) && permissions & VIEW_BY_OTHERS == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn possession_of_another_users_key_is_found() {
        for (key, expected) in [
            ("11221c0f I--Q---     1 perm 3f010000     0     0 user      luks: 6", true),
            ("0bde8f6e I--Q---     5 perm 3f030000     0     0 keyring   _ses: 1", false),
            ("35fc641b I--Q---     1 perm 3f010000  1234  1234 user      own: 6", false),
            ("0032815b I------     1 perm 1f010001     0     0 asymmetri Debian: X509.rsa", false),
            ("", false),
        ] {
            assert_eq!(is_possessed(key, 1234), expected, "{key}");
        }
    }
}
