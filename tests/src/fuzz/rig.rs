//! The programs under test: loaded, their maps filled from a world, and run next to the model.
//!
//! The thread that has a [`Rig`] is moved into a network namespace of its own and pinned to one CPU: the budget for
//! events is each CPU's own, and the model has one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use lb_common::addr::{Endpoint4, Endpoint6, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Backend, BackendRoute, State as BackendState};
use lb_common::event::{EVENT_WANT_NEIGHBOUR, Event};
use lb_common::flow::{
    Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Life, ORPHAN_DROP, ORPHAN_RESELECT, ORPHAN_RESET,
    PHASE_CLOSING, PHASE_ESTABLISHED, PHASE_OPENING,
};
use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, Row};
use lb_common::route::{
    Neighbour4, Neighbour6, NextHop, ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK, Route as RouteValue,
};
use lb_common::service::{AFFINITY_SOURCE, BEFORE_SOURCE, Reverse4, Reverse6, Service as ServiceValue, TRACKED};

use super::coverage::Coverage;
use super::judge::{Difference, Kind, describe, judge};
use super::network;
use super::scenario::{HEADROOM, Scenario, Step};
use crate::model::flow::{self, Flow, Key, Phase};
use crate::model::rows::Place;
use crate::model::state::Wanted;
use crate::model::world::{self, Endpoint, Entry, Kind as RowKind, Orphans, Reply, Route, Says, Service, Way};
use crate::model::{Kernel, State, World, decap, process};
use crate::progrun::{Counts, Mapped, Program, Settings, netns};

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
    /// By class and slot: the rings in memory, and what they say in the beginning.
    rings: BTreeMap<(u8, u32), (Mapped, Vec<u64>)>,
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
        loaded.balancer.clear::<Flow4, FlowEntry>("TRACKED4")?;
        loaded.balancer.clear::<Flow6, FlowEntry>("TRACKED6")?;
        loaded.balancer.clear::<Flow4, FlowEntry>("FLOWS4")?;
        loaded.balancer.clear::<Flow6, FlowEntry>("FLOWS6")?;
        let state = State::of(world);
        for (flow, (hash, entry)) in &state.rows.entries {
            let value =
                FlowEntry { hash: *hash ^ u32::from(entry.strange), service: entry.service, state: says(entry) };
            match (key4(flow), key6(flow)) {
                (Some(key), _) => loaded.balancer.insert("FLOWS4", key, value)?,
                (None, Some(key)) => loaded.balancer.insert("FLOWS6", key, value)?,
                (None, None) => bail!("a flow of two families: {flow:?}"),
            }
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
    let ids = world.services.iter().map(|s| s.id);
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

/// By client, VIP, ports and protocol: what is known of flows.
type Known = BTreeMap<Key, FlowText>;

/// An entry, for comparison and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FlowText {
    hash: u32,
    service: u32,
    state: FlowState,
}

impl fmt::Display for FlowText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, service, state } = self;
        let (backend, life) = (state.life().backend(), state.life().generation());
        let (phase, last) = (state.phase(), state.last());
        write!(f, "hash {hash:x} service {service} backend {backend}.{life} phase {phase} last {last}")
    }
}

/// What the model says is written down of a flow, in the program's words.
fn state_of(flow: &Flow) -> FlowState {
    let phase = match flow.phase {
        Phase::Opening => PHASE_OPENING,
        Phase::Established => PHASE_ESTABLISHED,
        Phase::Closing => PHASE_CLOSING,
    };
    FlowState::new(Life::new(flow.backend, flow.life), phase, flow.last)
}

fn says(entry: &Entry) -> FlowState {
    match &entry.says {
        Says::Nothing => FlowState::VACANT,
        Says::Leaving => FlowState::LEAVING,
        Says::Flow(flow) => state_of(flow),
    }
}

fn tracked_in(state: &State) -> Known {
    let flows = state.tracked.flows.iter();
    // Hashes are the keys' own, which the tables of rows are asked about.
    flows.map(|(key, (service, flow))| (*key, FlowText { hash: 0, service: *service, state: state_of(flow) })).collect()
}

fn entries_in(state: &State) -> Known {
    let entries = state.rows.entries.iter();
    entries
        .map(|(key, (hash, entry))| {
            let hash = *hash ^ u32::from(entry.strange);
            (*key, FlowText { hash, service: entry.service, state: says(entry) })
        })
        .collect()
}

fn uses_in(state: &State, service: u32) -> FlowUse {
    let gate = |gates: &BTreeMap<u32, flow::Gate>| {
        let flow::Gate { second, passed } = gates.get(&service).copied().unwrap_or_default();
        u64::from(second) << 32 | u64::from(passed)
    };
    let [tracked4, tracked6] = state.tracked.of(service);
    FlowUse {
        entries: state.rows.of_service(service) as u64,
        gate: gate(&state.rows.gates),
        refused: u64::from(state.rows.refused.get(&service).copied().unwrap_or_default()),
        tracked4,
        tracked6,
        tracked_gate: gate(&state.tracked.gates),
        reserved: [0; 2],
    }
}

fn ports_of(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_ne_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

fn ports_word(from: u16, to: u16) -> u32 {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

fn key4(flow: &Key) -> Option<Flow4> {
    let (IpAddr::V4(s), IpAddr::V4(d), from, to, protocol) = *flow else { return None };
    let (source, destination) = (word(s.octets()), word(d.octets()));
    Some(Flow4 { source, destination, ports: ports_word(from, to), protocol: u32::from(protocol) })
}

fn key6(flow: &Key) -> Option<Flow6> {
    let (IpAddr::V6(s), IpAddr::V6(d), from, to, protocol) = *flow else { return None };
    let (source, destination) = (words6(s.octets()), words6(d.octets()));
    Some(Flow6 { source, destination, ports: ports_word(from, to), protocol: u32::from(protocol) })
}

/// What the program knows.
fn known(program: &mut Program, [v4, v6]: [&str; 2]) -> Result<Known> {
    let hashes = v4 == "FLOWS4";
    let text = |entry: FlowEntry| {
        let FlowEntry { hash, service, state } = entry;
        FlowText { hash: if hashes { hash } else { 0 }, service, state }
    };
    let mut known = Known::new();
    for (flow, entry) in program.entries::<Flow4, FlowEntry>(v4)? {
        let ip = |word: u32| IpAddr::from(word.to_ne_bytes());
        let (from, to) = ports_of(flow.ports);
        known.insert((ip(flow.source), ip(flow.destination), from, to, flow.protocol as u8), text(entry));
    }
    for (flow, entry) in program.entries::<Flow6, FlowEntry>(v6)? {
        let ip = |words: [u32; 4]| IpAddr::from(lb_common::addr::octets6(words));
        let (from, to) = ports_of(flow.ports);
        known.insert((ip(flow.source), ip(flow.destination), from, to, flow.protocol as u8), text(entry));
    }
    Ok(known)
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

fn row_word(row: world::Row) -> u64 {
    let word = match row.kind {
        RowKind::Steady => Row::steady(row.owner),
        RowKind::Moving { settled, until } => Row::moving(row.owner, settled, until),
        RowKind::Exceptions { filter } => Row::exceptions(row.owner, filter),
    };
    word.0
}

/// The balancer, and by class and slot its rings.
type Balancer = (Program, BTreeMap<(u8, u32), (Mapped, Vec<u64>)>);

fn load(world: &World) -> Result<Balancer> {
    let s = &world.settings;
    let mut program = Program::load(&Settings {
        ipv4: s.ipv4,
        ipv6: s.ipv6,
        nat: s.nat,
        ipip: s.ipip,
        tracking: s.tracking,
        log: s.log,
        test_clock: true,
        room_for_flows: s.room.max(1),
        // More than there are packets: nobody is pushed out.
        room_for_tracked: 16_384,
        hash_key: HashKey(s.hash_key),
        tunnel_source_mask4: u32::from_ne_bytes(s.tunnel_mask4.octets()),
        tunnel_source_mask6: u32::from_ne_bytes(s.tunnel_mask6.octets()),
    })?;
    program.set_devices(&world.devices)?;
    for entry in &world.next_hops {
        program.set("NEXT_HOPS", entry.index, next_hop(&entry.hop))?;
        // Index 0 means none, whatever is there.
        program.set("NEXT_HOPS", 0, next_hop(&entry.hop))?;
    }
    for backend in &world.backends {
        program.set("BACKENDS", u32::from(backend.id), record(backend))?;
    }
    let mut rings = BTreeMap::new();
    for class in 0..CLASSES.len() {
        let of_class = world.rings.iter().filter(|r| usize::from(r.class) == class);
        let slots: Vec<u32> = of_class.map(|r| r.slot).collect();
        let mapped = program.set_rings(class, &slots, |slot, row| {
            let ring = world.rings.iter().find(|r| usize::from(r.class) == class && r.slot == slot);
            Row(ring.map_or(0, |ring| row_word(ring.row(row))))
        })?;
        for (slot, ring) in slots.into_iter().zip(mapped) {
            let words = ring.words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
            rings.insert((class as u8, slot), (ring, words));
        }
    }
    for policy in &world.policies {
        let policy_value = FlowPolicy {
            tcp_opening: policy.tcp_opening,
            tcp: policy.tcp,
            udp: policy.udp,
            orphans: match policy.orphans {
                Orphans::Reselect => ORPHAN_RESELECT,
                Orphans::Drop => ORPHAN_DROP,
                Orphans::Reset => ORPHAN_RESET,
            },
            quota: policy.quota,
            moving: u32::from(policy.in_motion),
            new_per_second: policy.new_per_second,
            tracked_quota4: policy.quotas[0],
            tracked_quota6: policy.quotas[1],
            ..FlowPolicy::default()
        };
        program.set("FLOW_POLICIES", policy.service, policy_value)?;
    }
    for service in &world.services {
        insert_service(&mut program, service)?;
    }
    for reply in &world.replies {
        insert_reply(&mut program, reply)?;
    }
    for route in &world.routes {
        insert_route(&mut program, route)?;
    }
    for neighbour in &world.neighbours {
        let (ifindex, hop) = (neighbour.interface, next_hop(&neighbour.hop));
        match neighbour.address {
            IpAddr::V4(a) => program.insert("NEIGHBOURS4", Neighbour4 { ifindex, addr: word(a.octets()) }, hop)?,
            IpAddr::V6(a) => {
                program.insert("NEIGHBOURS6", Neighbour6 { addr: words6(a.octets()), ifindex, pad: 0 }, hop)?;
            }
        }
    }
    for own in &world.own {
        match own {
            IpAddr::V4(a) => program.insert("LOCAL4", word(a.octets()), 1u32)?,
            IpAddr::V6(a) => program.insert("LOCAL6", words6(a.octets()), 1u32)?,
        }
    }
    Ok((program, rings))
}

fn word(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}

/// An address as a record has it: IPv4 in word 0.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(a) => [word(a.octets()), 0, 0, 0],
        IpAddr::V6(a) => words6(a.octets()),
    }
}

fn next_hop(hop: &world::NextHop) -> NextHop {
    NextHop {
        destination_mac: hop.destination.0,
        source_mac: hop.source.0,
        mtu: hop.mtu,
        ifindex: hop.interface,
        reserved: 0,
    }
}

fn record(backend: &world::Backend) -> Backend {
    let flags = if backend.address.is_ipv6() { BACKEND_ALIVE | BACKEND_V6 } else { BACKEND_ALIVE };
    Backend {
        addr: words(backend.address),
        state: BackendState { port: backend.port.to_be(), flags, generation: 1 },
        route: BackendRoute { next_hop: backend.next_hop, reserved: 0 },
        tunnel_source: words(backend.tunnel_source),
        reserved: [0; 2],
    }
}

fn insert_service(program: &mut Program, service: &Service) -> Result<()> {
    let Service { at: Endpoint { address, port, protocol }, id, class, slot, forward, tracked, by_client, before } =
        *service;
    let flag = |is: bool, flag: u16| if is { flag } else { 0 };
    let value = ServiceValue {
        id,
        ring: slot,
        class,
        forward,
        flags: flag(tracked, TRACKED)
            | flag(by_client, AFFINITY_SOURCE)
            | flag(before.is_some_and(|before| before.by_client), BEFORE_SOURCE),
        before: before.map_or(0, |before| ServiceValue::pack_before(before.class, before.slot)),
    };
    match address {
        IpAddr::V4(a) => program.insert("SERVICES4", Endpoint4::from_host(a.octets(), port, protocol), value),
        IpAddr::V6(a) => program.insert("SERVICES6", Endpoint6::from_host(a.octets(), port, protocol), value),
    }
}

fn insert_reply(program: &mut Program, reply: &Reply) -> Result<()> {
    let Reply { from: Endpoint { address, port, protocol }, vip, port: vip_port, backend, service } = *reply;
    let vip_port = vip_port.to_be();
    match (address, vip) {
        (IpAddr::V4(a), IpAddr::V4(vip)) => {
            let value = Reverse4 { vip: word(vip.octets()), port: vip_port, backend, service, reserved: 0 };
            program.insert("REVERSE4", Endpoint4::from_host(a.octets(), port, protocol), value)
        }
        (IpAddr::V6(a), IpAddr::V6(vip)) => {
            let value = Reverse6 { vip: words6(vip.octets()), port: vip_port, backend, service };
            program.insert("REVERSE6", Endpoint6::from_host(a.octets(), port, protocol), value)
        }
        _ => bail!("the reply from {address} is of another family than its VIP {vip}"),
    }
}

fn insert_route(program: &mut Program, route: &Route) -> Result<()> {
    // Words that a kind of route does not have lead astray, so that whoever reads them is found out.
    let astray = RouteValue { next_hop: 1, ifindex: network::LAN, ..RouteValue::default() };
    let value = match route.way {
        Way::Gateway(next_hop) => RouteValue { kind: ROUTE_GATEWAY, next_hop, ..astray },
        Way::OnLink(ifindex) => RouteValue { kind: ROUTE_ON_LINK, ifindex, ..astray },
        Way::AskKernel => RouteValue { kind: ROUTE_ASK_KERNEL, ..astray },
    };
    let length = u32::from(route.prefix.length);
    match route.prefix.address {
        IpAddr::V4(a) => program.insert_prefix("ROUTES4", length, a.octets(), value),
        IpAddr::V6(a) => program.insert_prefix("ROUTES6", length, a.octets(), value),
    }
}
