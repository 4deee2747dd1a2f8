//! Rows that are not steady: what becomes of a packet, and what is known of its flow afterwards.
//!
//! A [`Scene`] sets the clock, one row, at most one entry, and the service's policy; sends one packet; and asserts the
//! packet that leaves, every counter, the entry, how many there are said to be, and the row's own word. Each is played
//! for IPv4 and IPv6. Flows of [`tracked`] services have scenes of their own; nobody else's are ever in their table.

mod tracked;

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use lb_common::addr::{Endpoint4, Endpoint6, PROTO_TCP, PROTO_UDP, words6};
use lb_common::backend::Backend;
use lb_common::counters::DropReason;
use lb_common::flow::{
    Flow4, Flow6, FlowEntry, FlowPolicy, FlowState, FlowUse, Life, ORPHAN_DROP, ORPHAN_RESELECT, ORPHAN_RESET,
    PHASE_CLOSING, PHASE_ESTABLISHED, PHASE_OPENING,
};
use lb_common::ring::{CLASSES, Row, filter_bit};
use lb_common::rows::{BEFORE, MARGIN};
use lb_common::service::{
    AFFINITY_SOURCE, BEFORE_SOURCE, FORWARD_IPIP, FORWARD_NAT, Reverse4, Reverse6, Service, TRACKED,
};

use super::cases::{outer4, outer6};
use super::oracle::{self, hash4, hash6};
use super::world::*;
use super::{Case, Test, case};
use crate::packet::transport::{ACK, FIN, PSH, RST, SYN};
use crate::packet::{Packet, Tcp, ethernet, ipv4, ipv6, tcp, udp};
use crate::progrun::Program;

/// Backends of these scenes: the row's owner, the one before, one that has nothing to do with it, and one that is down.
const OWNER: u16 = 20;
const SETTLED: u16 = 21;
const THIRD: u16 = 22;
const DOWN: u16 = 23;

const ID: u32 = 21;
const PORT: u16 = 9100;
const CLIENT_PORT: u16 = 40_000;

const NOW: u32 = 100_000;
/// Idle timeouts of the service's flows.
const OPENING: u32 = 30;
const IDLE: u32 = 300;
const IDLE_UDP: u32 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Segment(u8),
    Query,
}

const SYNS: Sent = Sent::Segment(SYN);
const DATA: Sent = Sent::Segment(ACK | PSH);
const FINISHES: Sent = Sent::Segment(FIN | ACK);
const RESETS: Sent = Sent::Segment(RST | ACK);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    To(u16),
    Drops(DropReason),
    /// Answered with RST; whether the answer acknowledges, because the segment did not.
    Resets {
        acknowledges: bool,
    },
}
use Outcome::{Drops, To};

#[derive(Clone, Debug)]
struct Scene {
    name: &'static str,
    row: Row,
    /// Of the service.
    flags: u16,
    /// The row of the flow on the ring before.
    before: Option<Row>,
    forward: u8,
    entry: Option<FlowEntry>,
    orphans: u32,
    quota: u32,
    gate: u32,
    used: FlowUse,
    /// Entries of others in the table.
    others: u32,
    tracked: Tracked,
    sent: Sent,
    outcome: Outcome,
    /// Counters of flows that go up by one.
    counts: &'static [&'static str],
    /// The state of the flow's entry afterwards.
    left: Option<FlowState>,
    row_left: Row,
    entries_left: u64,
    refused_left: u64,
}

/// The same of the table of tracked flows.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    entry: Option<FlowEntry>,
    quota: u32,
    /// How many there are said to be, and the word of the gate.
    used: u64,
    gate: u64,
    counts: &'static [&'static str],
    left: Option<FlowState>,
    used_left: u64,
}

const UNTRACKED: Tracked = Tracked { entry: None, quota: 10, used: 0, gate: 0, counts: &[], left: None, used_left: 0 };

/// Began to move so many seconds ago.
fn moving(ago: u32) -> Row {
    Row::moving(OWNER, SETTLED, NOW - ago + IDLE + MARGIN)
}

/// The same for UDP.
fn moving_udp(ago: u32) -> Row {
    Row::moving(OWNER, SETTLED, NOW - ago + IDLE_UDP + MARGIN)
}

/// By the lower half of the flow's hash.
fn exceptions(says_yes: bool) -> Row {
    // Replaced by the flow's own bit, or all others, when the scene is played.
    Row::exceptions(OWNER, u64::from(says_yes))
}

fn state(backend: u16, phase: u8, ago: u32) -> FlowState {
    FlowState::new(Life::new(backend, 1), phase, NOW - ago)
}

fn established(backend: u16, ago: u32) -> FlowState {
    state(backend, PHASE_ESTABLISHED, ago)
}

/// A scene in which nothing is written down before and after.
fn scene(name: &'static str, row: Row, sent: Sent, outcome: Outcome) -> Scene {
    Scene {
        name,
        row,
        flags: 0,
        before: None,
        forward: FORWARD_NAT,
        entry: None,
        orphans: ORPHAN_RESELECT,
        quota: 10,
        gate: 10,
        used: FlowUse::default(),
        others: 0,
        tracked: UNTRACKED,
        sent,
        outcome,
        counts: &[],
        left: None,
        row_left: row,
        entries_left: 0,
        refused_left: 0,
    }
}

impl Scene {
    /// There is an entry, and it is what it was afterwards.
    fn entry(mut self, state: FlowState) -> Self {
        self.entry = Some(FlowEntry { hash: 0, service: ID, state });
        self.left = Some(state);
        (self.used.entries, self.entries_left) = (1, 1);
        self
    }

    fn left(mut self, state: FlowState) -> Self {
        self.left = Some(state);
        self.entries_left = 1;
        self
    }

    fn counts(mut self, counts: &'static [&'static str]) -> Self {
        self.counts = counts;
        self
    }

    fn orphans(mut self, orphans: u32) -> Self {
        self.orphans = orphans;
        self
    }

    /// The flow was refused: nothing is written, the second is remembered, and the row moves until.
    fn refused(mut self, until: u32) -> Self {
        self.row_left = self.row.with_until(until);
        self.refused_left = u64::from(NOW);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

fn scenes() -> Vec<Scene> {
    let tracked = tracked::scenes();
    [found(), missed(), syns(), refused(), no_more_moving(), orphans(), datagrams(), other_rings(), tracked].concat()
}

fn found() -> Vec<Scene> {
    const HIT: &[&str] = &["lookups", "hits"];
    vec![
        scene("a flow goes where its entry says, and its second is noted", moving(10), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(HIT),
        scene("an entry of this very second is not written again", moving(10), DATA, To(THIRD))
            .entry(established(THIRD, 0))
            .counts(HIT),
        scene("a flow found in a tunnel's row goes where its entry says", moving(10), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(HIT)
            .with(|s| s.forward = FORWARD_IPIP),
        scene("a segment after the SYN makes a flow established", moving(10), DATA, To(THIRD))
            .entry(state(THIRD, PHASE_OPENING, 1))
            .left(established(THIRD, 0))
            .counts(HIT),
        scene("a FIN makes a flow closing, and it stays where it is", moving(10), FINISHES, To(THIRD))
            .entry(established(THIRD, 5))
            .left(state(THIRD, PHASE_CLOSING, 0))
            .counts(HIT),
        scene("a RST makes a flow closing, and it stays where it is", moving(10), RESETS, To(THIRD))
            .entry(established(THIRD, 5))
            .left(state(THIRD, PHASE_CLOSING, 0))
            .counts(HIT),
        scene("segments of a closing flow follow it", moving(10), DATA, To(THIRD))
            .entry(state(THIRD, PHASE_CLOSING, 5))
            .left(state(THIRD, PHASE_CLOSING, 0))
            .counts(HIT),
        scene("a SYN of a flow that lives follows it", moving(10), SYNS, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(HIT),
        scene("a segment in the middle follows an entry of TCP however old", moving(10), DATA, To(THIRD))
            .entry(established(THIRD, IDLE + 1))
            .left(established(THIRD, 0))
            .counts(HIT),
        scene("a SYN follows an entry that is silent for exactly the timeout", moving(10), SYNS, To(THIRD))
            .entry(established(THIRD, IDLE))
            .left(established(THIRD, 0))
            .counts(HIT),
        scene("a SYN does not follow an entry that is silent for longer", moving(10), SYNS, To(OWNER))
            .entry(established(THIRD, IDLE + 1))
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(&["lookups", "replaced"]),
        scene("a flow that is opening is forgotten sooner", moving(10), SYNS, To(OWNER))
            .entry(state(THIRD, PHASE_OPENING, OPENING + 1))
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(&["lookups", "replaced"]),
        scene("a SYN on a closing flow begins a new one", moving(10), SYNS, To(OWNER))
            .entry(state(THIRD, PHASE_CLOSING, 5))
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(&["lookups", "replaced"]),
        scene("an entry of an earlier life of a backend is none", moving(10), DATA, To(SETTLED))
            .entry(FlowState::new(Life::new(THIRD, 7), PHASE_ESTABLISHED, NOW))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "replaced"]),
        scene("an entry of a backend that is down is none", moving(10), DATA, To(SETTLED))
            .entry(established(DOWN, 5))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "replaced"]),
        scene("an element without content is claimed, and is not counted again", moving(10), DATA, To(SETTLED))
            .entry(FlowState::VACANT)
            .left(established(SETTLED, 0))
            .counts(&["lookups", "written"]),
        scene("an element that is being removed is let alone", moving(10), DATA, To(SETTLED))
            .entry(FlowState::LEAVING)
            .counts(&["lookups", "refused_race"])
            .refused(NOW + IDLE + MARGIN),
        scene("an element that has become another flow's is let alone", moving(10), DATA, To(SETTLED))
            .entry(established(THIRD, 5))
            .counts(&["lookups", "refused_race"])
            .refused(NOW + IDLE + MARGIN)
            .with(|s| s.entry = s.entry.map(|entry| FlowEntry { hash: 1, ..entry })),
        scene("an entry of another service is none", moving(10), DATA, To(SETTLED))
            .entry(established(THIRD, 5))
            .counts(&["lookups", "refused_race"])
            .refused(NOW + IDLE + MARGIN)
            .with(|s| s.entry = s.entry.map(|entry| FlowEntry { service: ID + 1, ..entry })),
    ]
}

fn missed() -> Vec<Scene> {
    const WRITTEN: &[&str] = &["lookups", "written"];
    vec![
        scene("a flow met midway goes to the backend before, and is written down", moving(10), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN),
        scene("a flow met midway in a tunnel's row goes to the backend before", moving(10), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .with(|s| s.forward = FORWARD_IPIP),
        scene("a flow met at its FIN is written down as closing", moving(10), FINISHES, To(SETTLED))
            .left(state(SETTLED, PHASE_CLOSING, 0))
            .counts(WRITTEN),
        scene("a flow met at its RST is not written down", moving(10), RESETS, To(SETTLED)).counts(&["lookups"]),
        scene(
            "a flow met midway goes to the owner where the backend before is down",
            Row::moving(OWNER, DOWN, NOW + IDLE),
            DATA,
            To(OWNER),
        )
        .left(established(OWNER, 0))
        .counts(WRITTEN),
        scene(
            "a flow met midway goes to the owner where there was none before",
            Row::moving(OWNER, 0, NOW + IDLE),
            DATA,
            To(OWNER),
        )
        .left(established(OWNER, 0))
        .counts(WRITTEN),
        scene(
            "a flow that only a dead backend gets is not written down",
            Row::moving(DOWN, 0, NOW + IDLE),
            DATA,
            To(DOWN),
        )
        .counts(&["lookups"]),
        scene("a moving row that nobody owns drops", Row::moving(0, 0, NOW + IDLE), DATA, Drops(DropReason::NoBackend))
            .counts(&["lookups"]),
    ]
}

fn syns() -> Vec<Scene> {
    const WRITTEN: &[&str] = &["lookups", "written"];
    let opening = |backend| state(backend, PHASE_OPENING, 0);
    let refused =
        |ago: u32| move |s: &mut Scene| (s.used.refused, s.refused_left) = (u64::from(NOW - ago), u64::from(NOW - ago));
    vec![
        scene("a SYN goes to the owner", moving(10), SYNS, To(OWNER)).left(opening(OWNER)).counts(WRITTEN),
        scene("a SYN within 4 s of the change goes to the backend before", moving(4), SYNS, To(SETTLED))
            .left(opening(SETTLED))
            .counts(WRITTEN),
        scene("a SYN 5 s after the change goes to the owner", moving(5), SYNS, To(OWNER))
            .left(opening(OWNER))
            .counts(WRITTEN),
        scene("a SYN within 4 s of a refusal goes to the backend before", moving(10), SYNS, To(SETTLED))
            .left(opening(SETTLED))
            .counts(WRITTEN)
            .with(refused(4)),
        scene("a SYN 5 s after a refusal goes to the owner", moving(10), SYNS, To(OWNER))
            .left(opening(OWNER))
            .counts(WRITTEN)
            .with(refused(5)),
        scene(
            "a SYN right after the change goes to the owner where the backend before is down",
            Row::moving(OWNER, DOWN, NOW + IDLE + MARGIN),
            SYNS,
            To(OWNER),
        )
        .left(opening(OWNER))
        .counts(WRITTEN),
    ]
}

fn refused() -> Vec<Scene> {
    let until = NOW + IDLE + MARGIN;
    vec![
        scene(
            "a flow beyond the quota goes to the backend before, and its row moves longer",
            moving(100),
            DATA,
            To(SETTLED),
        )
        .counts(&["lookups", "refused_quota"])
        .refused(until)
        .with(|s| s.quota = 0),
        scene("a SYN beyond the quota goes to the backend before", moving(100), SYNS, To(SETTLED))
            .counts(&["lookups", "refused_quota"])
            .refused(until)
            .with(|s| s.quota = 0),
        scene("the last entry of a quota is given", moving(100), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "written"])
            .with(|s| (s.quota, s.used.entries, s.entries_left) = (3, 2, 3)),
        scene("an entry more than the quota is not given", moving(100), DATA, To(SETTLED))
            .counts(&["lookups", "refused_quota"])
            .refused(until)
            .with(|s| (s.quota, s.used.entries, s.entries_left) = (3, 3, 3)),
        scene("a flow beyond this second's number is refused", moving(100), DATA, To(SETTLED))
            .counts(&["lookups", "refused_gate"])
            .refused(until)
            .with(|s| (s.gate, s.used.gate) = (5, u64::from(NOW) << 32 | 5)),
        scene("the last flow of this second's number is written down", moving(100), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "written"])
            .with(|s| (s.gate, s.used.gate) = (5, u64::from(NOW) << 32 | 4)),
        scene("the second before does not count", moving(100), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "written"])
            .with(|s| (s.gate, s.used.gate) = (5, u64::from(NOW - 1) << 32 | 5)),
        scene("a service that may write nothing writes nothing", moving(100), DATA, To(SETTLED))
            .counts(&["lookups", "refused_gate"])
            .refused(until)
            .with(|s| s.gate = 0),
        scene("a full table refuses", moving(100), DATA, To(SETTLED))
            .counts(&["lookups", "refused_full"])
            .refused(until)
            .with(|s| s.others = Program::FLOWS),
        scene(
            "a refused flow goes to the owner where the backend before is down",
            Row::moving(OWNER, DOWN, NOW + 50),
            DATA,
            To(OWNER),
        )
        .counts(&["lookups", "refused_quota"])
        .refused(until)
        .with(|s| s.quota = 0),
        scene(
            "a row that moves longer already is not changed by a refusal",
            Row::moving(OWNER, SETTLED, until + 9),
            DATA,
            To(SETTLED),
        )
        .counts(&["lookups", "refused_quota"])
        .refused(until + 9)
        .with(|s| s.quota = 0),
        scene("a quota that is used up does not keep a flow from its entry", moving(10), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"])
            .with(|s| (s.quota, s.gate) = (0, 0)),
    ]
}

fn no_more_moving() -> Vec<Scene> {
    let over = Row::moving(OWNER, SETTLED, NOW);
    vec![
        scene("a row in its last second still moves", Row::moving(OWNER, SETTLED, NOW + 1), DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(&["lookups", "written"]),
        scene("a row whose time has come writes nothing down", over, DATA, To(OWNER)).counts(&["lookups"]),
        scene("a row whose time has come follows what is written down", over, DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"]),
        scene(
            "a flow that the filter does not know goes to the owner, and nobody looks it up",
            exceptions(false),
            DATA,
            To(OWNER),
        )
        .entry(established(THIRD, 5)),
        scene("a flow that the filter knows is looked up", exceptions(true), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"]),
        scene("a flow that the filter takes for another goes to the owner", exceptions(true), DATA, To(OWNER))
            .counts(&["lookups"]),
        scene("a SYN that the filter takes for another goes to the owner", exceptions(true), SYNS, To(OWNER))
            .counts(&["lookups"]),
        scene(
            "an entry that says nothing stays while the owner is down, because nobody gets the packet",
            Row::moving(DOWN, 0, NOW),
            DATA,
            To(DOWN),
        )
        .entry(FlowState::new(Life::new(THIRD, 7), PHASE_ESTABLISHED, NOW - 5))
        .counts(&["lookups"]),
        scene(
            "an exception whose backend is down becomes the owner's, and its entry vacant",
            exceptions(true),
            DATA,
            To(OWNER),
        )
        .entry(established(DOWN, 5))
        .left(FlowState::VACANT)
        .counts(&["lookups", "replaced"]),
        scene("an exception of a tunnel's row goes where its entry says", exceptions(true), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"])
            .with(|s| s.forward = FORWARD_IPIP),
    ]
}

fn orphans() -> Vec<Scene> {
    let row = Row::moving(OWNER, DOWN, NOW + IDLE);
    let down = established(DOWN, 5);
    let drops = Drops(DropReason::BackendDown);
    vec![
        scene("an orphan is dropped where that is wanted", moving(10), DATA, drops)
            .entry(down)
            .orphans(ORPHAN_DROP)
            .counts(&["lookups"]),
        scene("an orphan whom nobody wrote down is dropped too", row, DATA, drops)
            .orphans(ORPHAN_DROP)
            .counts(&["lookups"]),
        scene("an orphan that is an exception is dropped too", exceptions(true), DATA, drops)
            .entry(down)
            .orphans(ORPHAN_DROP)
            .counts(&["lookups"]),
        scene("a SYN is no orphan", row, SYNS, To(OWNER))
            .orphans(ORPHAN_DROP)
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(&["lookups", "written"]),
        scene(
            "an orphan is answered with RST where that is wanted",
            moving(10),
            DATA,
            Outcome::Resets { acknowledges: false },
        )
        .entry(down)
        .orphans(ORPHAN_RESET)
        .counts(&["lookups", "resets"]),
        scene(
            "an orphan of a tunnel's row is answered with RST too",
            row,
            DATA,
            Outcome::Resets { acknowledges: false },
        )
        .orphans(ORPHAN_RESET)
        .counts(&["lookups", "resets"])
        .with(|s| s.forward = FORWARD_IPIP),
        scene("an orphan's FIN is answered with RST", row, FINISHES, Outcome::Resets { acknowledges: false })
            .orphans(ORPHAN_RESET)
            .counts(&["lookups", "resets"]),
        scene(
            "an orphan's segment without ACK is answered with RST and ACK",
            row,
            Sent::Segment(FIN | PSH),
            Outcome::Resets { acknowledges: true },
        )
        .orphans(ORPHAN_RESET)
        .counts(&["lookups", "resets"]),
        scene("an orphan's RST is not answered", row, RESETS, drops).orphans(ORPHAN_RESET).counts(&["lookups"]),
    ]
}

fn datagrams() -> Vec<Scene> {
    vec![
        scene(
            "a datagram on a moving row goes to the backend before, and is written down",
            moving_udp(10),
            Sent::Query,
            To(SETTLED),
        )
        .left(established(SETTLED, 0))
        .counts(&["lookups", "written"]),
        scene(
            "a datagram follows an entry that is silent for exactly the timeout",
            moving_udp(10),
            Sent::Query,
            To(THIRD),
        )
        .entry(established(THIRD, IDLE_UDP))
        .left(established(THIRD, 0))
        .counts(&["lookups", "hits"]),
        scene(
            "a datagram does not follow an entry that is silent for longer",
            moving_udp(10),
            Sent::Query,
            To(SETTLED),
        )
        .entry(established(THIRD, IDLE_UDP + 1))
        .left(established(SETTLED, 0))
        .counts(&["lookups", "replaced"]),
        scene("a datagram is no orphan", Row::moving(OWNER, DOWN, NOW + IDLE_UDP), Sent::Query, To(OWNER))
            .orphans(ORPHAN_DROP)
            .left(established(OWNER, 0))
            .counts(&["lookups", "written"]),
        scene(
            "a refused datagram makes its row move for its own timeout",
            Row::moving(OWNER, SETTLED, NOW + 5),
            Sent::Query,
            To(SETTLED),
        )
        .counts(&["lookups", "refused_quota"])
        .refused(NOW + IDLE_UDP + MARGIN)
        .with(|s| s.quota = 0),
    ]
}

fn other_rings() -> Vec<Scene> {
    let asks = Row::moving(OWNER, BEFORE, NOW - 10 + IDLE + MARGIN);
    const WRITTEN: &[&str] = &["lookups", "written"];
    vec![
        scene("a flow met midway goes where the ring before says", asks, DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .with(|s| s.before = Some(Row::steady(SETTLED))),
        scene("a flow met midway goes where a ring before says whose rows its client chose", asks, DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .with(|s| (s.before, s.flags) = (Some(Row::steady(SETTLED)), BEFORE_SOURCE)),
        scene("a row before that moves itself says what it says to those it does not know", asks, DATA, To(THIRD))
            .left(established(THIRD, 0))
            .counts(WRITTEN)
            .with(|s| s.before = Some(Row::moving(SETTLED, THIRD, NOW + 1))),
        scene("a row before that moves no more is its owner's", asks, DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .with(|s| s.before = Some(Row::moving(SETTLED, THIRD, NOW))),
        scene("a flow whose backend by the ring before is down goes to the owner", asks, DATA, To(OWNER))
            .left(established(OWNER, 0))
            .counts(WRITTEN)
            .with(|s| s.before = Some(Row::steady(DOWN))),
        scene("a flow goes to the owner where there is no ring before", asks, DATA, To(OWNER))
            .left(established(OWNER, 0))
            .counts(WRITTEN),
        scene("a SYN goes to the owner whatever the ring before says", asks, SYNS, To(OWNER))
            .left(state(OWNER, PHASE_OPENING, 0))
            .counts(WRITTEN)
            .with(|s| s.before = Some(Row::steady(SETTLED))),
        scene("a steady row may be chosen by the client alone", Row::steady(OWNER), DATA, To(OWNER))
            .with(|s| s.flags = AFFINITY_SOURCE),
        scene(
            "a moving row may be chosen by the client alone, an entry is the flow's own",
            moving(10),
            DATA,
            To(SETTLED),
        )
        .left(established(SETTLED, 0))
        .counts(WRITTEN)
        .with(|s| s.flags = AFFINITY_SOURCE),
        scene("a filter is of what chose the row", exceptions(true), DATA, To(THIRD))
            .entry(established(THIRD, 5))
            .left(established(THIRD, 0))
            .counts(&["lookups", "hits"])
            .with(|s| s.flags = AFFINITY_SOURCE),
        scene("a ring before may have been of flows where this one is of clients", asks, DATA, To(SETTLED))
            .left(established(SETTLED, 0))
            .counts(WRITTEN)
            .with(|s| (s.before, s.flags) = (Some(Row::steady(SETTLED)), AFFINITY_SOURCE)),
    ]
}

/// Class and slots of rings before.
const BEFORE_CLASS: usize = 1;
const BEFORE_SLOT: u32 = 100;

/// Ids of IPv6 are [`V6`] and [`ID6`] more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn backend(self, id: u16) -> u16 {
        if self == Self::V6 && id != 0 && id != BEFORE { id + V6 } else { id }
    }

    fn service(self) -> u32 {
        if self == Self::V6 { ID + ID6 } else { ID }
    }

    /// IPv4's and IPv6's, of ours and the other family's.
    fn pair<T>(self, own: T, other: T) -> (T, T) {
        if self == Self::V4 { (own, other) } else { (other, own) }
    }

    fn state(self, state: FlowState) -> FlowState {
        if !state.is_taken() {
            return state;
        }
        let life = Life::new(self.backend(state.life().backend()), state.life().generation());
        FlowState::new(life, state.phase(), state.last())
    }

    fn row(self, row: Row, hash: u32) -> Row {
        let owner = self.backend(row.owner());
        match row.kind() {
            lb_common::ring::KIND_STEADY => Row::steady(owner),
            lb_common::ring::KIND_MOVING => Row::moving(owner, self.backend(row.settled()), row.until()),
            _ if row.filter() == 1 => Row::exceptions(owner, filter_bit(hash)),
            _ => Row::exceptions(owner, !filter_bit(hash)),
        }
    }

    /// The flow's own hash, or its client's.
    fn hash(self, world: &World, by_source: bool) -> u32 {
        let (client, service) = if by_source { (0, 0) } else { (CLIENT_PORT, PORT) };
        match self {
            Self::V4 => hash4(&world.key, (CLIENT4, client), (VIP4, service)),
            Self::V6 => hash6(&world.key, (CLIENT6, client), (VIP6, service)),
        }
    }
}

fn ports_word() -> u32 {
    let ([a, b], [c, d]) = (CLIENT_PORT.to_be_bytes(), PORT.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

fn key4(protocol: u8) -> Flow4 {
    let word = |address: std::net::Ipv4Addr| u32::from_ne_bytes(address.octets());
    Flow4 { source: word(CLIENT4), destination: word(VIP4), ports: ports_word(), protocol: u32::from(protocol) }
}

fn key6(protocol: u8) -> Flow6 {
    Flow6 {
        source: words6(CLIENT6.octets()),
        destination: words6(VIP6.octets()),
        ports: ports_word(),
        protocol: u32::from(protocol),
    }
}

/// Every scene in both families, and what replies prove.
pub fn tests() -> Vec<Test> {
    let played = scenes().into_iter().flat_map(|scene| {
        [(Family::V4, "IPv4"), (Family::V6, "IPv6")].map(|(family, name)| {
            let scene = scene.clone();
            Test::new(format!("{}, {name}", scene.name), move |world: &mut World| scene.play(world, family))
        })
    });
    let proofs = proofs().into_iter().flat_map(|proof| {
        [(Family::V4, "IPv4"), (Family::V6, "IPv6")].map(|(family, name)| {
            let proof = proof.clone();
            Test::new(format!("{}, {name}", proof.name), move |world: &mut World| proof.play(world, family))
        })
    });
    let tables = tracked::tables().into_iter().map(|(name, run)| Test::new(name, run));
    played.chain(proofs).chain(tables).collect()
}

/// The second that the entry of a flow on a moving row says, in a world where the clock is the kernel's.
pub fn second_written(world: &mut World) -> Result<u32> {
    let stage = Stage {
        family: Family::V4,
        protocol: PROTO_TCP,
        // Until the end of time: what the scenes' clock says means nothing here.
        row: Row::moving(OWNER, SETTLED, (1 << 30) - 1),
        flags: 0,
        before: None,
        entry: None,
        tracked: UNTRACKED,
    };
    stage.set(world, FORWARD_NAT, policy(), FlowUse::default(), 0)?;
    let packet = ethernet(ROUTER_MAC, LAN_MAC) / ipv4(CLIENT4, VIP4) / tcp(CLIENT_PORT, PORT).flags(ACK);
    world.program.run(&packet.bytes(), LAN)?;
    let entry: Option<FlowEntry> = world.program.find("FLOWS4", &key4(PROTO_TCP))?;
    Ok(entry.context("the flow is not written down")?.state.last())
}

/// Whether a scene shows a packet that is dropped for this reason.
#[cfg(test)]
pub fn shows(reason: DropReason) -> bool {
    scenes().iter().any(|scene| scene.outcome == Drops(reason))
}

/// What there is before the packet comes.
struct Stage {
    family: Family,
    protocol: u8,
    row: Row,
    flags: u16,
    before: Option<Row>,
    entry: Option<FlowEntry>,
    tracked: Tracked,
}

impl Stage {
    /// Of what chooses the row.
    fn row_hash(&self, world: &World) -> u32 {
        self.family.hash(world, self.flags & AFFINITY_SOURCE != 0)
    }

    fn set(&self, world: &mut World, forward: u8, policy: FlowPolicy, used: FlowUse, others: u32) -> Result<()> {
        let Self { family, protocol, row, flags, before, entry, tracked } = *self;
        let id = family.service();
        world.program.set_clock(u64::from(NOW))?;
        for (backend, hop) in [(OWNER, HOP_B1), (SETTLED, HOP_B2), (THIRD, HOP_GATEWAY), (DOWN, HOP_B1)] {
            let address: IpAddr = match family {
                Family::V4 => backend4(backend).into(),
                Family::V6 => backend6(backend).into(),
            };
            world.backend(family.backend(backend), address, 0, hop)?;
        }
        let mut down: Backend = world.program.get("BACKENDS", u32::from(family.backend(DOWN)))?;
        down.state.flags &= !lb_common::backend::BACKEND_ALIVE;
        world.program.set("BACKENDS", u32::from(family.backend(DOWN)), down)?;

        let (hash, row_hash) = (family.hash(world, false), self.row_hash(world));
        let mut service = Service { id, ring: id, class: 0, forward, flags, before: 0 };
        world.program.set_ring(0, id, [(oracle::row(row_hash, 10), family.row(row, row_hash))])?;
        if let Some(before) = before {
            let hash = family.hash(world, flags & BEFORE_SOURCE != 0);
            let index = oracle::row(hash, CLASSES[BEFORE_CLASS]);
            world.program.set_ring(BEFORE_CLASS, BEFORE_SLOT, [(index, family.row(before, hash))])?;
            service.before = Service::pack_before(BEFORE_CLASS as u8, BEFORE_SLOT);
        }
        // The other family's is full.
        let (tracked4, tracked6) = family.pair(tracked.used, 1_000_000);
        let (tracked_quota4, tracked_quota6) = family.pair(tracked.quota, 0);
        world.program.set("FLOW_POLICIES", id, FlowPolicy { tracked_quota4, tracked_quota6, ..policy })?;
        world.program.set("FLOW_USES", id, FlowUse { tracked4, tracked6, tracked_gate: tracked.gate, ..used })?;
        let known = |entry: FlowEntry| FlowEntry {
            hash: if entry.hash == 0 { hash } else { entry.hash },
            service: if entry.service == ID { id } else { entry.service },
            state: family.state(entry.state),
        };
        let (state, tracked) = (entry.map(known), tracked.entry.map(known));
        match family {
            Family::V4 => {
                world.program.insert("SERVICES4", Endpoint4::from_host(VIP4.octets(), PORT, protocol), service)?;
                world.program.clear::<Flow4, FlowEntry>("FLOWS4")?;
                if let Some(entry) = state {
                    world.program.insert("FLOWS4", key4(protocol), entry)?;
                }
                world.program.clear::<Flow4, FlowEntry>("TRACKED4")?;
                if let Some(entry) = tracked {
                    world.program.insert("TRACKED4", key4(protocol), entry)?;
                }
                for i in 0..others {
                    world.program.insert("FLOWS4", Flow4 { source: i, ..key4(protocol) }, FlowEntry::default())?;
                }
            }
            Family::V6 => {
                world.program.insert("SERVICES6", Endpoint6::from_host(VIP6.octets(), PORT, protocol), service)?;
                world.program.clear::<Flow6, FlowEntry>("FLOWS6")?;
                if let Some(entry) = state {
                    world.program.insert("FLOWS6", key6(protocol), entry)?;
                }
                world.program.clear::<Flow6, FlowEntry>("TRACKED6")?;
                if let Some(entry) = tracked {
                    world.program.insert("TRACKED6", key6(protocol), entry)?;
                }
                for i in 0..others {
                    world.program.insert("FLOWS6", Flow6 { source: [i; 4], ..key6(protocol) }, FlowEntry::default())?;
                }
            }
        }
        Ok(())
    }

    /// The flow's entry must be this, the row's word that, and so on.
    fn check(&self, world: &mut World, left: Option<FlowState>, row: Row, entries: u64, refused: u64) -> Result<()> {
        let Self { family, protocol, .. } = *self;
        let id = family.service();
        let (hash, row_hash) = (family.hash(world, false), self.row_hash(world));
        let entry: Option<FlowEntry> = match family {
            Family::V4 => world.program.find("FLOWS4", &key4(protocol))?,
            Family::V6 => world.program.find("FLOWS6", &key6(protocol))?,
        };
        let expected = left.map(|state| family.state(state));
        let found = entry.map(|entry| entry.state);
        ensure!(found == expected, "the entry: expected {}, found {}", text(expected), text(found));
        if let Some(entry) = entry
            && self.entry.is_none()
        {
            ensure!((entry.hash, entry.service) == (hash, id), "the entry is not the flow's: {entry:?}");
        }
        let word = world.program.row(0, id, oracle::row(row_hash, 10))?;
        let expected = family.row(row, row_hash);
        ensure!(
            word == expected,
            "the row: expected {:x} until {}, found {:x} until {}",
            expected.0,
            expected.until(),
            word.0,
            word.until()
        );
        let used: FlowUse = world.program.get("FLOW_USES", id)?;
        ensure!(
            (used.entries, used.refused) == (entries, refused),
            "expected {entries} entries, last refused in {refused}; found {used:?}"
        );
        let entry: Option<FlowEntry> = match family {
            Family::V4 => world.program.find("TRACKED4", &key4(protocol))?,
            Family::V6 => world.program.find("TRACKED6", &key6(protocol))?,
        };
        let (expected, found) = (self.tracked.left.map(|state| family.state(state)), entry.map(|entry| entry.state));
        ensure!(found == expected, "the tracked flow: expected {}, found {}", text(expected), text(found));
        if let Some(entry) = entry
            && self.tracked.entry.is_none()
        {
            ensure!((entry.hash, entry.service) == (hash, id), "the tracked flow is another's: {entry:?}");
        }
        let (tracked4, tracked6) = family.pair(self.tracked.used_left, 1_000_000);
        ensure!(
            (used.tracked4, used.tracked6) == (tracked4, tracked6),
            "expected {tracked4} and {tracked6} tracked flows, found {used:?}"
        );
        Ok(())
    }
}

fn text(state: Option<FlowState>) -> String {
    match state {
        None => "none".to_owned(),
        Some(FlowState::VACANT) => "vacant".to_owned(),
        Some(FlowState::LEAVING) => "leaving".to_owned(),
        Some(state) => format!(
            "backend {}.{} phase {} last {}",
            state.life().backend(),
            state.life().generation(),
            state.phase(),
            state.last()
        ),
    }
}

const fn policy() -> FlowPolicy {
    FlowPolicy {
        tcp_opening: OPENING,
        tcp: IDLE,
        udp: IDLE_UDP,
        orphans: ORPHAN_RESELECT,
        quota: 10,
        new_per_second: 10,
        moving: 0,
        reserved: 0,
        tracked_quota4: 0,
        tracked_quota6: 0,
        clamp: 0,
        pad: 0,
        more: [0; 2],
    }
}

impl Scene {
    fn protocol(&self) -> u8 {
        if self.sent == Sent::Query { PROTO_UDP } else { PROTO_TCP }
    }

    fn play(&self, world: &mut World, family: Family) -> Result<()> {
        let (row, flags, before, entry) = (self.row, self.flags, self.before, self.entry);
        let stage = Stage { family, protocol: self.protocol(), row, flags, before, entry, tracked: self.tracked };
        let policy = FlowPolicy { orphans: self.orphans, quota: self.quota, new_per_second: self.gate, ..policy() };
        stage.set(world, self.forward, policy, self.used, self.others)?;
        self.case(world, family).run(world)?;
        stage.check(world, self.left, self.row_left, self.entries_left, self.refused_left)
    }

    /// What is sent, after an IP header.
    fn transport(&self, packet: impl Into<Packet>) -> Packet {
        match self.sent {
            Sent::Segment(flags) => packet.into() / tcp(CLIENT_PORT, PORT).flags(flags) / "data",
            Sent::Query => packet.into() / udp(CLIENT_PORT, PORT) / "query",
        }
    }

    fn case(&self, world: &World, family: Family) -> Case {
        let id = family.service();
        let from = ethernet(ROUTER_MAC, LAN_MAC);
        let sent = match family {
            Family::V4 => self.transport(from / ipv4(CLIENT4, VIP4)),
            Family::V6 => self.transport(from / ipv6(CLIENT6, VIP6)),
        };
        let mut told = case(self.name).enters(LAN, sent);
        told = match self.outcome {
            To(backend) => {
                let mac = match backend {
                    OWNER | DOWN => B1_MAC,
                    SETTLED => B2_MAC,
                    _ => GATEWAY_MAC,
                };
                let to = ethernet(DC_MAC, mac);
                let hash = family.hash(world, self.flags & AFFINITY_SOURCE != 0);
                let packet = match (family, self.forward) {
                    (Family::V4, FORWARD_IPIP) => self.transport(to / outer4(backend, 0) / ipv4(CLIENT4, VIP4).ttl(63)),
                    (Family::V6, FORWARD_IPIP) => {
                        self.transport(to / outer6(backend, 0, hash) / ipv6(CLIENT6, VIP6).hop_limit(63))
                    }
                    (Family::V4, _) => self.transport(to / ipv4(CLIENT4, backend4(backend)).ttl(63)),
                    (Family::V6, _) => self.transport(to / ipv6(CLIENT6, backend6(backend)).hop_limit(63)),
                };
                let told = told.leaves(DC, packet).forwarded(id, family.backend(backend));
                if self.sent == SYNS { told.counting(id, "syns") } else { told }
            }
            Drops(reason) => told.dropped(id, reason),
            Outcome::Resets { acknowledges } => {
                let back = ethernet(LAN_MAC, ROUTER_MAC);
                let answer = self.answer(acknowledges);
                let packet: Packet = match family {
                    Family::V4 => back / ipv4(VIP4, CLIENT4).identification(0).dont_fragment() / answer,
                    Family::V6 => back / ipv6(VIP6, CLIENT6) / answer,
                };
                told.leaves(LAN, packet).answered()
            }
        };
        let told = self.counts.iter().fold(told, |told, count| told.counting(id, &format!("flows {count}")));
        self.tracked.counts.iter().fold(told, |told, count| told.counting(id, &format!("tracked {count}")))
    }

    /// RFC 9293 §3.10.7.1.
    fn answer(&self, acknowledges: bool) -> Tcp {
        let asked = tcp(CLIENT_PORT, PORT);
        let Sent::Segment(flags) = self.sent else { unreachable!("only TCP is answered") };
        let taken = 4 + u32::from(flags & FIN != 0);
        tcp(PORT, CLIENT_PORT).with(|t| {
            t.window = 0;
            if acknowledges {
                (t.flags, t.sequence, t.acknowledgment) = (RST | ACK, 0, asked.sequence + taken);
            } else {
                (t.flags, t.sequence, t.acknowledgment) = (RST, asked.acknowledgment, 0);
            }
        })
    }
}

/// A reply, and what is known of its flow afterwards.
#[derive(Clone, Debug)]
struct Proof {
    name: &'static str,
    row: Row,
    /// Of the service.
    flags: u16,
    entry: Option<FlowState>,
    /// As the controller says.
    moving: u32,
    quota: u32,
    left: Option<FlowState>,
    proved: bool,
}

fn proofs() -> Vec<Proof> {
    let row = moving(10);
    let proof =
        |name, row, entry, left| Proof { name, row, flags: 0, entry, moving: 1, quota: 10, left, proved: false };
    let third = established(THIRD, 5);
    vec![
        Proof {
            proved: true,
            ..proof("a reply on a moving row shows whose flow it is", row, None, Some(established(SETTLED, 0)))
        },
        Proof {
            proved: true,
            flags: AFFINITY_SOURCE,
            ..proof(
                "a reply on a moving row of its client's shows whose flow it is",
                row,
                None,
                Some(established(SETTLED, 0)),
            )
        },
        proof("a reply never changes what is written down", row, Some(third), Some(third)),
        proof("a reply on a row whose time has come shows nothing", Row::moving(OWNER, SETTLED, NOW), None, None),
        proof("a reply on a row with exceptions shows nothing", exceptions(true), None, None),
        Proof { moving: 0, ..proof("a reply is not looked at while no row of its service moves", row, None, None) },
        Proof { quota: 0, ..proof("a reply that cannot be written down changes nothing", row, None, None) },
        Proof {
            flags: TRACKED,
            proved: true,
            ..proof("a reply of a tracked flow is proof to its row alone", row, None, Some(established(SETTLED, 0)))
        },
        Proof { flags: TRACKED, ..proof("a reply of a tracked flow tracks nobody", Row::steady(OWNER), None, None) },
    ]
}

impl Proof {
    fn play(&self, world: &mut World, family: Family) -> Result<()> {
        let entry = self.entry.map(|state| FlowEntry { hash: 0, service: ID, state });
        let (row, flags) = (self.row, self.flags);
        let stage = Stage { family, protocol: PROTO_TCP, row, flags, before: None, entry, tracked: UNTRACKED };
        let policy = FlowPolicy { moving: self.moving, quota: self.quota, ..policy() };
        let entries = u64::from(entry.is_some());
        stage.set(world, FORWARD_NAT, policy, FlowUse { entries, ..FlowUse::default() }, 0)?;
        let (id, backend) = (family.service(), family.backend(SETTLED));
        let from = ethernet(B2_MAC, DC_MAC);
        let to = ethernet(LAN_MAC, ROUTER_MAC);
        let told = match family {
            Family::V4 => {
                let vip = u32::from_ne_bytes(VIP4.octets());
                let reverse = Reverse4 { vip, port: PORT.to_be(), backend, service: id, reserved: 0 };
                world.program.insert(
                    "REVERSE4",
                    Endpoint4::from_host(backend4(SETTLED).octets(), PORT, PROTO_TCP),
                    reverse,
                )?;
                case(self.name)
                    .enters(DC, from / ipv4(backend4(SETTLED), CLIENT4) / tcp(PORT, CLIENT_PORT) / "reply")
                    .leaves(LAN, to / ipv4(VIP4, CLIENT4).ttl(63) / tcp(PORT, CLIENT_PORT) / "reply")
            }
            Family::V6 => {
                let reverse = Reverse6 { vip: words6(VIP6.octets()), port: PORT.to_be(), backend, service: id };
                world.program.insert(
                    "REVERSE6",
                    Endpoint6::from_host(backend6(SETTLED).octets(), PORT, PROTO_TCP),
                    reverse,
                )?;
                case(self.name)
                    .enters(DC, from / ipv6(backend6(SETTLED), CLIENT6) / tcp(PORT, CLIENT_PORT) / "reply")
                    .leaves(LAN, to / ipv6(VIP6, CLIENT6).hop_limit(63) / tcp(PORT, CLIENT_PORT) / "reply")
            }
        };
        let told = told.replied(id, backend);
        let told = if self.proved { told.counting(id, "flows proved") } else { told };
        told.run(world)?;
        let entries = u64::from(self.left.is_some());
        stage.check(world, self.left, self.row, entries, 0).context(self.name)
    }
}
