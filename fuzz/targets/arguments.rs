//! The helper's argv: any words end in a command within its bounds, or in a message in printable ASCII.
#![no_main]
#![allow(dead_code, reason = "the files are the helper's, and not all of it is used here")]

extern crate alloc;

#[path = "../../binder/src/arguments.rs"]
mod arguments;
#[path = "../../binder/src/command.rs"]
mod command;

use std::ffi::{CStr, CString};

use command::Command;
use libfuzzer_sys::fuzz_target;
use portgrant_protocol::{Address, Options, listen};
use words::{Choices, is_printable};

const WORDS: [&CStr; 36] = [
    c"exec",
    c"pass",
    c"bind",
    c"-l",
    c"--listen",
    c"--listen=80",
    c"-l80",
    c"443/udp",
    c"each:53/udp",
    c"--inetd",
    c"--no-new-privs",
    c"--answer",
    c"9",
    c"--on-failure",
    c"/bin/true",
    c"--to",
    c"--socket",
    c"--",
    c"prog",
    c"-h",
    c"--help",
    c"-V",
    c"--version",
    c"80",
    c"-",
    c"-x",
    c"--unknown",
    c"-l=80",
    c"-hh",
    c"-h=1",
    c"--inetd=1",
    c"--listen=",
    c"--answer=x",
    c"--to=3",
    c"80,reuseport",
    c"each:53/udp",
];

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::of(data);
    let mut arguments: Vec<&'static CStr> = vec![c"portgrant-binder"];
    while !choices.is_empty() && arguments.len() < 600 {
        match choices.byte() {
            word @ 0..200 => arguments.push(WORDS[usize::from(word) % WORDS.len()]),
            // argv lives as long as the process, so these words are never freed.
            200..240 => {
                arguments.extend(CString::new(choices.bytes(300)).ok().map(|word| &*Box::leak(word.into_boxed_c_str())))
            }
            _ => arguments.extend((0..choices.byte()).flat_map(|_| [c"-l", c"80"])),
        }
    }
    let given = arguments.clone();
    let (command, reporting) = Command::parse(&arguments);
    if let Some(path) = &reporting.on_failure {
        assert!(given.iter().any(|word| word.to_bytes().ends_with(path.to_bytes())));
    }
    assert!(reporting.answer.is_none_or(|number| number >= 0));
    match command {
        Ok(Command::Exec(exec)) => {
            assert!((1..=listen::MAX).contains(&exec.listen.len()) && !exec.program.is_empty());
            assert!(given.ends_with(&exec.program), "the program has its words as they were given");
            assert!(!exec.inetd || exec.listen.len() == 1 && exec.listen[0].address != Address::Each);
        }
        Ok(Command::Pass { listen, to }) => assert!((1..=listen::MAX).contains(&listen.len()) && to >= 0),
        Ok(Command::Bind { listen, socket }) => {
            assert!(socket >= 0 && reporting.answer != Some(socket));
            assert!(listen.options == Options::default() && listen.address != Address::Each);
        }
        Ok(Command::Help | Command::Version) => {}
        Err(error) => {
            let message = error.message();
            assert_ne!(message.status, 0);
            let text = message.text("portgrant-binder");
            assert!(text.lines().all(is_printable), "{text}");
        }
    }
});
