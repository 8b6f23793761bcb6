//! Answers of sock_diag(7): any bytes end, within their bounds, and every socket in them has the port that was asked for.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((port, packet)) = data.split_first_chunk::<2>() {
        portgrant_server::fuzzing::sock_diag(packet, u16::from_be_bytes(*port));
    }
});
