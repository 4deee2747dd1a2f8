//! The decision, sentence by sentence, on a table that tells what was written and lets other CPUs in between.

extern crate std;
use std::vec::Vec;

use super::*;
use crate::ring::FILTER_BITS;

const NOW: u32 = 1_000;
const IDLE: u32 = 100;
const OPENING: u32 = 10;
const TIMEOUTS: Timeouts = Timeouts { opening: OPENING, idle: IDLE };

const OWNER: u16 = 1;
const SETTLED: u16 = 2;
const THIRD: u16 = 3;
const DOWN: u16 = 9;
const GENERATION: u16 = 40;

/// What a flow's table holds, and what happens to it.
#[derive(Debug)]
struct World {
    entry: Option<FlowState>,
    down: Vec<u16>,
    refused: u32,
    refuses: bool,
    before: u16,
    /// What other CPUs write, one before each of our own writes.
    others: Vec<Option<FlowState>>,
    /// The `until` of each refusal.
    told: Vec<u32>,
    asked_before: bool,
}

fn world() -> World {
    World {
        entry: None,
        down: Vec::from([0, DOWN]),
        refused: 0,
        refuses: false,
        before: 0,
        others: Vec::new(),
        told: Vec::new(),
        asked_before: false,
    }
}

impl World {
    fn with(entry: FlowState) -> Self {
        Self { entry: Some(entry), ..world() }
    }

    fn others_write(&mut self) {
        if !self.others.is_empty() {
            self.entry = self.others.remove(0);
        }
    }

    fn decides(&mut self, row: Row, packet: Packet) -> Decision {
        decide(row, packet, NOW, TIMEOUTS, Orphans::Reselect, self)
    }

    fn tells(&mut self, row: Row, packet: Packet) -> Decision {
        decide(row, packet, NOW, TIMEOUTS, Orphans::Tell, self)
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
        Inserted::Done
    }

    fn replace(&mut self, from: FlowState, to: FlowState) -> bool {
        self.others_write();
        let same = self.entry == Some(from);
        if same {
            self.entry = Some(to);
        }
        same
    }

    fn backend(&mut self, id: u16) -> Known {
        Known { life: Life::new(id, GENERATION), up: !self.down.contains(&id) }
    }
}

impl Table for World {
    fn refused(&mut self) -> u32 {
        self.refused
    }

    fn refuse(&mut self, until: u32) {
        self.told.push(until);
    }

    fn before(&mut self) -> u16 {
        self.asked_before = true;
        self.before
    }
}

const HASH: u32 = 0x1234_5678;

const fn tcp(sign: Sign) -> Packet {
    Packet { hash: HASH, sign, tcp: true }
}

const SYN: Packet = tcp(Sign::Opens);
const DATA: Packet = tcp(Sign::Middle);
const FIN: Packet = tcp(Sign::Finishes);
const RST: Packet = tcp(Sign::Resets);
const UDP: Packet = Packet { hash: HASH, sign: Sign::Middle, tcp: false };

fn state(backend: u16, phase: u8, last: u32) -> FlowState {
    FlowState::new(Life::new(backend, GENERATION), phase, last)
}

/// A row that moved in this second.
fn moved(second: u32) -> Row {
    Row::moving(OWNER, SETTLED, second + IDLE + MARGIN)
}

/// One that moved long enough ago for retransmissions to be over.
fn moving() -> Row {
    moved(NOW - GRACE - 1)
}

fn with_exceptions() -> Row {
    Row::exceptions(OWNER, filter_bit(HASH))
}

const TO_OWNER: Decision = Decision::Backend(OWNER);
const TO_SETTLED: Decision = Decision::Backend(SETTLED);
const TO_THIRD: Decision = Decision::Backend(THIRD);

/// RFC 9293 §3.1, byte 13: FIN, SYN, RST, PSH, ACK, URG, ECE, CWR from the lowest bit up.
#[test]
fn the_flags_of_a_tcp_header_say_what_a_packet_means() {
    for rest in [0, 0x08, 0x20, 0x40, 0x80, 0xe8] {
        for (flags, sign) in [
            (0x02, Sign::Opens),
            (0x03, Sign::Opens),
            (0x12, Sign::Middle),
            (0x10, Sign::Middle),
            (0x00, Sign::Middle),
            (0x01, Sign::Finishes),
            (0x11, Sign::Finishes),
            (0x13, Sign::Finishes),
            (0x04, Sign::Resets),
            (0x14, Sign::Resets),
            (0x06, Sign::Resets),
            (0x05, Sign::Resets),
        ] {
            assert_eq!(Sign::of_tcp(flags | rest), sign, "{:#04x}", flags | rest);
        }
    }
}

#[test]
fn a_row_decides_alone_where_nobody_is_written_down() {
    let bit = filter_bit(HASH);
    for (row, owner) in [
        (Row::steady(OWNER), Some(OWNER)),
        (Row::steady(0), Some(0)),
        (Row::exceptions(OWNER, !bit), Some(OWNER)),
        (Row::exceptions(OWNER, bit), None),
        (Row::moving(OWNER, 0, 0), None),
        (moving(), None),
    ] {
        assert_eq!(by_row_alone(row, HASH), owner, "{row:?}");
    }
}

#[test]
fn what_only_a_dead_backend_gets_changes_nothing() {
    let row = Row::moving(DOWN, 0, NOW + IDLE);
    let stale = state(SETTLED, PHASE_CLOSING, NOW);
    for packet in [SYN, DATA, FIN, UDP] {
        for refuses in [false, true] {
            let mut world = World { refuses, ..world() };
            assert_eq!(world.decides(row, packet), Decision::Backend(DOWN), "{packet:?}");
            assert!(world.entry.is_none() && world.told.is_empty(), "{packet:?}");
        }
    }
    let mut world = World::with(stale);
    assert_eq!(world.decides(row, SYN), Decision::Backend(DOWN));
    assert_eq!(world.entry, Some(stale));
    let away = state(SETTLED, PHASE_ESTABLISHED, NOW);
    let mut world = World { down: Vec::from([0, DOWN, SETTLED]), ..World::with(away) };
    assert_eq!(world.decides(Row::exceptions(DOWN, filter_bit(HASH)), DATA), Decision::Backend(DOWN));
    assert_eq!(world.entry, Some(away));
}

#[test]
fn a_steady_row_is_its_owner_s_whatever_is_written_down() {
    let mut world = World::with(state(THIRD, PHASE_ESTABLISHED, NOW));
    assert_eq!(world.decides(Row::steady(OWNER), DATA), TO_OWNER);
    assert_eq!(world.decides(Row::steady(0), SYN), Decision::NoBackend);
    assert_eq!(world.entry, Some(state(THIRD, PHASE_ESTABLISHED, NOW)));
}

#[test]
fn flows_that_open_on_a_moving_row_go_to_the_owner_and_others_to_where_they_were() {
    for (packet, decision, entry) in [
        (SYN, TO_OWNER, Some(state(OWNER, PHASE_OPENING, NOW))),
        (DATA, TO_SETTLED, Some(state(SETTLED, PHASE_ESTABLISHED, NOW))),
        (UDP, TO_SETTLED, Some(state(SETTLED, PHASE_ESTABLISHED, NOW))),
        (FIN, TO_SETTLED, Some(state(SETTLED, PHASE_CLOSING, NOW))),
        // The last packet of a flow that nobody knew.
        (RST, TO_SETTLED, None),
    ] {
        let mut world = world();
        assert_eq!(world.decides(moving(), packet), decision, "{packet:?}");
        assert_eq!((world.entry, world.told.len()), (entry, 0), "{packet:?}");
    }
}

#[test]
fn a_syn_soon_after_the_move_may_be_a_retransmission_and_goes_where_the_first_one_went() {
    for (second, decision) in [(NOW, TO_SETTLED), (NOW - GRACE, TO_SETTLED), (NOW - GRACE - 1, TO_OWNER)] {
        assert_eq!(world().decides(moved(second), SYN), decision, "moved in {second}");
    }
    for (refused, decision) in
        [(0, TO_OWNER), (NOW - GRACE - 1, TO_OWNER), (NOW - GRACE, TO_SETTLED), (NOW, TO_SETTLED)]
    {
        let mut world = World { refused, ..world() };
        assert_eq!(world.decides(moving(), SYN), decision, "refused in {refused}");
    }
    // Time that starts at zero: never refused is not refused in second 0.
    let young = Row::moving(OWNER, SETTLED, 2 + IDLE + MARGIN);
    for (now, decision) in [(GRACE + 2, TO_SETTLED), (GRACE + 3, TO_OWNER)] {
        assert_eq!(decide(young, SYN, now, TIMEOUTS, Orphans::Reselect, &mut world()), decision);
    }
    let oldest = Row::moving(OWNER, SETTLED, IDLE + MARGIN);
    for (refused, decision) in [(0, TO_OWNER), (1, TO_SETTLED)] {
        let mut world = World { refused, ..world() };
        assert_eq!(decide(oldest, SYN, GRACE + 1, TIMEOUTS, Orphans::Reselect, &mut world), decision);
    }
    let first = Row::moving(OWNER, SETTLED, 1);
    assert_eq!(decide(first, SYN, 0, TIMEOUTS, Orphans::Reselect, &mut world()), TO_SETTLED);
    // Nowhere to go back to.
    let down = Row::moving(OWNER, DOWN, NOW + IDLE + MARGIN);
    assert_eq!(world().decides(down, SYN), TO_OWNER);
}

#[test]
fn a_flow_without_a_backend_that_is_up_goes_to_the_owner_and_without_one_nowhere() {
    for packet in [DATA, UDP, FIN] {
        for settled in [0, DOWN] {
            let mut world = world();
            assert_eq!(world.decides(Row::moving(OWNER, settled, NOW + 1), packet), TO_OWNER);
            assert_eq!(world.entry.map(|state| state.life().backend()), Some(OWNER));
        }
    }
    for packet in [SYN, DATA, RST] {
        let mut world = world();
        assert_eq!(world.decides(Row::moving(0, 0, NOW + 1), packet), Decision::NoBackend);
        assert_eq!(world.entry, None);
    }
    assert_eq!(world().decides(Row::moving(0, SETTLED, NOW + 1), DATA), TO_SETTLED);
}

#[test]
fn a_flow_that_is_written_down_goes_there_and_the_entry_tells_of_the_packet() {
    for (packet, before, after) in [
        (DATA, PHASE_OPENING, PHASE_ESTABLISHED),
        (DATA, PHASE_ESTABLISHED, PHASE_ESTABLISHED),
        (DATA, PHASE_CLOSING, PHASE_CLOSING),
        (SYN, PHASE_OPENING, PHASE_OPENING),
        (SYN, PHASE_ESTABLISHED, PHASE_ESTABLISHED),
        (FIN, PHASE_OPENING, PHASE_CLOSING),
        (FIN, PHASE_ESTABLISHED, PHASE_CLOSING),
        (RST, PHASE_ESTABLISHED, PHASE_CLOSING),
        (RST, PHASE_CLOSING, PHASE_CLOSING),
        (UDP, PHASE_ESTABLISHED, PHASE_ESTABLISHED),
    ] {
        for row in [moving(), moved(NOW - IDLE - MARGIN), with_exceptions()] {
            let mut world = World::with(state(THIRD, before, NOW - 1));
            assert_eq!(world.decides(row, packet), TO_THIRD, "{packet:?} {before}");
            assert_eq!(world.entry, Some(state(THIRD, after, NOW)), "{packet:?} {before}");
        }
    }
}

#[test]
fn an_entry_that_says_it_all_is_not_written_again() {
    let mut world = World::with(state(THIRD, PHASE_ESTABLISHED, NOW));
    world.others = Vec::from([Some(FlowState::LEAVING)]);
    assert_eq!(world.decides(moving(), DATA), TO_THIRD);
    assert_eq!(world.others.len(), 1, "nothing was written");
}

#[test]
fn losing_the_touch_of_an_entry_is_no_loss() {
    let mut world = World::with(state(THIRD, PHASE_ESTABLISHED, NOW - 1));
    world.others = Vec::from([Some(state(THIRD, PHASE_CLOSING, NOW))]);
    assert_eq!(world.decides(moving(), DATA), TO_THIRD);
    assert_eq!(world.entry, Some(state(THIRD, PHASE_CLOSING, NOW)));
    assert_eq!(world.told, []);
}

#[test]
fn a_syn_opens_anew_what_is_closing_or_was_silent_for_too_long() {
    for old in [
        state(THIRD, PHASE_CLOSING, NOW),
        state(THIRD, PHASE_OPENING, NOW - OPENING - 1),
        state(THIRD, PHASE_ESTABLISHED, NOW - IDLE - 1),
    ] {
        let mut world = World::with(old);
        assert_eq!(world.decides(moving(), SYN), TO_OWNER, "{old:?}");
        assert_eq!(world.entry, Some(state(OWNER, PHASE_OPENING, NOW)));
    }
    for kept in [state(THIRD, PHASE_OPENING, NOW - OPENING), state(THIRD, PHASE_ESTABLISHED, NOW - IDLE)] {
        let mut world = World::with(kept);
        assert_eq!(world.decides(moving(), SYN), TO_THIRD, "{kept:?}");
    }
}

/// TCP in the middle has a backend that knows it, however long it was silent; UDP of long ago is another flow.
#[test]
fn silence_ends_udp_flows_and_leaves_tcp_in_the_middle_where_it_is() {
    let old = state(THIRD, PHASE_ESTABLISHED, NOW - IDLE - 1);
    let mut world = World::with(old);
    assert_eq!(world.decides(moving(), DATA), TO_THIRD);
    let mut world = World::with(old);
    assert_eq!(world.decides(moving(), UDP), TO_SETTLED);
    assert_eq!(world.entry, Some(state(SETTLED, PHASE_ESTABLISHED, NOW)));
    let mut world = World::with(state(THIRD, PHASE_ESTABLISHED, NOW - IDLE));
    assert_eq!(world.decides(moving(), UDP), TO_THIRD);
    // UDP does not open: an entry in that phase has the long timeout.
    let mut world = World::with(state(THIRD, PHASE_OPENING, NOW - OPENING - 1));
    assert_eq!(world.decides(moving(), UDP), TO_THIRD);
}

#[test]
fn expiry_is_strict_and_a_clock_that_lags_expires_nothing() {
    for (phase, tcp, timeout) in [
        (PHASE_OPENING, true, OPENING),
        (PHASE_OPENING, false, IDLE),
        (PHASE_ESTABLISHED, true, IDLE),
        (PHASE_CLOSING, true, IDLE),
    ] {
        assert!(!is_expired(state(1, phase, NOW - timeout), tcp, NOW, TIMEOUTS));
        assert!(is_expired(state(1, phase, NOW - timeout - 1), tcp, NOW, TIMEOUTS));
        assert!(!is_expired(state(1, phase, NOW + 1), tcp, NOW, TIMEOUTS));
    }
}

#[test]
fn an_entry_of_a_backend_that_is_down_or_of_an_earlier_life_is_overwritten() {
    let reborn = FlowState::new(Life::new(THIRD, GENERATION - 1), PHASE_ESTABLISHED, NOW);
    for old in [state(DOWN, PHASE_ESTABLISHED, NOW), reborn] {
        for (packet, id, phase) in [(SYN, OWNER, PHASE_OPENING), (DATA, SETTLED, PHASE_ESTABLISHED)] {
            let mut world = World::with(old);
            assert_eq!(world.decides(moving(), packet), Decision::Backend(id));
            assert_eq!(world.entry, Some(state(id, phase, NOW)));
        }
        // The client gives up, but the entry would otherwise speak for a backend that is gone.
        let mut world = World::with(old);
        assert_eq!(world.decides(moving(), RST), TO_SETTLED);
        assert_eq!(world.entry, Some(state(SETTLED, PHASE_CLOSING, NOW)));
    }
}

#[test]
fn an_orphan_is_told_where_that_is_wanted_unless_it_opens_or_is_udp() {
    let orphan = || World::with(state(DOWN, PHASE_ESTABLISHED, NOW));
    for row in [moving(), with_exceptions()] {
        for packet in [DATA, FIN, RST] {
            let mut world = orphan();
            assert_eq!(world.tells(row, packet), Decision::Orphan, "{packet:?}");
            assert_eq!(world.entry, orphan().entry);
        }
    }
    assert_eq!(orphan().tells(moving(), SYN), TO_OWNER);
    assert_eq!(orphan().tells(moving(), UDP), TO_SETTLED);
    // One that nobody wrote down, of a backend that was the owner before.
    let down = Row::moving(OWNER, DOWN, NOW + IDLE + MARGIN);
    assert_eq!(world().tells(down, DATA), Decision::Orphan);
    assert_eq!(world().tells(down, SYN), TO_OWNER);
    assert_eq!(world().tells(down, UDP), TO_OWNER);
    assert_eq!(world().tells(Row::moving(OWNER, 0, NOW + 1), DATA), TO_OWNER, "nobody was the owner before");
    // Silent for long, but its backend is up.
    let mut world = World::with(state(THIRD, PHASE_ESTABLISHED, NOW - IDLE - 1));
    assert_eq!(world.tells(moving(), DATA), TO_THIRD);
    // No flow of this row, and no orphan: it goes to the owner as everybody does.
    assert_eq!(self::world().tells(with_exceptions(), DATA), TO_OWNER);
}

#[test]
fn nobody_is_called_an_orphan_who_may_be_one_that_was_refused() {
    let down = Row::moving(OWNER, DOWN, moving().until());
    // The last packet of a flow that is not written down was refused, at most one timeout ago.
    for (refused, decision) in [(NOW, TO_OWNER), (NOW - IDLE, TO_OWNER), (NOW - IDLE - MARGIN - 1, Decision::Orphan)] {
        assert_eq!(World { refused, ..world() }.tells(down, DATA), decision, "refused in {refused}");
    }
}

#[test]
fn nobody_is_told_an_orphan_while_flows_may_live_that_could_not_be_written_down() {
    let down = Row::moving(OWNER, DOWN, NOW + IDLE + MARGIN);
    for (refused, decision) in [
        (0, Decision::Orphan),
        (NOW - IDLE - MARGIN - 1, Decision::Orphan),
        (NOW - IDLE - MARGIN, TO_OWNER),
        (NOW, TO_OWNER),
    ] {
        let mut world = World { refused, ..world() };
        assert_eq!(world.tells(down, DATA), decision, "refused in {refused}");
    }
    for (refused, decision) in [(0, Decision::Orphan), (1, TO_OWNER)] {
        let mut world = World { refused, ..world() };
        assert_eq!(decide(down, DATA, 7, TIMEOUTS, Orphans::Tell, &mut world), decision);
    }
}

#[test]
fn only_flows_that_the_filter_says_yes_to_are_looked_up() {
    let entry = state(THIRD, PHASE_ESTABLISHED, NOW);
    for bit in 0..FILTER_BITS {
        let row = Row::exceptions(OWNER, 1 << bit);
        let expected = if filter_bit(HASH) == 1 << bit { TO_THIRD } else { TO_OWNER };
        assert_eq!(World::with(entry).decides(row, DATA), expected, "bit {bit}");
    }
    assert_eq!(World::with(entry).decides(Row::exceptions(OWNER, 0), DATA), TO_OWNER);
    // A moving row has no filter, whatever its time looks like as one.
    assert_eq!(World::with(entry).decides(Row::moving(OWNER, 0, NOW + 1), DATA), TO_THIRD);
}

#[test]
fn where_the_row_does_not_move_nothing_is_written_down_and_what_says_nothing_is_vacated() {
    for row in [with_exceptions(), moved(NOW - IDLE - MARGIN)] {
        for packet in [SYN, DATA, UDP, RST] {
            let mut world = world();
            assert_eq!(world.decides(row, packet), TO_OWNER);
            assert_eq!((world.entry, world.told.len()), (None, 0));
        }
        for old in [state(DOWN, PHASE_ESTABLISHED, NOW), state(THIRD, PHASE_CLOSING, NOW)] {
            let mut world = World::with(old);
            assert_eq!(world.decides(row, SYN), TO_OWNER);
            assert_eq!(world.entry, Some(FlowState::VACANT));
        }
    }
}

#[test]
fn whoever_loses_to_another_cpu_looks_again_and_follows() {
    // Somebody writes the flow down first.
    let mut world = World { others: Vec::from([Some(state(THIRD, PHASE_OPENING, NOW))]), ..world() };
    assert_eq!(world.decides(moving(), SYN), TO_THIRD);
    assert_eq!(world.told, []);
    // Somebody overwrites the stale entry first.
    let mut world = World::with(state(DOWN, PHASE_ESTABLISHED, NOW));
    world.others = Vec::from([Some(state(THIRD, PHASE_ESTABLISHED, NOW))]);
    assert_eq!(world.decides(moving(), DATA), TO_THIRD);
    assert_eq!((world.entry, world.told.len()), (Some(state(THIRD, PHASE_ESTABLISHED, NOW)), 0));
}

#[test]
fn whoever_loses_twice_goes_where_unwritten_flows_go_and_says_so() {
    // Each time, somebody else's entry is there and gone again, or says nothing.
    let stale = |n| Some(state(DOWN, PHASE_ESTABLISHED, n));
    let mut world = World { others: Vec::from([stale(1), stale(2), stale(3)]), ..world() };
    assert_eq!(world.decides(moving(), SYN), TO_SETTLED);
    assert_eq!(world.others.len(), 1, "two tries");
    assert_eq!(world.told, [NOW + IDLE + MARGIN]);
}

#[test]
fn a_flow_that_is_refused_goes_where_unwritten_flows_go_and_keeps_the_row_moving() {
    for (packet, row, decision) in [
        (SYN, moving(), TO_SETTLED),
        (DATA, moving(), TO_SETTLED),
        (SYN, Row::moving(OWNER, DOWN, NOW + 1), TO_OWNER),
        (SYN, Row::moving(OWNER, 0, NOW + 1), TO_OWNER),
    ] {
        let mut world = World { refuses: true, ..world() };
        // Nobody is asked a second time.
        world.others = Vec::from([None, None]);
        assert_eq!(world.decides(row, packet), decision, "{packet:?}");
        assert_eq!((world.others.len(), &world.told[..]), (1, &[NOW + IDLE + MARGIN][..]));
        assert_eq!(world.entry, None);
    }
}

#[test]
fn a_ring_that_took_another_s_place_asks_that_one() {
    let row = Row::moving(OWNER, BEFORE, NOW + IDLE + MARGIN - GRACE - 1);
    let mut world = World { before: THIRD, ..world() };
    assert_eq!(world.decides(row, DATA), TO_THIRD);
    assert_eq!(world.entry, Some(state(THIRD, PHASE_ESTABLISHED, NOW)));
    let mut world = World { before: THIRD, refuses: true, ..self::world() };
    assert_eq!(world.decides(row, SYN), TO_THIRD);
    let mut world = World { before: 0, ..self::world() };
    assert_eq!(world.decides(row, DATA), TO_OWNER);
    let mut world = World { before: THIRD, ..self::world() };
    assert_eq!(world.decides(moving(), DATA), TO_SETTLED);
    assert!(!world.asked_before, "its own row knows");
}

#[test]
fn a_reply_writes_down_a_flow_that_nobody_knows_and_changes_none() {
    let proven = |mut world: World, row| {
        prove(row, THIRD, NOW, &mut world);
        world.entry
    };
    assert_eq!(proven(world(), moving()), Some(state(THIRD, PHASE_ESTABLISHED, NOW)));
    assert_eq!(proven(world(), moved(NOW - IDLE - MARGIN)), None, "it does not move any more");
    assert_eq!(proven(world(), with_exceptions()), None);
    assert_eq!(proven(world(), Row::steady(OWNER)), None);
    let known = state(OWNER, PHASE_OPENING, 1);
    assert_eq!(proven(World::with(known), moving()), Some(known));
    let down = World { down: Vec::from([THIRD]), ..world() };
    assert_eq!(proven(down, moving()), None);
    assert_eq!(proven(World { refuses: true, ..world() }, moving()), None);
}

#[test]
fn a_ring_answers_the_one_that_took_its_place() {
    for (row, backend) in [
        (Row::steady(OWNER), OWNER),
        (with_exceptions(), OWNER),
        (moving(), SETTLED),
        (moved(NOW - IDLE - MARGIN), OWNER),
        (Row::moving(OWNER, DOWN, NOW + 1), OWNER),
        (Row::moving(OWNER, 0, NOW + 1), OWNER),
    ] {
        assert_eq!(unwritten(row, NOW, &mut world()), backend, "{row:?}");
    }
}
