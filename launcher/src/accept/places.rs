//! A model of the limits of `exec --accept`: on all connections, and on those of one source. Whether a start succeeds
//! or fails, its place must become free again. The test visits all states, and plays a path to each on the real
//! [`Table`], with the calls that the supervisor makes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use nix::unistd::Pid;

use super::connection::Source;
use super::table::{Service, Table};

/// The bounds that are tried: connections at once, and those of one source.
const BOUNDS: [(usize, Option<usize>); 4] = [(1, None), (2, Some(1)), (3, Some(2)), (3, None)];
const SOURCES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
/// The longest path.
const LONGEST: usize = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// A client of this source connects
    Connect(usize),
    /// The start of the connection that has waited longest succeeds
    Start,
    /// No process can be created now (EAGAIN): the start is tried again later
    Rest,
    /// The program cannot be started at all
    GiveUp,
    /// The program that has run longest ends
    End,
    /// Another process ends
    OrphanEnds,
}

const STEPS: [Step; 7] =
    [Step::Connect(0), Step::Connect(1), Step::Start, Step::Rest, Step::GiveUp, Step::End, Step::OrphanEnds];

/// The sources of connections that wait for their start, and of those whose program runs, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Model {
    held: VecDeque<usize>,
    running: VecDeque<usize>,
}

impl Model {
    fn of(&self, source: usize) -> usize {
        self.held.iter().chain(&self.running).filter(|other| **other == source).count()
    }

    fn all(&self) -> usize {
        self.held.len() + self.running.len()
    }

    /// The state after a step; `None` if the step is impossible.
    fn after(&self, step: Step, (limit, of_source): (usize, Option<usize>)) -> Option<Model> {
        let mut next = self.clone();
        match step {
            // Without room, a connection stays in the kernel's queue. With name lookups, several can wait for their
            // start.
            Step::Connect(_) if self.all() >= limit => return None,
            Step::Connect(source) if of_source.is_some_and(|most| self.of(source) >= most) => {}
            Step::Connect(source) => next.held.push_back(source),
            Step::Start => {
                let source = next.held.pop_front()?;
                next.running.push_back(source);
            }
            Step::Rest => next.held.rotate_left(usize::from(!self.held.is_empty())),
            Step::GiveUp => drop(next.held.pop_front()?),
            Step::End => drop(next.running.pop_front()?),
            Step::OrphanEnds => {}
        }
        Some(next)
    }
}

fn source(number: usize) -> Source {
    Source::of(SOURCES[number].parse().expect("an address"))
}

/// Plays a path on the real table, and compares the table with the model after each step.
fn play(way: &[Step], bounds: (usize, Option<usize>)) {
    let (mut table, mut model) = (Table::new(bounds.0, bounds.1), Model::default());
    let (mut pids, mut next_pid) = (VecDeque::new(), 100);
    for step in way {
        let before = std::mem::take(&mut model);
        model = before.after(*step, bounds).expect("a way that the model knows");
        match step {
            Step::Connect(number) => {
                assert!(table.has_room(), "{way:?}");
                assert_eq!(table.admits(source(*number)), model != before, "{way:?}");
                if table.admits(source(*number)) {
                    table.count(source(*number));
                }
            }
            Step::Start => {
                let pid = Pid::from_raw(next_pid);
                next_pid += 1;
                pids.push_back(pid);
                table.add(pid, Service::Connection { source: source(before.held[0]), kept: None });
            }
            Step::Rest => {}
            Step::GiveUp => table.release(source(before.held[0])),
            Step::End => {
                let ended = table.ended(pids.pop_front().expect("one runs"));
                assert!(
                    matches!(ended, Some(Service::Connection { source: of, .. }) if of == source(before.running[0]))
                );
            }
            Step::OrphanEnds => assert!(table.ended(Pid::from_raw(7)).is_none()),
        }
        assert_eq!(table.to_string(), format!("{}/{}", model.all(), bounds.0), "{way:?}");
        assert_eq!(table.has_room(), model.all() < bounds.0, "{way:?}");
        assert_eq!(table.is_empty(), model.running.is_empty(), "{way:?}");
        assert!(table.pids().eq(pids.iter().copied()), "{way:?}");
        for number in [0, 1] {
            let admits = bounds.1.is_none_or(|most| model.of(number) < most);
            assert_eq!(table.admits(source(number)), admits, "{way:?}");
        }
    }
}

#[test]
fn each_start_frees_its_place_whether_it_succeeds_or_fails() {
    for bounds in BOUNDS {
        let begin = Model::default();
        // Each state with a shortest path to it.
        let mut ways: HashMap<Model, Vec<Step>> = HashMap::from([(begin.clone(), Vec::new())]);
        let mut ahead = VecDeque::from([begin]);
        let mut played = BTreeMap::<usize, usize>::new();
        while let Some(model) = ahead.pop_front() {
            assert!(model.all() <= bounds.0, "{model:?}");
            assert!([0, 1].iter().all(|number| bounds.1.is_none_or(|most| model.of(*number) <= most)), "{model:?}");
            let way = ways[&model].clone();
            for step in STEPS.into_iter().filter(|_| way.len() < LONGEST) {
                let Some(next) = model.after(step, bounds) else { continue };
                let longer = [&way[..], &[step]].concat();
                play(&longer, bounds);
                *played.entry(longer.len()).or_default() += 1;
                if !ways.contains_key(&next) {
                    ways.insert(next.clone(), longer);
                    ahead.push_back(next);
                }
            }
        }
        // From each state back to the empty one: every start is given up, and every program ends.
        for (model, way) in &ways {
            let mut way = way.clone();
            way.extend(std::iter::repeat_n(Step::GiveUp, model.held.len()));
            way.extend(std::iter::repeat_n(Step::End, model.running.len()));
            play(&way, bounds);
        }
        assert!(ways.len() > bounds.0, "{bounds:?}: {} states by {played:?}", ways.len());
    }
}
