//! The programs under test: loaded, their maps filled from a world, and run next to the model.
//!
//! The thread that has a [`Rig`] is moved into a network namespace of its own and pinned to one CPU: the budget for
//! events is each CPU's own, and the model has one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use lb_common::backend::BACKEND_ALIVE;
use lb_common::event::{EVENT_WANT_NEIGHBOUR, Event};
use lb_common::flow::{Flow4, Flow6, FlowEntry, FlowUse, Fragments};
use lb_common::ring::Row;

use super::coverage::Coverage;
use super::judge::{Difference, Kind, describe, judge};
use super::maps::{Rings, load, record};
use super::network;
use super::scenario::{HEADROOM, Scenario, Step};
use super::words::{self, Known, entries_in, known, row_word, tracked_in, uses_in};
use crate::model::rows::Place;
use crate::model::state::Wanted;
use crate::model::world;
use crate::model::{Kernel, State, World, decap, process};
use crate::progrun::{Counts, Program, netns};

/// How many packets go by before counters and events are compared. Reading them takes hundreds of calls.
const COARSE: usize = 128;

#[derive(Debug)]
pub struct Rig {
    pub kernel: Kernel,
    loaded: Option<Loaded>,
}

/// Both programs, with the maps of a world.
#[derive(Debug)]
struct Loaded {
    world: World,
    balancer: Program,
    rings: Rings,
    /// The one for backend hosts.
    unwrapper: Program,
}

impl Loaded {
    /// The word of a row, if it is there.
    fn row(&self, (class, slot, row): Place) -> Option<&AtomicU64> {
        self.rings.get(&(class, slot))?.0.words().get(row as usize)
    }

    fn counters(&mut self) -> Result<Counts> {
        let mut counts = self.balancer.counters()?;
        counts.0.extend(self.unwrapper.counters()?.0);
        Ok(counts)
    }
}

impl Rig {
    pub fn new() -> Result<Self> {
        let mut cpu = CpuSet::new();
        cpu.set(sched_getcpu()?)?;
        sched_setaffinity(Pid::from_raw(0), &cpu).context("cannot stay on one CPU")?;
        netns::enter_private()?;
        let kernel = network::kernel();
        network::build(&kernel)?;
        Ok(Self { kernel, loaded: None })
    }

    /// Runs a scenario by the program and by the model, up to the first packet they do not agree about.
    pub fn run(&mut self, scenario: &Scenario, coverage: &mut Coverage) -> Result<Option<Difference>> {
        match self.compare(scenario, scenario, COARSE, coverage)? {
            // Which packet it was shows when everything is compared after each.
            Some(coarse) => Ok(Some(self.locate(scenario)?.unwrap_or(coarse))),
            None => Ok(None),
        }
    }

    /// As [`Rig::run`], looking at everything after each packet.
    pub fn locate(&mut self, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(scenario, scenario, 1, &mut Coverage::default())
    }

    /// As [`Rig::run`], looking at counters and events after the last packet only: quick, for those who know that
    /// there is a difference and try whether it is still there.
    pub fn check(&mut self, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(scenario, scenario, usize::MAX, &mut Coverage::default())
    }

    /// As [`Rig::check`], with a program to which something else happens than to the model: a wrong one. Steps are as
    /// many, and frames are the model's.
    pub fn check_against(&mut self, other: &Scenario, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(other, scenario, usize::MAX, &mut Coverage::default())
    }

    fn compare(
        &mut self,
        programs: &Scenario,
        scenario: &Scenario,
        every: usize,
        coverage: &mut Coverage,
    ) -> Result<Option<Difference>> {
        let (kernel, loaded) = self.install(&programs.world)?;
        let before = loaded.counters()?;
        let mut state = State::of(&scenario.world);
        let mut now = 0;
        let mut unread = 0;
        for (index, (step, other)) in scenario.steps.iter().zip(&programs.steps).enumerate() {
            let last = index + 1 == scenario.steps.len();
            let mut difference = Difference::at(index);
            let mut ran = None;
            happens(loaded, other)?;
            match step {
                Step::Clock(second) => now = *second,
                Step::Backend { id, up, life } => {
                    state.standing.0.insert(*id, (*up, *life));
                }
                Step::Row { class, slot, row, owner, kind } => {
                    state.rows.changed.insert((*class, *slot, *row), world::Row { owner: *owner, kind: *kind });
                }
                Step::Packet(arrival) | Step::AtBackend(arrival) => {
                    let (program, expected) = match step {
                        Step::AtBackend(_) => {
                            (&loaded.unwrapper, decap::unwrap(&scenario.world.unwrapped, &mut state, arrival))
                        }
                        _ => (&loaded.balancer, process(&scenario.world, kernel, &mut state, now, arrival)),
                    };
                    let actual = program.run_behind(&arrival.frame, arrival.interface, HEADROOM - arrival.headroom)?;
                    coverage.packet(arrival, &expected);
                    judge(arrival, &expected, &actual, &mut difference);
                    unread += 1;
                    ran = Some((arrival, expected, actual));
                }
            }
            if unread >= every || last || difference.is_some() {
                unread = 0;
                observe(loaded, &before, &mut state, &scenario.world, &mut difference)?;
            }
            if last {
                all_rows(loaded, &state, &mut difference);
            }
            if difference.is_some() {
                if let Some((arrival, expected, actual)) = ran {
                    difference.packets = describe(arrival, &expected, &actual);
                }
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    /// The programs with a world's maps, and nothing left behind by packets but counters.
    fn install(&mut self, world: &World) -> Result<(&Kernel, &mut Loaded)> {
        if self.loaded.as_ref().is_none_or(|loaded| loaded.world != *world) {
            // The old one goes first: large rings are megabytes.
            self.loaded = None;
            let unwrapper = Program::load_decap(&world.unwrapped)?;
            let (balancer, rings) = load(world)?;
            self.loaded = Some(Loaded { world: world.clone(), balancer, rings, unwrapper });
        }
        let Some(loaded) = &mut self.loaded else { bail!("no program is loaded") };
        loaded.balancer.forget()?;
        for backend in &world.backends {
            loaded.balancer.set("BACKENDS", u32::from(backend.id), record(backend))?;
        }
        loaded.balancer.clear::<Flow4, Fragments>("FRAGMENTS4")?;
        loaded.balancer.clear::<Flow6, Fragments>("FRAGMENTS6")?;
        loaded.balancer.clear::<Flow4, FlowEntry>("TRACKED4")?;
        loaded.balancer.clear::<Flow6, FlowEntry>("TRACKED6")?;
        loaded.balancer.clear::<Flow4, FlowEntry>("FLOWS4")?;
        loaded.balancer.clear::<Flow6, FlowEntry>("FLOWS6")?;
        let state = State::of(world);
        for (flow, (hash, entry)) in &state.rows.entries {
            words::insert_entry(&mut loaded.balancer, flow, *hash, entry)?;
        }
        for service in services(world) {
            loaded.balancer.set("FLOW_USES", service, uses_in(&state, service))?;
        }
        for (ring, words) in loaded.rings.values() {
            ring.words().iter().zip(words).for_each(|(there, word)| there.store(*word, Ordering::Relaxed));
        }
        Ok((&self.kernel, loaded))
    }
}

/// What is no packet, in the program's maps.
fn happens(loaded: &mut Loaded, step: &Step) -> Result<()> {
    match step {
        Step::Clock(second) => loaded.balancer.set_clock(*second)?,
        Step::Backend { id, up, life } => {
            if let Some(backend) = loaded.world.backend(*id) {
                let mut record = record(backend);
                record.state.generation = u32::from(*life);
                record.state.flags &= !if *up { 0 } else { BACKEND_ALIVE };
                loaded.balancer.set("BACKENDS", u32::from(*id), record)?;
            }
        }
        Step::Row { class, slot, row, owner, kind } => {
            if let Some(word) = loaded.row((*class, *slot, *row)) {
                word.store(row_word(world::Row { owner: *owner, kind: *kind }), Ordering::Relaxed);
            }
        }
        Step::Packet(_) | Step::AtBackend(_) => {}
    }
    Ok(())
}

/// Ids of services that may use anything.
fn services(world: &World) -> BTreeSet<u32> {
    let ids = world.all_services().map(|s| s.id);
    ids.chain(world.entries.iter().map(|entry| entry.service)).collect()
}

/// Compares what packets left behind since the start of the scenario.
fn observe(
    loaded: &mut Loaded,
    before: &Counts,
    state: &mut State,
    world: &World,
    difference: &mut Difference,
) -> Result<()> {
    let (expected, actual) = (state.counts(), loaded.counters()?.since(before));
    if expected != actual {
        let (missing, surplus) = (expected.since(&actual), actual.since(&expected));
        let only = |counts: &Counts| {
            let positive = counts.0.iter().filter(|(_, n)| **n < u64::MAX / 2);
            Counts(positive.map(|(name, n)| (name.clone(), *n)).collect())
        };
        difference.add(
            Kind::Counters,
            format!(
                "counters that only the model changed: {}\n         that only the program changed: {}",
                only(&missing),
                only(&surplus)
            ),
        );
    }
    for (what, expected, actual) in [
        ("tracked flows", tracked_in(state), known(&mut loaded.balancer, ["TRACKED4", "TRACKED6"])?),
        ("entries", entries_in(state), known(&mut loaded.balancer, ["FLOWS4", "FLOWS6"])?),
    ] {
        if expected != actual {
            let only = |one: &Known, other: &Known| {
                let differs = one.iter().filter(|(key, flow)| other.get(*key) != Some(flow));
                differs.map(|(key, known)| format!("{key:?}: {known}")).collect::<Vec<_>>()
            };
            let (expected, actual) = (only(&expected, &actual), only(&actual, &expected));
            difference.add(Kind::Flows, format!("{what}: expected {expected:#?}\nactual {actual:#?}"));
        }
    }
    for service in services(world) {
        let (expected, actual) = (uses_in(state, service), loaded.balancer.get::<FlowUse>("FLOW_USES", service)?);
        if expected != actual {
            let finding = format!("what service {service} uses: expected {expected:?}\n         actual   {actual:?}");
            difference.add(Kind::Uses, finding);
        }
    }
    for (place, row) in &state.rows.changed {
        if let Some(word) = loaded.row(*place) {
            rows_differ(*place, row_word(*row), word.load(Ordering::Relaxed), difference);
        }
    }
    let expected: Vec<Wanted> = state.events.drain(..).collect();
    let events = loaded.balancer.events()?;
    let actual: Vec<Option<Wanted>> = events.iter().map(wanted).collect();
    if actual != expected.iter().map(|e| Some(*e)).collect::<Vec<_>>() {
        difference.add(Kind::Events, format!("events: expected {expected:?}\n        actual   {events:?}"));
    }
    Ok(())
}

/// Compares every row there is.
fn all_rows(loaded: &Loaded, state: &State, difference: &mut Difference) {
    for ((class, slot), (ring, words)) in &loaded.rings {
        let differ =
            ring.words().iter().zip(words).enumerate().filter(|(_, (is, was))| is.load(Ordering::Relaxed) != **was);
        for (row, (is, was)) in differ {
            let place = (*class, *slot, row as u32);
            let expected = state.rows.changed.get(&place).map_or(*was, |row| row_word(*row));
            rows_differ(place, expected, is.load(Ordering::Relaxed), difference);
        }
    }
}

fn rows_differ(place: Place, expected: u64, actual: u64, difference: &mut Difference) {
    if expected != actual && !difference.kinds.contains(&Kind::Rows) {
        let text = |word: u64| {
            let row = Row(word);
            format!("{word:x} (owner {}, settled {}, until {})", row.owner(), row.settled(), row.until())
        };
        let (expected, actual) = (text(expected), text(actual));
        difference.add(Kind::Rows, format!("row {place:?}: expected {expected}\n     actual   {actual}"));
    }
}

/// An event in the model's words, if it means anything.
fn wanted(event: &Event) -> Option<Wanted> {
    let Event { kind, family, ifindex, reserved, addr } = *event;
    let address = match (family, addr) {
        (4, [word, 0, 0, 0]) => IpAddr::V4(word.to_ne_bytes().into()),
        (6, words) => IpAddr::V6(Ipv6Addr::from(lb_common::addr::octets6(words))),
        _ => return None,
    };
    (kind == EVENT_WANT_NEIGHBOUR && reserved == 0).then_some(Wanted { interface: ifindex, address })
}
