//! `LISTEN_*` (sd_listen_fds(3)) read from a hostile environment, written for a program, and the variables of other
//! conventions that hold numbers of descriptors.
#![no_main]

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use portgrant_protocol::listen::{Announced, MAX, VARIABLES, environment};
use words::{Choices, is_printable};

const OWN: u32 = 42;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::of(data);
    let values: Vec<Option<OsString>> = VARIABLES
        .iter()
        .map(|name| match (choices.byte() % 4, *name) {
            (0, _) => None,
            (1, "LISTEN_PID") => Some("42".into()),
            (1, "LISTEN_FDS") => Some(choices.byte().to_string().into()),
            (2, "LISTEN_FDNAMES") => Some(vec!["a"; usize::from(choices.byte())].join(":").into()),
            _ => Some(OsStr::from_bytes(choices.bytes(64)).to_owned()),
        })
        .collect();
    let lookup =
        |name: &str| VARIABLES.iter().zip(&values).find(|entry| *entry.0 == name).and_then(|entry| entry.1.clone());
    match Announced::read(lookup, OWN) {
        Ok(None) => assert!(values[0].is_none(), "LISTEN_FDS is set"),
        Ok(Some(announced)) => {
            assert!((1..=MAX).contains(&announced.names.len()));
            let fds: usize = values[0].as_ref().and_then(|fds| fds.to_str()).expect("text").parse().expect("a number");
            assert_eq!(announced.names.len(), fds);
            assert!(announced.is_meant_for(announced.pidfd_id).is_ok() && announced.is_meant_for(None).is_ok());
            match announced.pidfd_id {
                Some(id) => {
                    assert!(is_printable(&announced.is_meant_for(Some(id ^ 1)).expect_err("another").to_string()))
                }
                None => assert!(announced.is_meant_for(Some(1)).is_ok()),
            }
        }
        Err(error) => assert!(is_printable(&error.to_string()), "{error:?}"),
    }

    let rest = choices.rest();
    if let Ok(numbers) = std::str::from_utf8(rest)
        && let Some(numbers) = portgrant_server::fuzzing::descriptor_numbers(numbers)
    {
        assert!(!numbers.is_empty() && numbers.len() <= MAX && numbers.iter().all(|number| *number > 2));
    }
    // The environment of a program, as the helper makes it of its own.
    let before: Vec<CString> = rest.split(|byte| *byte == 0).filter_map(|entry| CString::new(entry).ok()).collect();
    let names = ["a".to_owned(), "80/tcp".to_owned()];
    for names in [None, Some(&names[..])] {
        let after = environment(before.clone(), OWN, names);
        let is_ours =
            |entry: &&CString| VARIABLES.iter().any(|name| entry.to_bytes().starts_with(format!("{name}=").as_bytes()));
        assert_eq!(after.iter().filter(is_ours).count(), if names.is_some() { 3 } else { 0 });
        let kept = before.iter().filter(|entry| !is_ours(entry));
        assert!(kept.eq(after.iter().filter(|entry| !is_ours(entry))), "what is not ours stays, in order");
    }
});
