//! The network namespace.

use crate::error::Error;

/// The network namespace of this process, by its cookie.
pub(crate) fn network_namespace() -> Result<u64, Error> {
    let failed = |errno| Error::Call { call: "getsockopt(SO_NETNS_COOKIE)", errno };
    portgrant_sys::network_namespace().map_err(failed)
}
