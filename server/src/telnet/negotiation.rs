//! Which options are on: the method of RFC 1143, by which two sides cannot answer each other for ever.

/// Echo (RFC 857). On this side: the server shows what the user types, and the client does not.
pub const ECHO: u8 = 1;
/// Suppress Go Ahead (RFC 858): neither side waits for its turn. With [`ECHO`] it means one character at a time.
pub const SUPPRESS_GO_AHEAD: u8 = 3;
/// Terminal type (RFC 1091): the value of TERM.
pub const TERMINAL_TYPE: u8 = 24;
/// Negotiate about window size (RFC 1073).
pub const NAWS: u8 = 31;

/// The side of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// This side: it sends WILL and WONT, and receives DO and DONT
    Local,
    /// The other side: this one sends DO and DONT, and receives WILL and WONT
    Remote,
}

/// One option of one side, in the terms of RFC 1143. `opposite` is its queue bit: the opposite request follows the
/// answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    No,
    Yes,
    WantNo { opposite: bool },
    WantYes { opposite: bool },
}

use State::{No, WantNo, WantYes, Yes};

/// A request or an answer to send: on (WILL, DO) or off (WONT, DONT).
pub(crate) type Say = Option<bool>;

impl State {
    /// The other side switched it on or off. `agrees`: whether this side accepts an offer.
    fn hear(self, on: bool, agrees: bool) -> (State, Say) {
        match (self, on) {
            (No, true) if agrees => (Yes, Some(true)),
            (No, true) => (No, Some(false)),
            (Yes, true) => (Yes, None),
            (Yes, false) => (No, Some(false)),
            (WantYes { opposite: false }, true) => (Yes, None),
            (WantYes { opposite: true }, true) => (WantNo { opposite: false }, Some(false)),
            (WantNo { opposite: true }, false) => (WantYes { opposite: false }, Some(true)),
            // The other side should not offer after a refusal; but a second refusal could start a loop.
            (WantNo { opposite: true }, true) => (Yes, None),
            (WantNo { opposite: false }, _) | (No | WantYes { .. }, false) => (No, None),
        }
    }

    /// This side wants it on or off.
    fn ask(self, on: bool) -> (State, Say) {
        match (self, on) {
            (No, true) => (WantYes { opposite: false }, Some(true)),
            (Yes, false) => (WantNo { opposite: false }, Some(false)),
            (WantNo { .. }, _) => (WantNo { opposite: on }, None),
            (WantYes { .. }, _) => (WantYes { opposite: !on }, None),
            (Yes, true) | (No, false) => (self, None),
        }
    }
}

/// All options of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Negotiation {
    local: [State; 256],
    remote: [State; 256],
    agreed: &'static [(Side, u8)],
}

impl Negotiation {
    /// All are off. Those in `agreed` are accepted when the other side asks.
    pub(crate) fn new(agreed: &'static [(Side, u8)]) -> Negotiation {
        Negotiation { local: [No; 256], remote: [No; 256], agreed }
    }

    pub(crate) fn hear(&mut self, side: Side, option: u8, on: bool) -> Say {
        let agrees = self.agreed.contains(&(side, option));
        self.change(side, option, |state| state.hear(on, agrees))
    }

    pub(crate) fn ask(&mut self, side: Side, option: u8, on: bool) -> Say {
        self.change(side, option, |state| state.ask(on))
    }

    pub(crate) fn is_on(&self, side: Side, option: u8) -> bool {
        let states = if side == Side::Local { &self.local } else { &self.remote };
        states.get(usize::from(option)) == Some(&Yes)
    }

    /// Whether no answer is outstanding.
    pub(crate) fn is_settled(&self) -> bool {
        self.local.iter().chain(&self.remote).all(|state| matches!(state, No | Yes))
    }

    fn change(&mut self, side: Side, option: u8, by: impl FnOnce(State) -> (State, Say)) -> Say {
        let states = if side == Side::Local { &mut self.local } else { &mut self.remote };
        let state = states.get_mut(usize::from(option))?;
        let (next, say) = by(*state);
        *state = next;
        say
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const ALL: [State; 6] = [
        No,
        Yes,
        WantNo { opposite: false },
        WantNo { opposite: true },
        WantYes { opposite: false },
        WantYes { opposite: true },
    ];

    #[test]
    fn a_request_for_the_current_state_is_not_answered() {
        for state in ALL {
            for on in [true, false] {
                let (next, _) = state.hear(on, true);
                if matches!(next, No | Yes) && (next == Yes) == on {
                    assert_eq!(next.hear(on, true), (next, None), "{state:?} heard {on} twice");
                }
            }
        }
    }

    #[test]
    fn an_unwanted_offer_is_refused_each_time() {
        let mut negotiation = Negotiation::new(&[(Side::Remote, NAWS)]);
        assert_eq!(negotiation.hear(Side::Remote, 39, true), Some(false), "NEW-ENVIRON, say");
        assert_eq!(negotiation.hear(Side::Local, NAWS, true), Some(false), "agreed to for the other side only");
        assert_eq!(negotiation.hear(Side::Remote, NAWS, true), Some(true));
        assert!(negotiation.is_on(Side::Remote, NAWS) && !negotiation.is_on(Side::Local, NAWS));
    }

    #[test]
    fn the_last_request_before_the_answer_wins() {
        let mut negotiation = Negotiation::new(&[]);
        let mut ask = |on| negotiation.ask(Side::Local, ECHO, on);
        assert_eq!([ask(true), ask(false)], [Some(true), None], "the answer is waited for");
        assert_eq!(negotiation.hear(Side::Local, ECHO, true), Some(false));
        let mut ask = |on| negotiation.ask(Side::Local, ECHO, on);
        assert_eq!([ask(true), ask(false), ask(true)], [None; 3]);
        assert_eq!(negotiation.hear(Side::Local, ECHO, false), Some(true));
        assert_eq!(negotiation.hear(Side::Local, ECHO, true), None);
        assert!(negotiation.is_on(Side::Local, ECHO) && negotiation.is_settled());
    }

    /// A step between two sides that are connected by two queues.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Ask { first: bool, on: bool },
        Deliver { first: bool },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<bool>(), any::<bool>()).prop_map(|(first, on)| Step::Ask { first, on }),
            any::<bool>().prop_map(|first| Step::Deliver { first }),
        ]
    }

    proptest! {
        /// Whatever both sides ask for: when they stop asking, they stop sending, and agree.
        #[test]
        fn two_sides_reach_agreement_and_stop(steps in prop::collection::vec(step(), 0..60), agrees: [bool; 2]) {
            let mut states = [No, No];
            let mut queues: [VecDeque<bool>; 2] = Default::default();
            let mut said = 0;
            let asked = steps.iter().filter(|step| matches!(step, Step::Ask { .. })).count();
            let rest = [true, false].into_iter().cycle().map(|first| Step::Deliver { first }).take(2000);
            for step in steps.into_iter().chain(rest) {
                let (side, result) = match step {
                    Step::Ask { first, on } => (usize::from(first), states[usize::from(first)].ask(on)),
                    Step::Deliver { first } => match queues[usize::from(first)].pop_front() {
                        Some(on) => (usize::from(first), states[usize::from(first)].hear(on, agrees[usize::from(first)])),
                        None => continue,
                    },
                };
                states[side] = result.0;
                if let Some(on) = result.1 {
                    said += 1;
                    queues[1 - side].push_back(on);
                }
            }
            prop_assert!(queues.iter().all(VecDeque::is_empty), "still talking");
            prop_assert!(said <= 4 * asked, "{said} messages for {asked} requests");
            prop_assert!(states == [No, No] || states == [Yes, Yes], "{states:?}");
        }
    }
}
