//! The programs under test: loaded, their maps filled from a world, and run next to the model.
//!
//! The thread that has a [`Rig`] is moved into a network namespace of its own and pinned to one CPU: the budget for
//! events is each CPU's own, and the model has one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use lb_common::addr::{Endpoint4, Endpoint6, words6};
use lb_common::backend::{BACKEND_ALIVE, BACKEND_V6, Backend, BackendRoute, State as BackendState, Tunnel};
use lb_common::event::{EVENT_WANT_NEIGHBOUR, Event};
use lb_common::flow::{
    Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Life, ORPHAN_DROP, ORPHAN_RESELECT, PHASE_CLOSING,
    PHASE_ESTABLISHED, PHASE_OPENING,
};
use lb_common::hash::HashKey;
use lb_common::ring::{CLASSES, Row};
use lb_common::route::{
    Neighbour4, Neighbour6, NextHop, ROUTE_ASK_KERNEL, ROUTE_GATEWAY, ROUTE_ON_LINK, Route as RouteValue,
};
use lb_common::service::{Reverse4, Reverse6, Service as ServiceValue, TRACKED};

use super::coverage::Coverage;
use super::judge::{Difference, Kind, describe, judge};
use super::network;
use super::scenario::{HEADROOM, Scenario, Step};
use crate::model::state::Wanted;
use crate::model::world::{self, Endpoint, Reply, Route, Service, Way};
use crate::model::{Kernel, State, World, decap, process, tracked};
use crate::progrun::{Counts, Program, Settings, netns};

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
    /// The one for backend hosts.
    unwrapper: Program,
}

impl Loaded {
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
        match self.compare(&scenario.world, scenario, COARSE, coverage)? {
            // Which packet it was shows when everything is compared after each.
            Some(coarse) => Ok(Some(self.locate(scenario)?.unwrap_or(coarse))),
            None => Ok(None),
        }
    }

    /// As [`Rig::run`], looking at everything after each packet.
    pub fn locate(&mut self, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(&scenario.world, scenario, 1, &mut Coverage::default())
    }

    /// As [`Rig::run`], looking at counters and events after the last packet only: quick, for those who know that
    /// there is a difference and try whether it is still there.
    pub fn check(&mut self, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(&scenario.world, scenario, usize::MAX, &mut Coverage::default())
    }

    /// As [`Rig::check`], with a program that lives in another world than the model: a wrong one.
    pub fn check_in(&mut self, other: &World, scenario: &Scenario) -> Result<Option<Difference>> {
        self.compare(other, scenario, usize::MAX, &mut Coverage::default())
    }

    fn compare(
        &mut self,
        programs: &World,
        scenario: &Scenario,
        every: usize,
        coverage: &mut Coverage,
    ) -> Result<Option<Difference>> {
        let (kernel, loaded) = self.install(programs)?;
        let before = loaded.counters()?;
        let mut state = State::default();
        let mut now = 0;
        let mut unread = 0;
        for (index, step) in scenario.steps.iter().enumerate() {
            let last = index + 1 == scenario.steps.len();
            let mut difference = Difference::at(index);
            let mut ran = None;
            match step {
                Step::Clock(second) => {
                    now = *second;
                    loaded.balancer.set_clock(now)?;
                }
                Step::Backend { id, up, life } => {
                    state.standing.insert(*id, (*up, *life));
                    if let Some(backend) = scenario.world.backend(*id) {
                        let mut record = record(backend);
                        record.state.generation = u32::from(*life);
                        record.state.flags &= !if *up { 0 } else { BACKEND_ALIVE };
                        loaded.balancer.set("BACKENDS", u32::from(*id), record)?;
                    }
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
                observe(loaded, &before, &mut state, &mut difference)?;
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
            self.loaded = Some(Loaded { world: world.clone(), balancer: load(world)?, unwrapper });
        }
        let Some(loaded) = &mut self.loaded else { bail!("no program is loaded") };
        loaded.balancer.forget()?;
        for backend in &world.backends {
            loaded.balancer.set("BACKENDS", u32::from(backend.id), record(backend))?;
        }
        loaded.balancer.clear::<Flow4, FlowEntry>("TRACKED4")?;
        loaded.balancer.clear::<Flow6, FlowEntry>("TRACKED6")?;
        for policy in &world.policies {
            loaded.balancer.set("FLOW_USES", policy.service, FlowUse::default())?;
        }
        Ok((&self.kernel, loaded))
    }
}

/// Compares what packets left behind since the start of the scenario.
fn observe(loaded: &mut Loaded, before: &Counts, state: &mut State, difference: &mut Difference) -> Result<()> {
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
    let (expected, actual) = (tracked_in(state), tracked(&mut loaded.balancer)?);
    if expected != actual {
        let only = |one: &Tracked, other: &Tracked| {
            one.iter().filter(|(key, flow)| other.get(*key) != Some(flow)).map(|f| format!("{f:?}")).collect::<Vec<_>>()
        };
        difference.add(
            Kind::Flows,
            format!(
                "tracked flows: expected {:?}\n             actual   {:?}",
                only(&expected, &actual),
                only(&actual, &expected)
            ),
        );
    }
    let expected: Vec<Wanted> = state.events.drain(..).collect();
    let events = loaded.balancer.events()?;
    let actual: Vec<Option<Wanted>> = events.iter().map(wanted).collect();
    if actual != expected.iter().map(|e| Some(*e)).collect::<Vec<_>>() {
        difference.add(Kind::Events, format!("events: expected {expected:?}\n        actual   {events:?}"));
    }
    Ok(())
}

/// By client, VIP, ports and protocol: service and state.
type Tracked = BTreeMap<tracked::Key, (u32, u64)>;

/// What the model knows of tracked flows, in the program's words.
fn tracked_in(state: &State) -> Tracked {
    let flow = |flow: &tracked::Flow| {
        let phase = match flow.phase {
            tracked::Phase::Opening => PHASE_OPENING,
            tracked::Phase::Established => PHASE_ESTABLISHED,
            tracked::Phase::Closing => PHASE_CLOSING,
        };
        (flow.service, FlowState::new(Life::new(flow.backend, flow.life), phase, flow.last).0)
    };
    state.tracked.flows.iter().map(|(key, known)| (*key, flow(known))).collect()
}

/// What the program does.
fn tracked(program: &mut Program) -> Result<Tracked> {
    let ports = |word: u32| {
        let [a, b, c, d] = word.to_ne_bytes();
        (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
    };
    let mut known = Tracked::new();
    for (flow, entry) in program.entries::<Flow4, FlowEntry>("TRACKED4")? {
        let ip = |word: u32| IpAddr::from(word.to_ne_bytes());
        let (from, to) = ports(flow.ports);
        let key = (ip(flow.source), ip(flow.destination), from, to, flow.protocol as u8);
        known.insert(key, (entry.service, entry.state.0));
    }
    for (flow, entry) in program.entries::<Flow6, FlowEntry>("TRACKED6")? {
        let ip = |words: [u32; 4]| IpAddr::from(lb_common::addr::octets6(words));
        let (from, to) = ports(flow.ports);
        let key = (ip(flow.source), ip(flow.destination), from, to, flow.protocol as u8);
        known.insert(key, (entry.service, entry.state.0));
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

fn load(world: &World) -> Result<Program> {
    let s = &world.settings;
    let mut program = Program::load(&Settings {
        ipv4: s.ipv4,
        ipv6: s.ipv6,
        nat: s.nat,
        ipip: s.ipip,
        dsr_l2: false,
        gre: false,
        gue: false,
        overlay: false,
        crossing: false,
        tracking: s.tracking,
        log: s.log,
        test_clock: true,
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
    for class in 0..CLASSES.len() {
        let rings = world.rings.iter().filter(|r| usize::from(r.class) == class);
        let slots: Vec<u32> = rings.map(|r| r.slot).collect();
        program.set_rings(class, &slots, |slot, row| {
            let ring = world.rings.iter().find(|r| usize::from(r.class) == class && r.slot == slot);
            Row::steady(ring.map_or(0, |ring| ring.owner(row)))
        })?;
    }
    for policy in &world.policies {
        let policy_value = FlowPolicy {
            tcp_opening: policy.tcp_opening,
            tcp: policy.tcp,
            udp: policy.udp,
            orphans: if policy.drops_orphans { ORPHAN_DROP } else { ORPHAN_RESELECT },
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
    Ok(program)
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
        tunnel: Tunnel::default(),
    }
}

fn insert_service(program: &mut Program, service: &Service) -> Result<()> {
    let Service { at: Endpoint { address, port, protocol }, id, class, slot, forward, tracked } = *service;
    let flags = if tracked { TRACKED } else { 0 };
    let value = ServiceValue { id, ring: slot, class, forward, flags, ..ServiceValue::default() };
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
