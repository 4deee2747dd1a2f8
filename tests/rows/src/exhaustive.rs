//! All that can happen in a small world in a few steps: two rows, three backends, two flows.
//!
//! Breadth first: from every state that was not met before, every step that makes sense there. Time only stops where
//! it makes a difference: at the ends of a row's moving and of a flow's timeout, a second, a millisecond of what the
//! controller is doing. A state is what it looks like from its own moment on, so that what happens twice is looked at
//! once.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use lb_common::flow::FlowState;
use lb_common::ring::{KIND_MOVING, Row};

use crate::History;
use crate::clients::Violation;
use crate::step::{Ask, Cpu, Sends, Step};
use crate::world::{Health, Settings, TCP_FLOWS, World};

/// A world to be looked through.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub name: &'static str,
    pub flows: [usize; 2],
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

/// The states in the order in which they were met, each with the one it comes from and the step between.
type Met = Vec<(u32, Step)>;

/// Every state within `depth` steps, until something is wrong.
pub fn explore(case: &Case, depth: usize) -> Explored {
    let mut known: HashSet<u64, BuildHasherDefault<Mix>> = HashSet::default();
    let mut transitions = 0;
    // The first one is the beginning.
    let mut met: Met = vec![(0, Step::Wait(0))];
    let mut level_starts = 0;
    for level in 1..=depth {
        let level_ends = met.len();
        for state in level_starts..level_ends {
            let mut world = World::new(case.settings);
            preparation().into_iter().chain(way(&met, state)).for_each(|step| world.step(step));
            debug_assert_eq!(world.backends[4].health, Health::Free);
            for step in steps(&world, case) {
                // The last step of all can only be noticed if it is a packet.
                if level == depth && !matches!(step, Step::Packet { .. }) {
                    continue;
                }
                transitions += 1;
                let mut after = world.clone();
                after.step(step);
                if let Some(violation) = after.violations.first() {
                    let found = (*violation, way(&met, state).into_iter().chain([step]).collect());
                    return Explored { states: known.len(), transitions, found: Some(found) };
                }
                if level < depth && known.insert(digest(&after)) {
                    met.push((state as u32, step));
                }
            }
        }
        level_starts = level_ends;
    }
    Explored { states: known.len(), transitions, found: None }
}

/// The steps to a state.
fn way(met: &Met, mut state: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    while state > 0 {
        let (parent, step) = met[state];
        steps.push(step);
        state = parent as usize;
    }
    steps.reverse();
    steps
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
    for backend in 1..=3_u8 {
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
    for word in world.rings[ring].words.iter().filter(|word| word.kind() == KIND_MOVING) {
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
fn digest(world: &World) -> u64 {
    let mut hash = Mix::default();
    let second = world.second();
    let row = |hash: &mut Mix, word: &Row| {
        let ahead = if word.kind() == KIND_MOVING { (i64::from(word.until()) - i64::from(second)).max(-3) } else { 0 };
        hash.write_i64(ahead);
        hash.write_u64(if word.kind() == KIND_MOVING { word.with_until(0).0 } else { word.0 });
    };
    let entry = |hash: &mut Mix, state: Option<FlowState>| match state.filter(|state| state.is_taken()) {
        None => hash.write_u64(state.map_or(1, |state| state.0)),
        Some(state) => {
            hash.write_u64(u64::from(state.life().0) << 8 | u64::from(state.phase()));
            hash.write_u32((second - state.last()).min(100));
        }
    };
    let second_ago =
        |hash: &mut Mix, then: u32| hash.write_u32(if then == 0 { 1000 } else { (second - then).min(100) });

    hash.write_u64(world.now % 1000);
    for ring in &world.rings {
        ring.words.iter().for_each(|word| row(&mut hash, word));
        hash.write_u8(u8::from(ring.old.is_some()));
        ring.old.iter().flatten().for_each(|word| row(&mut hash, word));
        hash.write_u8(ring.by as u8 | u8::from(ring.migrating) << 1);
        if let Some(before) = &ring.before {
            hash.write_u8(before.by as u8);
            before.words.iter().for_each(|word| row(&mut hash, word));
        }
    }
    world.entries.iter().for_each(|state| entry(&mut hash, *state));
    second_ago(&mut hash, world.refused);
    for backend in &world.backends {
        hash.write_u64(backend.health as u64 | u64::from(backend.generation) << 8 | u64::from(backend.leaving) << 32);
        hash.write_u64(if backend.went_down == 0 { 1 << 40 } else { (world.now - backend.went_down).min(100_000) });
    }
    for client in &world.clients {
        let (state, home, since, lost, lived) = client.essence(world.now);
        hash.write_u64(u64::from(state) | u64::from(home) << 8 | u64::from(lost) << 40 | u64::from(lived) << 41);
        hash.write_u64(since);
    }
    world.digest_controller(&mut hash, &mut |hash, word| row(hash, &word), &mut |hash, state| entry(hash, state));
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
pub fn cases() -> [Case; 3] {
    let settings = Settings { quota: 1000, ..Settings::default() };
    [
        Case { name: "two TCP flows of one row", flows: [0, 2], settings },
        Case { name: "two TCP flows of two rows", flows: [0, 1], settings },
        Case { name: "two UDP flows of one row", flows: [8, 10], settings },
    ]
}
