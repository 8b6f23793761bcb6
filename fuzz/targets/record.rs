//! Records, in both directions: what is written is read as it was, and what is read is written to the same meaning. The
//! words between two generations of a server are records as well.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portgrant_protocol::message::{Kind, Message};
use portgrant_protocol::record::{MAX_LEN, RecordError, Reply};
use words::{Choices, is_printable};

/// A message of texts that somebody else may have chosen.
fn written(choices: &mut Choices<'_>) -> Reply {
    let text = |choices: &mut Choices<'_>| String::from_utf8_lossy(choices.bytes(255)).repeat(choices.one(&[1, 1, 9]));
    if choices.byte() & 1 == 0 {
        let count = usize::from(choices.byte());
        return Reply::Granted { names: (0..=count).map(|_| text(choices)).collect() };
    }
    let kinds = [
        Kind::Usage,
        Kind::Refused,
        Kind::InUse,
        Kind::NotThere,
        Kind::NoPrivilege,
        Kind::BrokenPolicy,
        Kind::Program,
        Kind::TryAgain,
        Kind::System,
    ];
    let optional = |choices: &mut Choices<'_>| (choices.byte() & 1 == 1).then(|| text(choices));
    Reply::Failed(Message {
        kind: choices.one(&kinds),
        status: choices.byte(),
        what: text(choices),
        why: optional(choices),
        fix: optional(choices),
        rule: optional(choices),
        program: optional(choices),
        endpoint: optional(choices),
    })
}

fn fits(reply: &Reply) {
    if let Reply::Failed(message) = reply {
        assert!(message.status != 0, "a failure is not a success");
        assert!(is_printable(&message.what));
        let texts = [&message.why, &message.fix, &message.rule, &message.program, &message.endpoint];
        assert!(texts.into_iter().flatten().all(|text| is_printable(text)), "{message:?}");
        assert!(message.text("portgrant").lines().count() <= 4, "{message:?}");
    }
}

fn error(error: &RecordError) {
    assert!(is_printable(&error.to_string()), "{error:?}");
}

fn read(bytes: &[u8]) {
    let reply = match Reply::parse(bytes) {
        Ok(reply) => reply,
        Err(why) => return error(&why),
    };
    fits(&reply);
    match reply.encode() {
        Ok(again) => {
            assert!(again.len() <= MAX_LEN);
            let again = Reply::parse(&again).expect("what was written is a record");
            // Texts are cut when they are written, once.
            assert_eq!(again.encode().as_ref().ok(), again.encode().as_ref().ok());
            if let (Reply::Granted { names }, Reply::Granted { names: read }) = (&reply, &again) {
                assert_eq!(names, read);
            }
        }
        Err(why) => error(&why),
    }
}

fuzz_target!(|data: &[u8]| {
    // Several records, divided by a byte that none of them can hold.
    for record in data.split(|byte| *byte == 0) {
        read(record);
        portgrant_server::fuzzing::conversation(record);
    }
    let reply = written(&mut Choices::of(data));
    match reply.encode() {
        Ok(bytes) => {
            assert!(bytes.len() <= MAX_LEN && bytes.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
            match (&reply, Reply::parse(&bytes)) {
                (Reply::Failed(before), Ok(Reply::Failed(after))) => {
                    fits(&Reply::Failed(after.clone()));
                    assert_eq!((before.kind, before.status.max(1)), (after.kind, after.status));
                }
                (Reply::Granted { names }, Ok(Reply::Granted { names: read })) => {
                    assert_eq!(names.join(":"), read.join(":"));
                }
                (Reply::Granted { names }, Err(RecordError::TooLong)) => {
                    assert!(names.join(":").matches(':').count() >= 253)
                }
                (_, other) => panic!("{reply:?} became {other:?}"),
            }
        }
        Err(why) => error(&why),
    }
});
