//! The endpoint grammar: whatever is asked for, the answer is an endpoint that reads as it was written, or a message in
//! printable ASCII.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use portgrant_protocol::service::Services;
use portgrant_protocol::{Endpoint, EndpointError};
use words::is_printable;

fn message(error: &EndpointError) {
    assert!(is_printable(&error.to_string()), "{error:?}");
}

// One endpoint a line.
fuzz_target!(|data: &[u8]| {
    let services = Services::parse(b"http 80/tcp www\ndomain 53/tcp\ndomain 53/udp\ntftp 69/udp\nm3ua 2905/sctp\n");
    data.split(|byte| *byte == b'\n').for_each(|word| endpoint(word, &services));
});

fn endpoint(word: &[u8], services: &Services) {
    let endpoint = match Endpoint::from_os(OsStr::from_bytes(word)) {
        Ok(endpoint) => endpoint,
        Err(error) => return message(&error),
    };
    let text = endpoint.to_string();
    assert!(is_printable(&text), "{text:?}");
    assert_eq!(text.parse().as_ref(), Ok(&endpoint), "{text}");
    match endpoint.clone().resolve(services) {
        Ok(resolved) => {
            assert!(resolved.endpoint == endpoint);
            assert!(is_printable(&resolved.name()) && is_printable(&resolved.to_string()));
            assert!(!resolved.name().contains([':', '\n']), "a name that LISTEN_FDNAMES would divide");
        }
        Err(error) => message(&error),
    }
}
