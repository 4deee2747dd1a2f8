//! What is written down of flows and rows, in the words of the program's maps: what the model says on one side, what
//! the maps say on the other, and both alike.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Result, bail};

use lb_common::addr::words6;
use lb_common::flow::{
    Flow4, Flow6, FlowEntry, FlowState, FlowUse, Life, PHASE_CLOSING, PHASE_ESTABLISHED, PHASE_OPENING,
};
use lb_common::ring::Row;

use crate::model::State;
use crate::model::flow::{Flow, Gate, Key, Phase};
use crate::model::world::{self, Entry, Kind, Says};
use crate::progrun::Program;

/// By client, VIP, ports and protocol: what is known of flows.
pub(super) type Known = BTreeMap<Key, FlowText>;

/// An entry, for comparison and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowText {
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

/// An entry of a flow with this hash.
fn text_of(hash: u32, entry: &Entry) -> FlowText {
    let state = match &entry.says {
        Says::Nothing => FlowState::VACANT,
        Says::Leaving => FlowState::LEAVING,
        Says::Flow(flow) => state_of(flow),
    };
    FlowText { hash: hash ^ u32::from(entry.strange), service: entry.service, state }
}

pub(super) fn tracked_in(state: &State) -> Known {
    let flows = state.tracked.flows.iter();
    // A wrong hash shows in this table as a flow that is not followed.
    flows.map(|(key, (service, flow))| (*key, FlowText { hash: 0, service: *service, state: state_of(flow) })).collect()
}

pub(super) fn entries_in(state: &State) -> Known {
    state.rows.entries.iter().map(|(key, (hash, entry))| (*key, text_of(*hash, entry))).collect()
}

pub(super) fn uses_in(state: &State, service: u32) -> FlowUse {
    let gate = |gates: &BTreeMap<u32, Gate>| {
        let Gate { second, passed } = gates.get(&service).copied().unwrap_or_default();
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
pub(super) fn known(program: &mut Program, [v4, v6]: [&str; 2]) -> Result<Known> {
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

/// Writes what is written down of a flow before the first packet.
pub(super) fn insert_entry(program: &mut Program, flow: &Key, hash: u32, entry: &Entry) -> Result<()> {
    let text = text_of(hash, entry);
    let value = FlowEntry { hash: text.hash, service: text.service, state: text.state };
    match (key4(flow), key6(flow)) {
        (Some(key), _) => program.insert("FLOWS4", key, value),
        (None, Some(key)) => program.insert("FLOWS6", key, value),
        (None, None) => bail!("a flow of two families: {flow:?}"),
    }
}

/// A row's word.
pub(super) fn row_word(row: world::Row) -> u64 {
    let word = match row.kind {
        Kind::Steady => Row::steady(row.owner),
        Kind::Moving { settled, until } => Row::moving(row.owner, settled, until),
        Kind::Exceptions { filter } => Row::exceptions(row.owner, filter),
    };
    word.0
}

pub(super) fn word(octets: [u8; 4]) -> u32 {
    u32::from_ne_bytes(octets)
}
