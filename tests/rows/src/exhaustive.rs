//! All that can happen in a small world in a few steps: two rows, three backends, two flows.
//!
//! Breadth first: from every state that was not met before, every step that makes sense there. Time only stops where
//! it makes a difference: at the ends of a row's moving and of a flow's timeout, a second, a millisecond of what the
//! controller is doing. A state is what it looks like from its own moment on, and to two flows of which it makes no
//! difference which is which, so that what happens twice is looked at once.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use lb_common::flow::FlowState;
use lb_common::ring::{KIND_EXCEPTIONS, KIND_MOVING, Row, UNTIL_MAX, filter_bit};

use crate::History;
use crate::clients::Violation;
use crate::step::{Ask, Cpu, Sends, Step};
use crate::world::{Hash, Health, Settings, TCP_FLOWS, World};

/// One of the four there are at first is taken away.
const BACKENDS_IN_USE: usize = 3;

/// A world to be looked through.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub flows: [usize; 2],
    /// Another ring may take the place of theirs.
    pub migrates: bool,
    /// Their rows are the same by whatever chooses them, so it makes no difference which of them is which.
    pub alike: bool,
    pub settings: Settings,
}

/// What was looked through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explored {
    pub states: usize,
    pub transitions: u64,
    /// A way to a violation.
    pub found: Option<(Violation, Vec<Step>)>,
}

/// The states in the order in which they were met: each is the one it comes from, and which of the steps there led to it.
type Met = Vec<(u32, u8)>;

/// Every state within `depth` steps, until something is wrong.
pub fn explore(case: &Case, depth: usize) -> Explored {
    let mut known: HashSet<u64, BuildHasherDefault<Mix>> = HashSet::default();
    let mut transitions = 0;
    // The first one is the beginning.
    let mut met: Met = vec![(0, 0)];
    let mut level_starts = 0;
    for level in 1..=depth {
        let level_ends = met.len();
        // Neighbours in this order have the same parent, which is made again once for all of them.
        let mut parent = (usize::MAX, World::new(case.settings), Vec::new());
        for state in level_starts..level_ends {
            let (from, step) = (met[state].0 as usize, met[state].1);
            if parent.0 != from {
                let world = made(case, &met, from);
                parent = (from, world.clone(), steps(&world, case));
            }
            let mut world = parent.1.clone();
            if state > 0 {
                world.step(parent.2[usize::from(step)]);
            }
            for (index, step) in steps(&world, case).into_iter().enumerate() {
                // The last step of all can only be noticed if it is a packet.
                if level == depth && !matches!(step, Step::Packet { .. }) {
                    continue;
                }
                transitions += 1;
                let mut after = world.clone();
                after.step(step);
                if let Some(violation) = after.violations.first() {
                    let steps = way(case, &met, state).into_iter().chain([step]).collect();
                    return Explored { states: known.len(), transitions, found: Some((*violation, steps)) };
                }
                if level < depth && known.insert(digest(&after, case)) {
                    met.push((state as u32, index as u8));
                }
            }
        }
        level_starts = level_ends;
    }
    Explored { states: known.len(), transitions, found: None }
}

/// The world at the beginning.
fn prepared(case: &Case) -> World {
    let mut world = World::new(case.settings);
    preparation().into_iter().for_each(|step| world.step(step));
    debug_assert_eq!(world.backends[4].health, Health::Free);
    world
}

/// The world in a state.
fn made(case: &Case, met: &Met, state: usize) -> World {
    let mut world = prepared(case);
    way(case, met, state).into_iter().for_each(|step| world.step(step));
    world
}

/// The steps to a state.
fn way(case: &Case, met: &Met, mut state: usize) -> Vec<Step> {
    let mut choices = Vec::new();
    while state > 0 {
        let (parent, choice) = met[state];
        choices.push(choice);
        state = parent as usize;
    }
    let mut world = prepared(case);
    let choices = choices.into_iter().rev();
    choices
        .map(|choice| {
            let step = steps(&world, case)[usize::from(choice)];
            world.step(step);
            step
        })
        .collect()
}

/// The history of a way, to be told.
pub fn history(case: &Case, steps: Vec<Step>) -> History {
    History { settings: case.settings, steps: [preparation(), steps].concat() }
}

/// Three backends instead of four.
fn preparation() -> Vec<Step> {
    vec![Step::Remove { backend: 4, ask: Ask::default() }, Step::Wait(2000), Step::Sweep { takes: 0 }]
}

/// What can happen next and makes a difference.
fn steps(world: &World, case: &Case) -> Vec<Step> {
    let mut steps = Vec::with_capacity(32);
    let ring = World::ring_of(case.flows[0]);
    for flow in case.flows {
        packets(world, flow, &mut steps);
    }
    let swapping = world.rings[ring].is_double();
    // A change, a millisecond before its swap and one within it.
    let ask = |seed| Ask { seed, stall: 1, window: 1, settle: 0 };
    if world.is_idle() {
        let mut seen: Vec<Vec<u16>> = Vec::new();
        for seed in (1..32).step_by(2) {
            let owners = world.wanted(ring, seed);
            if !seen.contains(&owners)
                && owners.iter().zip(&world.rings[ring].words).any(|(o, word)| *o != word.owner())
            {
                seen.push(owners);
                steps.push(Step::Reweigh { ask: ask(seed) });
            }
        }
    }
    if case.migrates && world.is_idle() && world.rings[ring].before.is_none() {
        // Another hash, and who owns the rows.
        steps.extend([2, 3].map(|seed| Step::Migrate { ring: ring as u8, ask: ask(seed) }));
    }
    for backend in 1..=BACKENDS_IN_USE as u8 {
        match world.backends[usize::from(backend)].health {
            Health::Up if !swapping => steps.push(Step::Fail { backend, ask: ask(0) }),
            Health::Down if !swapping => steps.push(Step::Recover { backend, ask: ask(1) }),
            _ => {}
        }
    }
    if let Some(due) = world.due() {
        steps.push(Step::Wait((due - world.now) as u32));
    } else {
        steps.push(Step::Sweep { takes: 1 });
        steps.push(Step::Restart);
    }
    // Moments that may make a difference.
    let mut moments = vec![world.now + 1000];
    let before = world.rings[ring].before.iter().flat_map(|before| &before.words);
    let held = |word: &&Row| word.until() < UNTIL_MAX;
    for word in before.filter(held).chain(&world.rings[ring].words).filter(|word| word.kind() == KIND_MOVING) {
        let until = u64::from(word.until()) * 1000;
        moments.extend([until - 1, until, until + 2000]);
    }
    for flow in case.flows.into_iter().filter(|flow| !world.clients[*flow].is_closed()) {
        let silent = world.clients[flow].last + u64::from(world.patience(flow)) * 1000;
        moments.push(silent - 5);
    }
    moments.retain(|moment| *moment > world.now);
    moments.sort_unstable();
    moments.dedup();
    steps.extend(moments.into_iter().map(|moment| Step::Wait((moment - world.now) as u32)));
    steps
}

fn packets(world: &World, flow: usize, steps: &mut Vec<Step>) {
    let ring = &world.rings[World::ring_of(flow)];
    let sends: &[Sends] =
        if flow >= TCP_FLOWS { &[Sends::Middle] } else { &[Sends::Open, Sends::Again, Sends::Middle, Sends::Finish] };
    for sends in sends.iter().copied().filter(|sends| world.would_send(flow, *sends)) {
        for old in [false, true] {
            let moving = world.row_of(flow, old).is_moving(world.second());
            for refuse in [false, true] {
                if old && !ring.is_double() || refuse && (!moving || world.entries[flow].is_some()) {
                    continue;
                }
                steps.push(Step::Packet { flow: flow as u8, sends, cpu: Cpu { old, refuse } });
            }
        }
    }
}

/// A number for a state, from its own moment on.
fn digest(world: &World, case: &Case) -> u64 {
    let [one, two] = case.flows;
    let first = digest_of(world, [one, two]);
    // Of two that mirror each other, one is enough.
    if case.alike { first.min(digest_of(world, [two, one])) } else { first }
}

fn digest_of(world: &World, flows: [usize; 2]) -> u64 {
    let mut hash = Mix::default();
    let second = world.second();
    let ring = &world.rings[World::ring_of(flows[0])];
    let row = |hash: &mut Mix, word: Row| {
        match word.kind() {
            KIND_MOVING => {
                let ahead = (i64::from(word.until()) - i64::from(second)).clamp(-3, 100);
                hash.write_u64(word.with_until((ahead + 3) as u32).0);
            }
            // What a filter says of others is nobody's business.
            KIND_EXCEPTIONS => {
                let knows = |flow| [Hash::Flow, Hash::Client].map(|by| filter_bit(World::hash_of(flow, by)));
                let knows = flows.map(|flow| knows(flow).map(|bit| word.filter() & bit != 0));
                hash.write_u64(word.kind() << 62 | u64::from(word.owner()));
                knows.into_iter().flatten().for_each(|knows| hash.write_u8(knows.into()));
            }
            _ => hash.write_u64(word.0),
        }
    };
    let entry = |hash: &mut Mix, state: Option<FlowState>| match state.filter(|state| state.is_taken()) {
        None => hash.write_u64(state.map_or(1, |state| state.0)),
        Some(state) => {
            let silent = u64::from((second - state.last()).min(100));
            hash.write_u64(silent << 48 | u64::from(state.life().0) << 8 | u64::from(state.phase()));
        }
    };
    let ago = |then: u64, most: u64| if then == 0 { most + 1 } else { (world.now - then).min(most) };

    hash.write_u64(world.now % 1000);
    ring.words.iter().for_each(|word| row(&mut hash, *word));
    hash.write_u8(ring.by as u8 | u8::from(ring.migrating) << 1 | u8::from(ring.old.is_some()) << 2);
    ring.old.iter().flatten().for_each(|word| row(&mut hash, *word));
    if let Some(before) = &ring.before {
        hash.write_u8(before.by as u8);
        before.words.iter().for_each(|word| row(&mut hash, *word));
    }
    hash.write_u64(ago(u64::from(world.refused) * 1000, 100_000) / 1000);
    hash.write_u64(ago(world.killed_in_swap.unwrap_or(0), 60_000));
    for backend in &world.backends[1..=BACKENDS_IN_USE] {
        hash.write_u64(backend.health as u64 | ago(backend.went_down, 100_000) << 8);
    }
    for flow in flows {
        entry(&mut hash, world.entries[flow]);
        let (state, home, since, lost, lived) = world.clients[flow].essence(world.now);
        hash.write_u64(u64::from(state) | u64::from(home) << 8 | u64::from(lost) << 40 | u64::from(lived) << 41);
        hash.write_u64(since);
    }
    world.digest_controller(&mut hash, flows, &mut |hash, word| row(hash, word), &mut |hash, state| entry(hash, state));
    hash.finish()
}

/// A quick hash of words; nobody attacks it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_i64(&mut self, word: i64) {
        self.write_u64(word as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// The worlds that the suite looks through.
pub fn cases() -> [Case; 5] {
    let settings = Settings { quota: 1000, ..Settings::default() };
    let tcp = Settings { only: Some(0), ..settings };
    let udp = Settings { only: Some(1), ..settings };
    let case = |name, flows, alike, settings| Case { name, flows, migrates: false, alike, settings };
    [
        case("two TCP flows of one row", [0, 2], true, tcp),
        case("two TCP flows of two rows", [0, 1], false, tcp),
        case("two UDP flows of one row", [8, 10], true, udp),
        Case { migrates: true, ..case("two TCP flows and another ring", [0, 1], false, tcp) },
        Case { migrates: true, ..case("two UDP flows and another ring", [8, 9], false, udp) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_alike_only_if_no_row_tells_them_apart() {
        for case in cases() {
            let row = |flow| World::new(case.settings).rings[World::ring_of(flow)].index_on(false, flow);
            assert!(!case.alike || row(case.flows[0]) == row(case.flows[1]) && !case.migrates, "{}", case.name);
        }
    }

    #[test]
    fn a_rule_that_is_broken_is_found_in_few_steps() {
        use crate::broken::Broken;
        let [one_row, .., migrates] = cases();
        let table = [(one_row, Broken::SynStartsAnew), (one_row, Broken::NoGrace), (migrates, Broken::MigratesAnew)];
        for (case, broken) in table {
            let case = Case { settings: Settings { broken: Some(broken), ..case.settings }, ..case };
            let explored = explore(&case, 6);
            let (violation, steps) = explored.found.unwrap_or_else(|| panic!("{broken:?} is not found"));
            assert_eq!(history(&case, steps).run().0.map(|(_, found)| found), Some(violation), "{broken:?}");
        }
    }
}
