//! A model of the messages of an upgrade (ready, take, serving). The test visits all states: whichever process is
//! killed or late, and when, in the end exactly one process serves. Then it tries the model's predecessor on a real
//! one, for every sequence of messages that a successor could send.
//!
//! The breadth-first search is written here: the crate stateright depends on a web server, and on other versions of
//! crates that are in use.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::server::{Server, eventually, is_alive, test_program};

/// The messages of a successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Word {
    Ready,
    Serving,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Predecessor {
    /// It serves, and its successor is starting
    Waits,
    /// It serves, and has sent `take`
    Said,
    /// It serves, and the upgrade is over
    Alone,
    /// It has received `serving`
    Retired,
    Killed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Successor {
    Starts,
    /// It has sent `ready`
    Waits,
    /// It may serve, and will in its next step
    May,
    Serves,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    predecessor: Predecessor,
    successor: Successor,
    /// Words on their way to the predecessor
    said: VecDeque<Word>,
    /// `take` is on its way
    take: bool,
    /// How many processes may still be killed
    kills: u8,
    /// The predecessor has retired for a successor that had already ended
    lost: bool,
}

const BEGIN: State = State {
    predecessor: Predecessor::Waits,
    successor: Successor::Starts,
    said: VecDeque::new(),
    take: false,
    kills: 2,
    lost: false,
};

/// How a predecessor handles a message: `Successor::receive` and `Serving::receive`.
fn heard(state: &State, word: Word, asks_whether_it_ended: bool) -> State {
    let failed = State { predecessor: Predecessor::Alone, successor: Successor::Gone, ..state.clone() };
    match (state.predecessor, word) {
        (Predecessor::Waits, Word::Ready) => State { predecessor: Predecessor::Said, take: true, ..state.clone() },
        (Predecessor::Said, Word::Serving) if state.successor == Successor::Gone && asks_whether_it_ended => failed,
        (Predecessor::Said, Word::Serving) => {
            let lost = state.lost || state.successor == Successor::Gone;
            State { predecessor: Predecessor::Retired, lost, ..state.clone() }
        }
        // A message out of order ends the upgrade as well.
        (_, Word::Failed | Word::Ready | Word::Serving) => failed,
    }
}

/// Every step that can be next. `faults`: processes are killed, and the time limit passes.
fn steps(state: &State, faults: bool, asks: bool) -> Vec<State> {
    use Predecessor as P;
    use Successor as S;
    let mut next = Vec::new();
    let say = |word, successor| {
        let mut state = State { successor, ..state.clone() };
        state.said.push_back(word);
        state
    };
    match state.successor {
        S::Starts => next.extend([say(Word::Ready, S::Waits), say(Word::Failed, S::Gone)]),
        S::Waits if state.take => next.push(State { successor: S::May, take: false, ..state.clone() }),
        // Nobody else serves.
        S::Waits if state.predecessor == P::Killed => next.push(State { successor: S::May, ..state.clone() }),
        S::May => next.push(say(Word::Serving, S::Serves)),
        S::Waits | S::Serves | S::Gone => {}
    }
    if matches!(state.predecessor, P::Waits | P::Said) {
        let mut rest = state.clone();
        match rest.said.pop_front() {
            Some(word) => next.push(heard(&rest, word, asks)),
            None if state.successor == S::Gone => next.push(State { predecessor: P::Alone, ..state.clone() }),
            None => {}
        }
        if faults {
            next.push(State { predecessor: P::Alone, successor: S::Gone, ..state.clone() });
        }
    }
    if faults && state.kills > 0 {
        let kills = state.kills - 1;
        if state.successor != S::Gone {
            next.push(State { successor: S::Gone, kills, ..state.clone() });
        }
        if state.predecessor != P::Killed {
            next.push(State { predecessor: P::Killed, kills, ..state.clone() });
        }
    }
    next
}

/// What is wrong with a state.
fn wrong(state: &State, asks: bool) -> Option<&'static str> {
    use Predecessor as P;
    use Successor as S;
    if state.predecessor == P::Alone && matches!(state.successor, S::May | S::Serves) {
        return Some("both serve for good");
    }
    if state.lost {
        return Some("the predecessor retired for a successor that was gone");
    }
    let killed = BEGIN.kills - state.kills;
    let serves = matches!(state.predecessor, P::Waits | P::Said | P::Alone) || state.successor == S::Serves;
    // Both were killed; or the successor was, after the predecessor had received `serving`.
    let excused = killed == 2
        || killed == 1 && state.successor == S::Gone && state.predecessor == P::Retired
        || state.predecessor == P::Killed && state.successor == S::Gone;
    (steps(state, false, asks).is_empty() && !serves && !excused).then_some("nobody serves")
}

/// All states that can be reached, or one that is wrong.
fn explored(asks: bool) -> Result<HashSet<State>, (&'static str, State)> {
    let (mut seen, mut ahead) = (HashSet::from([BEGIN]), VecDeque::from([BEGIN]));
    while let Some(state) = ahead.pop_front() {
        if let Some(why) = wrong(&state, asks) {
            return Err((why, state));
        }
        ahead.extend(steps(&state, true, asks).into_iter().filter(|next| seen.insert(next.clone())));
    }
    Ok(seen)
}

#[test]
fn one_process_serves_in_the_end_whichever_process_is_killed_or_late() {
    let states = explored(true).unwrap_or_else(|(why, state)| panic!("{why}: {state:?}"));
    assert!(states.len() > 30, "{} states", states.len());
    // If the predecessor did not check whether its successor still runs, no process would serve.
    let (why, _) = explored(false).expect_err("a defect");
    assert_eq!(why, "the predecessor retired for a successor that was gone");
}

/// What a predecessor does after these messages, and how many of them it reads. The successor ends after them, unless
/// it serves.
fn outcome(words: &[Word]) -> (Predecessor, usize) {
    let mut state = State { successor: Successor::Serves, ..BEGIN };
    for (count, word) in words.iter().enumerate() {
        state = heard(&state, *word, true);
        if matches!(state.predecessor, Predecessor::Alone | Predecessor::Retired) {
            return (state.predecessor, count + 1);
        }
    }
    (Predecessor::Alone, words.len())
}

#[test]
fn a_real_predecessor_follows_the_model_with_any_successor() {
    let all = [Word::Ready, Word::Serving, Word::Failed];
    let mut scripts = BTreeSet::new();
    for length in 0..=3_u32 {
        for number in 0..3_usize.pow(length) {
            let words: Vec<Word> = (0..length).map(|place| all[number / 3_usize.pow(place) % 3]).collect();
            // Messages after the decision are not read.
            scripts.insert(words[..outcome(&words).1].to_vec());
        }
    }
    assert!(scripts.len() >= 7, "{scripts:?}");
    let mut server = Server::start("model", &[]);
    for words in scripts {
        let (expected, _) = outcome(&words);
        let mut script: Vec<&str> = words
            .iter()
            .map(|word| match word {
                Word::Ready => "PHASE=ready,LEFT=0",
                Word::Serving => "PHASE=serving",
                Word::Failed => "PHASE=failed,WHY=no",
            })
            .collect();
        if expected == Predecessor::Retired {
            script.push("STAY");
        }
        server.replace(&format!(
            "export WORDS='{}'\nexec '{}' --ignored --exact failures::successor --nocapture",
            script.join(";"),
            test_program()
        ));
        let before = (server.answer(), server.pid());
        match (server.ask(), expected) {
            (Ok(upgraded), Predecessor::Retired) => {
                assert_eq!(upgraded.generation, 2);
                eventually("it has retired", || !is_alive(before.1));
                server = Server::start("model-again", &[]);
            }
            (Err(_), Predecessor::Alone) => assert_eq!((server.answer(), server.pid()), before, "{words:?}"),
            (found, _) => panic!("{words:?}: {expected:?}, but {found:?}"),
        }
    }
}
