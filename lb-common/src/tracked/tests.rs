//! What becomes of tracked flows, sentence by sentence, with other CPUs and the kernel's own hand in the table.

extern crate std;
use std::vec::Vec;

use super::*;
use crate::flow::{PHASE_ESTABLISHED, PHASE_OPENING};
use crate::ring::Row;
use crate::rows::{Known, Orphans, Timeouts};

const NOW: u32 = 1_000;
const IDLE: u32 = 100;
const OPENING: u32 = 10;

const OWNER: u16 = 1;
const OTHER: u16 = 2;
const DOWN: u16 = 9;
const GENERATION: u16 = 40;

/// What a flow's table holds, and what happens to it.
#[derive(Debug, Default)]
struct World {
    entry: Option<FlowState>,
    refuses: bool,
    /// What the table holds when we write: another CPU wrote, or the kernel gave the place to somebody else.
    others: Vec<Option<FlowState>>,
    notes: Vec<Note>,
    writes: u32,
}

impl World {
    fn with(entry: FlowState) -> Self {
        Self { entry: Some(entry), ..Self::default() }
    }

    fn others_write(&mut self) {
        if !self.others.is_empty() {
            self.entry = self.others.remove(0);
        }
    }
}

impl Entries for World {
    fn find(&mut self) -> Option<FlowState> {
        self.entry.filter(|state| state.is_taken())
    }

    fn insert(&mut self, state: FlowState) -> Inserted {
        self.others_write();
        if self.refuses {
            return Inserted::Refused;
        }
        if self.find().is_some() {
            return Inserted::Exists;
        }
        self.entry = Some(state);
        self.writes += 1;
        Inserted::Done
    }

    fn replace(&mut self, from: FlowState, to: FlowState) -> bool {
        self.others_write();
        let same = self.entry == Some(from);
        if same {
            self.entry = Some(to);
            self.writes += 1;
        }
        same
    }

    fn backend(&mut self, id: u16) -> Known {
        Known { life: Life::new(id, GENERATION), up: id != 0 && id != DOWN }
    }
}

impl Tracked for World {
    fn note(&mut self, what: Note) {
        self.notes.push(what);
    }
}

struct Asked(Row, Packet, Orphans);

impl Question for Asked {
    fn row(&self) -> Row {
        self.0
    }

    fn packet(&self) -> Packet {
        self.1
    }

    fn now(&self) -> u32 {
        NOW
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts { opening: OPENING, idle: if self.1.tcp { IDLE } else { IDLE / 2 } }
    }

    fn orphans(&self) -> Orphans {
        self.2
    }
}

const fn tcp(sign: Sign) -> Packet {
    Packet { hash: 7, sign, tcp: true }
}

const SYN: Packet = tcp(Sign::Opens);
const DATA: Packet = tcp(Sign::Middle);
const FIN: Packet = tcp(Sign::Finishes);
const RST: Packet = tcp(Sign::Resets);
const UDP: Packet = Packet { hash: 7, sign: Sign::Middle, tcp: false };

fn state(backend: u16, phase: u8, last: u32) -> FlowState {
    FlowState::new(Life::new(backend, GENERATION), phase, last)
}

fn asked(packet: Packet) -> Asked {
    Asked(Row::steady(OWNER), packet, Orphans::Reselect)
}

const HIT: &[Note] = &[Note::Hit];
const MISSED: &[Note] = &[Note::Missed];

/// Which backend, what is left, what is told.
fn plays(mut world: World, packet: Packet, to: u16, left: Option<FlowState>, notes: &[Note], name: &str) {
    assert_eq!(answer(&asked(packet), &mut world), Decision::Backend(to), "{name}");
    assert_eq!((world.entry, &*world.notes), (left, notes), "{name}");
}

#[test]
fn a_live_entry_is_followed_and_kept_up_to_date() {
    for (name, entry, packet, left) in [
        ("its second is noted", state(OTHER, PHASE_ESTABLISHED, NOW - 5), DATA, state(OTHER, PHASE_ESTABLISHED, NOW)),
        ("silent for exactly the timeout", state(OTHER, 1, NOW - IDLE), DATA, state(OTHER, 1, NOW)),
        ("a datagram", state(OTHER, 1, NOW - IDLE / 2), UDP, state(OTHER, 1, NOW)),
        ("data makes it established", state(OTHER, PHASE_OPENING, NOW), DATA, state(OTHER, PHASE_ESTABLISHED, NOW)),
        ("a FIN closes it", state(OTHER, 1, NOW - 5), FIN, state(OTHER, PHASE_CLOSING, NOW)),
        ("a RST closes it", state(OTHER, 1, NOW - 5), RST, state(OTHER, PHASE_CLOSING, NOW)),
        ("data of a closing flow", state(OTHER, PHASE_CLOSING, NOW - 5), DATA, state(OTHER, PHASE_CLOSING, NOW)),
        ("a SYN of one that lives", state(OTHER, 1, NOW - 5), SYN, state(OTHER, 1, NOW)),
        ("a SYN sent again", state(OTHER, PHASE_OPENING, NOW - OPENING), SYN, state(OTHER, PHASE_OPENING, NOW)),
    ] {
        plays(World::with(entry), packet, OTHER, Some(left), HIT, name);
    }
}

#[test]
fn an_entry_that_would_stay_the_same_is_not_written() {
    let mut world = World::with(state(OTHER, PHASE_ESTABLISHED, NOW));
    assert_eq!(answer(&asked(DATA), &mut world), Decision::Backend(OTHER));
    assert_eq!(world.writes, 0);
    record(&asked(DATA), OTHER, &mut world);
    assert_eq!(world.writes, 0);
}

#[test]
fn a_flow_that_nobody_knows_goes_to_the_owner_and_is_written_down_unless_it_ends() {
    for (name, packet, left) in [
        ("a SYN", SYN, Some(state(OWNER, PHASE_OPENING, NOW))),
        ("data", DATA, Some(state(OWNER, PHASE_ESTABLISHED, NOW))),
        ("a datagram", UDP, Some(state(OWNER, PHASE_ESTABLISHED, NOW))),
        ("a FIN", FIN, Some(state(OWNER, PHASE_CLOSING, NOW))),
        ("a RST", RST, None),
    ] {
        plays(World::default(), packet, OWNER, left, MISSED, name);
    }
}

#[test]
fn an_entry_that_says_nothing_any_more_is_overwritten_by_what_the_row_says() {
    let other_life = FlowState::new(Life::new(OTHER, GENERATION - 1), PHASE_ESTABLISHED, NOW);
    for (name, entry, packet, phase) in [
        ("silent for longer than its timeout", state(OTHER, 1, NOW - IDLE - 1), DATA, PHASE_ESTABLISHED),
        ("a datagram's", state(OTHER, 1, NOW - IDLE / 2 - 1), UDP, PHASE_ESTABLISHED),
        ("opening for too long", state(OTHER, PHASE_OPENING, NOW - OPENING - 1), SYN, PHASE_OPENING),
        ("a SYN on a closing one", state(OTHER, PHASE_CLOSING, NOW), SYN, PHASE_OPENING),
        ("its backend is down", state(DOWN, 1, NOW), DATA, PHASE_ESTABLISHED),
        ("of an earlier life", other_life, DATA, PHASE_ESTABLISHED),
    ] {
        plays(World::with(entry), packet, OWNER, Some(state(OWNER, phase, NOW)), MISSED, name);
    }
    // The flow's last packet is not worth writing over anybody.
    let entry = state(DOWN, 1, NOW);
    plays(World::with(entry), RST, OWNER, Some(entry), MISSED, "a RST");
}

#[test]
fn a_flow_in_the_middle_whose_backend_is_down_is_an_orphan_where_that_is_wanted() {
    let tells = |packet, entry| {
        let mut world = World::with(entry);
        let decision = answer(&Asked(Row::steady(OWNER), packet, Orphans::Tell), &mut world);
        (decision, world.entry == Some(entry))
    };
    let down = state(DOWN, PHASE_ESTABLISHED, NOW);
    for packet in [DATA, FIN, RST] {
        assert_eq!(tells(packet, down), (Decision::Orphan, true), "{packet:?}");
    }
    for packet in [SYN, UDP] {
        assert_eq!(tells(packet, down), (Decision::Backend(OWNER), false), "{packet:?}");
    }
    let forgotten = state(DOWN, PHASE_ESTABLISHED, NOW - IDLE - 1);
    assert_eq!(tells(DATA, forgotten), (Decision::Backend(OWNER), false), "forgotten before its backend went");
}

#[test]
fn an_empty_pool_is_said_to_be_one_and_live_entries_are_followed_all_the_same() {
    let nobody = |packet| Asked(Row::steady(0), packet, Orphans::Reselect);
    let mut world = World::default();
    assert_eq!(answer(&nobody(SYN), &mut world), Decision::NoBackend);
    assert_eq!(world.entry, None);
    let mut world = World::with(state(OTHER, PHASE_ESTABLISHED, NOW));
    assert_eq!(answer(&nobody(DATA), &mut world), Decision::Backend(OTHER));
}

#[test]
fn a_flow_that_cannot_be_written_down_goes_to_the_owner_and_that_is_told() {
    let mut world = World { refuses: true, ..World::default() };
    assert_eq!(answer(&asked(SYN), &mut world), Decision::Backend(OWNER));
    assert_eq!((world.entry, &*world.notes), (None, &[Note::Missed, Note::Lost][..]));
    let mut world = World { refuses: true, ..World::default() };
    record(&asked(DATA), OTHER, &mut world);
    assert_eq!(world.notes, [Note::Lost]);
}

#[test]
fn what_another_cpu_wrote_meanwhile_decides() {
    let theirs = state(OTHER, PHASE_ESTABLISHED, NOW);
    let world = World { others: Vec::from([Some(theirs)]), ..World::default() };
    plays(world, DATA, OTHER, Some(theirs), &[Note::Missed, Note::Hit], "inserted");
    let world = World { others: Vec::from([Some(theirs)]), ..World::with(state(DOWN, 1, NOW)) };
    plays(world, DATA, OTHER, Some(theirs), &[Note::Missed, Note::Hit], "overwritten");
}

#[test]
fn an_entry_that_is_pushed_out_while_it_is_looked_at_harms_nobody() {
    // The hit stands.
    let world = World { others: Vec::from([None]), ..World::with(state(OTHER, 1, NOW - 5)) };
    plays(world, DATA, OTHER, None, HIT, "followed");
    // What was to be overwritten is inserted instead.
    let world = World { others: Vec::from([None, None]), ..World::with(state(DOWN, 1, NOW)) };
    plays(world, DATA, OWNER, Some(state(OWNER, 1, NOW)), MISSED, "overwritten");
}

#[test]
fn who_loses_twice_goes_by_the_row() {
    let stale = |backend| Some(state(backend, PHASE_ESTABLISHED, NOW - IDLE - 1));
    let world = World { others: Vec::from([stale(OTHER), stale(DOWN)]), ..World::default() };
    plays(world, DATA, OWNER, stale(DOWN), &[Note::Missed, Note::Lost], "twice");
}

#[test]
fn what_a_row_decided_is_noted_whatever_was_there() {
    let of = |backend, phase| Some(state(backend, phase, NOW));
    for (name, entry, packet, left) in [
        ("new", None, DATA, of(OTHER, PHASE_ESTABLISHED)),
        ("a SYN", None, SYN, of(OTHER, PHASE_OPENING)),
        ("a FIN", None, FIN, of(OTHER, PHASE_CLOSING)),
        ("a RST on a miss", None, RST, None),
        ("a RST of a known one", Some(state(OTHER, 1, NOW - 3)), RST, of(OTHER, PHASE_CLOSING)),
        ("refreshed", Some(state(OTHER, 1, NOW - 3)), DATA, of(OTHER, PHASE_ESTABLISHED)),
        ("still closing", Some(state(OTHER, PHASE_CLOSING, NOW - 3)), DATA, of(OTHER, PHASE_CLOSING)),
        ("begun anew", Some(state(OTHER, PHASE_CLOSING, NOW - 3)), SYN, of(OTHER, PHASE_OPENING)),
        ("forgotten and begun anew", Some(state(OTHER, 1, NOW - IDLE - 1)), SYN, of(OTHER, PHASE_OPENING)),
        ("corrected", Some(state(OWNER, 1, NOW)), DATA, of(OTHER, PHASE_ESTABLISHED)),
        ("of a dead one", Some(state(DOWN, 1, NOW)), DATA, of(OTHER, PHASE_ESTABLISHED)),
    ] {
        let mut world = World { entry, ..World::default() };
        record(&asked(packet), OTHER, &mut world);
        assert_eq!((world.entry, &*world.notes), (left, &[][..]), "{name}");
    }
}

#[test]
fn a_note_is_tried_again_when_another_cpu_was_faster_and_given_up_when_it_was_twice() {
    let theirs = |backend| Some(state(backend, PHASE_ESTABLISHED, NOW - 1));
    for (name, entry) in [("inserted", None), ("overwritten", theirs(OWNER))] {
        let mut world = World { entry, others: Vec::from([theirs(DOWN)]), ..World::default() };
        record(&asked(DATA), OTHER, &mut world);
        let noted = Some(state(OTHER, PHASE_ESTABLISHED, NOW));
        assert_eq!((world.entry, world.writes, &*world.notes), (noted, 1, &[][..]), "{name}, once");

        let mut world = World { entry, others: Vec::from([theirs(DOWN), theirs(OWNER)]), ..World::default() };
        record(&asked(DATA), OTHER, &mut world);
        assert_eq!((world.entry, world.writes, &*world.notes), (theirs(OWNER), 0, &[Note::Lost][..]), "{name}, twice");
    }
}
