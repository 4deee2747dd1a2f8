//! Rows that are not steady: whose a flow is, and what is written down of it (docs/design/rows.md, "The rules").
//!
//! The specification in the order in which it is written. The program's side is one function that looks, writes and
//! looks again, because other CPUs write too; here nobody else does, so what is known is simply what is there.

use std::collections::BTreeMap;

use lb_common::counters::FlowCounters;
use lb_common::rows::{BEFORE, GRACE, MARGIN};

use super::flow::{self, Asked, Flow, Gate, Goes, Key, Phase};
use super::world::{Entry, Kind, Orphans, Ring, Row, Says, Service, World};
use crate::golden::oracle;

/// Bits of a filter (ARCHITECTURE.md, "Rings and rows").
const FILTER: u64 = 46;

/// Where a row is: its ring's class and slot, and its index.
pub type Place = (u8, u32, u32);

/// What the table holds, what rows have become, and what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Each with its flow's hash.
    pub entries: BTreeMap<Key, (u32, Entry)>,
    /// Rows that do not say what they said in the beginning.
    pub changed: BTreeMap<Place, Row>,
    /// By service.
    pub counters: BTreeMap<u32, FlowCounters>,
    pub gates: BTreeMap<u32, Gate>,
    /// The second in which a service last refused to write a flow down; 0 for never.
    pub refused: BTreeMap<u32, u32>,
}

/// What became of a flow on a row that is not steady: for coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The filter does not know it.
    Unasked,
    /// It goes where it is written down.
    Followed,
    /// It was not written down, and is now: met midway, or opened by a SYN, which went to the owner, or to `settled`
    /// after the row's change or a refusal.
    MetMidway,
    Opened,
    OpenedAfterChange,
    OpenedAfterRefusal,
    /// An element that said nothing is its own now.
    Claimed,
    /// It was written over what said nothing any more, as the backend is down or another, or after too long a silence, or
    /// because a SYN opens what was closing.
    OverDead,
    OverSilent,
    OverClosing,
    /// Such an entry was made vacant.
    VacatedDead,
    VacatedSilent,
    VacatedClosing,
    /// Such an entry stays, as nobody gets the packet.
    Kept,
    /// It was not written down for the same reason.
    Unheard,
    /// It was not written down, because it ends with this packet.
    Ended,
    /// It is not written down, and is the owner's.
    Owners,
    Nobodys,
    /// It is an orphan: of whom it is written down to be, or as `settled` is down.
    OrphanOfEntry,
    OrphanOfSettled,
    /// Not written down, though it should be.
    OverQuota,
    OverGate,
    TableFull,
    /// Somebody else's element is in its place.
    InTheWay,
}

/// What was special about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The ring before was asked.
    pub before: Option<Was>,
    /// An orphan by looks, and not called one, because it may have been refused.
    pub spared: bool,
    /// The row moves for longer because of it.
    pub pushed: bool,
    /// The packet went to the owner, because `settled` is down or there is none.
    pub without_settled: bool,
}

/// What the ring before said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Was {
    Nobodys,
    Owners,
    Settleds,
}

/// What a backend's reply has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Written,
    /// Somebody knows the flow.
    Known,
    /// Its row does not move.
    AtRest,
    /// The backend is said to be down.
    Down,
    /// Not written: quota, gate, or no room.
    Refused,
    /// Nobody looked, because no row of the service moves.
    Unlooked,
}

/// Everything a row asks for.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    pub asked: Asked<'a>,
    pub place: Place,
    pub row: Row,
    /// The flow's own hash.
    pub hash: u32,
    /// The row on the ring before.
    pub before: Option<Row>,
}

/// Which bit of a filter a hash has: its lower half is spread over them evenly.
fn filter_bit(hash: u32) -> u64 {
    u64::from(hash % 0x1_0000) * FILTER / 0x1_0000
}

impl Row {
    pub fn moves(&self, now: u32) -> bool {
        matches!(self.kind, Kind::Moving { until, .. } if now < until)
    }

    /// The row's word says by itself that the flow is the owner's.
    pub fn decides_alone(&self, hash: u32) -> bool {
        match self.kind {
            Kind::Steady => true,
            Kind::Moving { .. } => false,
            Kind::Exceptions { filter } => filter >> filter_bit(hash) & 1 == 0,
        }
    }
}

impl Rows {
    pub fn of(world: &World, hash: impl Fn(&Key) -> u32) -> Self {
        let entries = world.entries.iter().map(|entry| (entry.flow, (hash(&entry.flow), *entry)));
        let refused = world.policies.iter().map(|policy| (policy.service, policy.refused));
        Self { entries: entries.collect(), refused: refused.collect(), ..Self::default() }
    }

    /// What a row says by now.
    pub fn row(&self, ring: &Ring, index: u32) -> Row {
        self.changed.get(&(ring.class, ring.slot, index)).copied().unwrap_or_else(|| ring.row(index))
    }

    /// What a flow's row is asked, if there is one.
    pub fn question<'a>(&self, asked: Asked<'a>, service: &Service) -> Option<Question<'a>> {
        let row_of = |class: u8, slot: u32, hash: u32| {
            let ring = asked.world.ring(class, slot)?;
            let index = oracle::row(hash, ring.log2());
            Some(((class, slot, index), self.row(ring, index)))
        };
        let hash = |by_client: bool| flow::hash(asked.world, &asked.flow, by_client);
        let chosen_by = hash(service.by_client);
        let (place, row) = row_of(service.class, service.slot, chosen_by)?;
        let before = service.before.and_then(|before| row_of(before.class, before.slot, hash(before.by_client)));
        Some(Question { asked, place, row, hash: hash(false), before: before.map(|(_, row)| row) })
    }

    /// How many elements count for a service, those that say nothing too.
    pub fn of_service(&self, service: u32) -> usize {
        self.entries.values().filter(|(_, entry)| entry.service == service).count()
    }

    fn counters(&mut self, service: u32) -> &mut FlowCounters {
        self.counters.entry(service).or_default()
    }

    /// A flow's packet was answered with RST.
    pub fn answered(&mut self, service: u32) {
        self.counters(service).resets += 1;
    }

    /// An echo request for the service's address was answered.
    pub fn echoed(&mut self, service: u32) {
        self.counters(service).echoes += 1;
    }

    /// The sender of a packet that was too big was told.
    pub fn told(&mut self, service: u32) {
        self.counters(service).too_bigs += 1;
    }

    /// Whose a flow is of which something was heard that is none of its packets.
    pub fn peek(&self, q: &Question<'_>) -> u16 {
        let Question { asked, row, .. } = q;
        if let Some(Says::Flow(flow)) = self.own(q)
            && asked.is_alive(&flow)
        {
            return flow.backend;
        }
        if row.moves(asked.now) {
            let settled = self.settled(q, &mut Notes::default());
            if settled != 0 && asked.is_up(settled) {
                return settled;
            }
        }
        row.owner
    }

    /// What the flow's own element says; another's says nothing about it.
    fn own(&self, q: &Question<'_>) -> Option<Says> {
        let (_, entry) = self.entries.get(&q.asked.flow)?;
        Some(entry.says).filter(|_| !entry.strange && entry.service == q.asked.service)
    }

    fn says(&mut self, q: &Question<'_>, says: Says) {
        let Asked { flow, service, .. } = q.asked;
        self.entries.insert(flow, (q.hash, Entry { flow, service, strange: false, says }));
    }

    /// What becomes of the flow's packet.
    pub fn answer(&mut self, q: &Question<'_>) -> (Fate, Notes, Goes) {
        let mut notes = Notes::default();
        let (fate, goes) = self.decide(q, &mut notes);
        self.counters(q.asked.service).lookups += 1;
        (fate, notes, goes)
    }

    fn decide(&mut self, q: &Question<'_>, notes: &mut Notes) -> (Fate, Goes) {
        let Question { asked, row, .. } = q;
        let written = match self.own(q) {
            Some(Says::Flow(flow)) => Some(flow),
            _ => None,
        };
        let orphaned = asked.is_midway() && asked.policy.orphans != Orphans::Reselect;
        if let Some(flow) = written {
            if asked.is_alive(&flow) {
                // A SYN follows what is alive and not closing (rule 3); a datagram what has not expired (rule 1).
                let follows = match asked {
                    _ if asked.signs.opens => !asked.is_expired(&flow) && flow.phase != Phase::Closing,
                    _ => asked.tcp() || !asked.is_expired(&flow),
                };
                if follows {
                    self.says(q, Says::Flow(flow.touched(asked.signs, asked.now)));
                    self.counters(asked.service).hits += 1;
                    return (Fate::Followed, Goes::To(flow.backend));
                }
            } else if orphaned {
                return (Fate::OrphanOfEntry, Goes::Orphan);
            }
        }
        if !row.moves(asked.now) {
            return (self.at_rest(q, written), Goes::To(row.owner));
        }

        let settled = self.settled(q, notes);
        let up = settled != 0 && asked.is_up(settled);
        if settled != 0 && !up && orphaned {
            // Those that were refused went to the owner when `settled` was down (rule 4), and look the same.
            if self.refused_within(asked, asked.idle() + MARGIN) {
                notes.spared = true;
            } else {
                return (Fate::OrphanOfSettled, Goes::Orphan);
            }
        }
        notes.without_settled = !up;
        let unwritten = if up { settled } else { row.owner };
        let (target, fate) =
            if asked.signs.opens { self.syn_target(q, up, settled) } else { (unwritten, Fate::MetMidway) };
        if target == 0 {
            return (Fate::Nobodys, Goes::To(0));
        }
        if asked.signs.resets && written.is_none() {
            return (Fate::Ended, Goes::To(target));
        }
        if !asked.is_up(target) {
            self.count_hit(q, written, target);
            return (if written.is_some() { Fate::Kept } else { Fate::Unheard }, Goes::To(target));
        }
        if let Some(old) = written {
            self.overwrite(q, old, Says::Flow(asked.met(target)), target);
            let fate = match Self::why(asked, &old) {
                Why::Dead => Fate::OverDead,
                Why::Silent => Fate::OverSilent,
                Why::Closing => Fate::OverClosing,
            };
            return (fate, Goes::To(target));
        }
        let claimed = self.own(q) == Some(Says::Nothing);
        match self.write_down(q, asked.met(target)) {
            Ok(()) => {
                self.counters(asked.service).written += 1;
                (if claimed { Fate::Claimed } else { fate }, Goes::To(target))
            }
            Err(why) => {
                self.refuse(q, why, notes);
                (why, Goes::To(unwritten))
            }
        }
    }

    /// The row does not move: nothing is written, and what says nothing any more is made vacant (rule 5).
    fn at_rest(&mut self, q: &Question<'_>, written: Option<Flow>) -> Fate {
        let Question { asked, row, .. } = q;
        let Some(old) = written else {
            return if row.owner == 0 { Fate::Nobodys } else { Fate::Owners };
        };
        if !asked.is_up(row.owner) {
            self.count_hit(q, written, row.owner);
            return if row.owner == 0 { Fate::Nobodys } else { Fate::Kept };
        }
        self.overwrite(q, old, Says::Nothing, row.owner);
        match Self::why(asked, &old) {
            Why::Dead => Fate::VacatedDead,
            Why::Silent => Fate::VacatedSilent,
            Why::Closing => Fate::VacatedClosing,
        }
    }

    /// The backend that flows belong to which began before the row moved; 0 for none.
    fn settled(&self, q: &Question<'_>, notes: &mut Notes) -> u16 {
        let Kind::Moving { settled, .. } = q.row.kind else { return 0 };
        if settled != BEFORE {
            return settled;
        }
        // Rule 9: whom the ring before gives a flow to that it does not know.
        let (id, was) = match q.before {
            None => (0, Was::Nobodys),
            Some(Row { owner, kind: Kind::Moving { settled, until } })
                if q.asked.now < until && q.asked.is_up(settled) =>
            {
                (settled, if settled == owner { Was::Owners } else { Was::Settleds })
            }
            Some(Row { owner: 0, .. }) => (0, Was::Nobodys),
            Some(Row { owner, .. }) => (owner, Was::Owners),
        };
        notes.before = Some(was);
        id
    }

    /// Rule 3.
    fn syn_target(&self, q: &Question<'_>, up: bool, settled: u16) -> (u16, Fate) {
        let Question { asked, row, .. } = q;
        let Kind::Moving { until, .. } = row.kind else { return (row.owner, Fate::Opened) };
        // No row has moved since before there was time.
        let began = until.saturating_sub(asked.idle() + MARGIN);
        if up && asked.now <= began + GRACE {
            (settled, Fate::OpenedAfterChange)
        } else if up && self.refused_within(asked, GRACE) {
            (settled, Fate::OpenedAfterRefusal)
        } else {
            (row.owner, Fate::Opened)
        }
    }

    fn refused_within(&self, asked: &Asked<'_>, seconds: u32) -> bool {
        match self.refused.get(&asked.service) {
            None | Some(0) => false,
            Some(second) => asked.now <= second + seconds,
        }
    }

    /// Puts a flow where there is none, or says why not. Somebody else's element in its place is taken for another CPU
    /// that was faster, so all of it is tried once more.
    fn write_down(&mut self, q: &Question<'_>, flow: Flow) -> Result<(), Fate> {
        match self.write_once(q, flow) {
            Err(Fate::InTheWay) => self.write_once(q, flow),
            done => done,
        }
    }

    /// An element that says nothing is counted already.
    fn write_once(&mut self, q: &Question<'_>, flow: Flow) -> Result<(), Fate> {
        let Asked { world, policy, service, now, .. } = q.asked;
        if !self.gates.entry(service).or_default().pass(now, policy.new_per_second) {
            return Err(Fate::OverGate);
        }
        if self.own(q) != Some(Says::Nothing) {
            let family = |flow: &&Key| flow.1.is_ipv6() == q.asked.flow.1.is_ipv6();
            if self.of_service(service) >= policy.quota as usize {
                return Err(Fate::OverQuota);
            }
            if self.entries.contains_key(&q.asked.flow) {
                return Err(Fate::InTheWay);
            }
            if self.entries.keys().filter(family).count() >= world.settings.room as usize {
                return Err(Fate::TableFull);
            }
        }
        self.says(q, Says::Flow(flow));
        Ok(())
    }

    /// Rule 4: the row moves for one idle timeout more at least.
    fn refuse(&mut self, q: &Question<'_>, why: Fate, notes: &mut Notes) {
        let Question { asked, row, place, .. } = q;
        let count = self.counters(asked.service);
        match why {
            Fate::OverQuota => count.refused_quota += 1,
            Fate::OverGate => count.refused_gate += 1,
            Fate::TableFull => count.refused_full += 1,
            _ => count.refused_race += 1,
        }
        self.refused.insert(asked.service, asked.now);
        let least = asked.now + asked.idle() + MARGIN;
        if let Kind::Moving { settled, until } = row.kind
            && until < least
        {
            notes.pushed = true;
            let kind = Kind::Moving { settled, until: least };
            self.changed.insert(*place, Row { kind, ..*row });
        }
    }

    fn overwrite(&mut self, q: &Question<'_>, old: Flow, says: Says, target: u16) {
        self.says(q, says);
        match says {
            // Of the same backend in the same life: as far as one can tell, the packet goes where the entry says.
            Says::Flow(new) if (new.backend, new.life) == (old.backend, old.life) => {
                self.count_hit(q, Some(old), target);
            }
            _ => self.counters(q.asked.service).replaced += 1,
        }
    }

    /// The packet goes where an entry says, for whatever reason.
    fn count_hit(&mut self, q: &Question<'_>, written: Option<Flow>, target: u16) {
        let hit = target != 0 && written.is_some_and(|flow| flow.backend == target);
        self.counters(q.asked.service).hits += u64::from(hit);
    }

    fn why(asked: &Asked<'_>, old: &Flow) -> Why {
        match old {
            _ if !asked.is_alive(old) => Why::Dead,
            _ if asked.is_expired(old) => Why::Silent,
            _ => Why::Closing,
        }
    }

    /// A backend's reply: on a row that moves, a flow that nobody knows is that backend's.
    pub fn prove(&mut self, q: &Question<'_>, backend: u16) -> Proof {
        let asked = &q.asked;
        if !q.row.moves(asked.now) {
            return Proof::AtRest;
        }
        if matches!(self.own(q), Some(Says::Flow(_))) {
            return Proof::Known;
        }
        if !asked.is_up(backend) {
            return Proof::Down;
        }
        let flow = Flow { phase: Phase::Established, ..asked.met(backend) };
        match self.write_once(q, flow) {
            Ok(()) => {
                self.counters(asked.service).proved += 1;
                Proof::Written
            }
            Err(_) => Proof::Refused,
        }
    }
}

/// What is wrong with an entry.
enum Why {
    Dead,
    Silent,
    Closing,
}

impl Asked<'_> {
    /// *T*: the longest timeout of the flow's protocol.
    fn idle(&self) -> u32 {
        if self.tcp() { self.policy.tcp } else { self.policy.udp }
    }
}
