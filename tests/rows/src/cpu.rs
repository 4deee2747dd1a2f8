//! A packet on a CPU: the table that `lb_common::rows::decide` looks into, with everything that may happen between two
//! looks.

use lb_common::flow::{FlowState, Life, PHASE_CLOSING};
use lb_common::ring::Row;
use lb_common::rows::{
    Decision, Entries, Inserted, Known, MARGIN, Orphans, Packet, Sign, Table, Timeouts, decide, prove, unwritten,
};

use crate::broken::Broken;
use crate::step::Cpu;
use crate::world::World;

/// Another packet of the same flow, on another CPU.
#[derive(Clone, Copy, Debug)]
pub struct Other {
    pub sign: Sign,
    pub cpu: Cpu,
    /// Before which look of ours it is decided.
    pub at: u8,
}

/// Decides for one packet, and for the other one in the middle of it or right after it.
pub fn packet(
    world: &mut World,
    flow: usize,
    sign: Sign,
    cpu: Cpu,
    other: Option<Other>,
) -> (Decision, Option<Decision>) {
    let ring = World::ring_of(flow);
    let tcp = world.rings[ring].tcp;
    let index = world.rings[ring].index_on(cpu.old, flow);
    let row = world.rings[ring].words_on(cpu.old)[index];
    let hash = World::hash_of(flow, world.rings[ring].by_on(cpu.old));
    let now = world.its_second();
    world.count_row(row, hash, now);
    let mut timeouts = world.rings[ring].timeouts;
    if world.is(Broken::NoGrace) && sign == Sign::Opens {
        // As if the row had begun to move long ago.
        timeouts.idle += 20;
    }
    let orphans = world.settings.orphans;
    let mut eyes = Eyes {
        world,
        flow,
        index,
        now,
        sign,
        cpu,
        other,
        looks: 0,
        answered: None,
        hidden: None,
        refused: false,
        expired_if: timeouts,
    };
    let packet = Packet { hash, sign, tcp };
    let mut decision = decide(row, packet, now, timeouts, orphans, &mut eyes);
    if eyes.refused && sign == Sign::Opens && eyes.world.is(Broken::RefusedToOwner) && eyes.world.is_up(row.owner()) {
        decision = Decision::Backend(row.owner());
    }
    let other = eyes.other.map(|_| eyes.answered.take());
    let other = match (other, eyes.other) {
        (Some(None), Some(other)) => Some(self::packet(eyes.world, flow, other.sign, other.cpu, None).0),
        (Some(answered), _) => answered,
        (None, _) => None,
    };
    world.decided = Some((sign, Some(decision)));
    (decision, other)
}

/// A reply shows whose the flow is.
pub fn reply(world: &mut World, flow: usize, backend: u16, cpu: Cpu) {
    let ring = &world.rings[World::ring_of(flow)];
    let index = ring.index_on(cpu.old, flow);
    let row = ring.words_on(cpu.old)[index];
    let now = world.its_second();
    let timeouts = world.rings[World::ring_of(flow)].timeouts;
    let mut eyes = Eyes {
        world,
        flow,
        index,
        now,
        sign: Sign::Middle,
        cpu,
        other: None,
        looks: 0,
        answered: None,
        hidden: None,
        refused: false,
        expired_if: timeouts,
    };
    prove(row, backend, now, &mut eyes);
    world.decided = Some((Sign::Middle, None));
}

/// What a packet's program sees of the world, and does to it.
struct Eyes<'a> {
    world: &'a mut World,
    flow: usize,
    /// Of its row.
    index: usize,
    now: u32,
    sign: Sign,
    cpu: Cpu,
    other: Option<Other>,
    looks: u8,
    answered: Option<Decision>,
    /// The state that was found, where a broken rule shows another one.
    hidden: Option<(FlowState, FlowState)>,
    refused: bool,
    expired_if: Timeouts,
}

impl Eyes<'_> {
    /// The moment before a look: another CPU may be faster.
    fn look(&mut self) {
        if let Some(Other { sign, cpu, at }) = self.other
            && at == self.looks
        {
            self.answered = Some(packet(self.world, self.flow, sign, cpu, None).0);
        }
        self.looks = self.looks.saturating_add(1);
    }

    fn write(&mut self, state: FlowState) {
        self.world.entries[self.flow] = Some(state);
    }
}

impl Entries for Eyes<'_> {
    fn find(&mut self) -> Option<FlowState> {
        self.look();
        let state = self.world.entries[self.flow].filter(|state| state.is_taken())?;
        self.world.tally.hits += 1;
        self.hidden = None;
        if self.world.is(Broken::SynStartsAnew) && self.sign == Sign::Opens {
            let shown = FlowState::new(state.life(), PHASE_CLOSING, state.last());
            self.hidden = Some((shown, state));
            return Some(shown);
        }
        Some(state)
    }

    fn insert(&mut self, state: FlowState) -> Inserted {
        self.look();
        if self.world.is(Broken::FinIsNotWritten) && self.sign == Sign::Finishes {
            return Inserted::Done;
        }
        match self.world.entries[self.flow] {
            Some(FlowState::VACANT) => {}
            Some(_) if self.world.is(Broken::InsertOverwrites) => {}
            Some(_) => {
                self.world.tally.lost += 1;
                return Inserted::Exists;
            }
            None if self.cpu.refuse || self.world.is_full() => {
                if self.world.is(Broken::OldestIsEvicted) {
                    self.world.evict_oldest();
                } else {
                    return Inserted::Refused;
                }
            }
            None => {}
        }
        self.world.tally.inserted += 1;
        self.write(state);
        Inserted::Done
    }

    fn replace(&mut self, from: FlowState, to: FlowState) -> bool {
        self.look();
        let from = self.hidden.filter(|(shown, _)| *shown == from).map_or(from, |(_, state)| state);
        if self.world.is(Broken::DeadEntryStays) && to.life() != from.life() && !self.world.is_alive(from.life()) {
            return true;
        }
        if self.world.entries[self.flow] != Some(from) && !self.world.is(Broken::ReplaceOverwrites) {
            self.world.tally.lost += 1;
            return false;
        }
        self.write(to);
        true
    }

    fn backend(&mut self, id: u16) -> Known {
        self.look();
        self.world.known(id)
    }
}

impl Table for Eyes<'_> {
    fn refused(&mut self) -> u32 {
        self.look();
        let blind = match self.world.settings.broken {
            Some(Broken::NoGrace) => self.sign == Sign::Opens,
            Some(Broken::CallsTheRefusedOrphans) => self.sign != Sign::Opens,
            _ => false,
        };
        if blind { 0 } else { self.world.refused }
    }

    fn refuse(&mut self, until: u32) {
        self.look();
        self.refused = true;
        self.world.tally.refused += 1;
        self.world.refused = self.now;
        self.world.last_refusal = self.world.now;
        self.world.refused_flows[self.flow] = self.world.now;
        if self.world.is(Broken::RefusalDoesNotPush) {
            return;
        }
        debug_assert!(until >= self.now + self.expired_if.idle + MARGIN, "a refusal is good for a whole timeout");
        let ring = World::ring_of(self.flow);
        let row: &mut Row = &mut self.world.rings[ring].words_on_mut(self.cpu.old)[self.index];
        if row.is_moving(self.now) && row.until() < until {
            *row = row.with_until(until);
        }
    }

    fn before(&mut self) -> u16 {
        self.look();
        self.world.tally.asked_before += 1;
        let ring = &self.world.rings[World::ring_of(self.flow)];
        match ring.before_on(self.cpu.old).map(|before| before.row(self.flow)) {
            Some(row) => unwritten(row, self.now, self),
            None => 0,
        }
    }
}

/// Whoever holds a decision against a flow's home wants to know the backend's life.
pub fn life(world: &World, decision: Decision) -> Option<Life> {
    match decision {
        Decision::Backend(id) => Some(world.known(id).life),
        Decision::NoBackend | Decision::Orphan => None,
    }
}

/// Both ways of treating flows whose backend is down.
pub const ORPHANS: [Orphans; 2] = [Orphans::Reselect, Orphans::Tell];
