//! The variables that the caller passed, byte for byte.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

/// The value of variable `name`; `None` if it is not set.
pub(crate) fn value<'e>(environment: &'e [CString], name: &str) -> Option<&'e OsStr> {
    environment.iter().find_map(|entry| {
        let value = entry.to_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(OsStr::from_bytes(value))
    })
}

/// The same, if the value is not empty.
pub(crate) fn set<'e>(environment: &'e [CString], name: &str) -> Option<&'e OsStr> {
    value(environment, name).filter(|value| !value.is_empty())
}
