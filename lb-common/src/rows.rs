//! Which backend a flow belongs to: the one decision that program, controller, oracle and tests share.
//!
//! A *steady* row is its owner's. A *moving* row changed its owner less than one idle timeout ago; each of its flows
//! is written down when it shows a packet: flows that open belong to the owner, flows met midway to the backend that
//! was the owner before (`settled`). In a row with *exceptions*, flows that are written down go where that says, and
//! everybody else to the owner. docs/design/rows.md has the rules and what each costs to leave out.
//!
//! The trap is that every one of these sentences has a second half. A SYN may be a retransmission of one that went to
//! the old owner. A flow that could not be written down must still go to the same place next time. A backend that is
//! down keeps its entries. Two packets of a flow may be decided at once by two CPUs. So writing comes before deciding,
//! entries change by compare-and-swap only, and whoever loses looks again.

use crate::flow::{FlowState, Life, PHASE_CLOSING, PHASE_ESTABLISHED, PHASE_OPENING};
use crate::ring::{KIND_EXCEPTIONS, Row, filter_bit};

/// As `settled`: whoever the ring says that was this one's before. For a change of the ring's size or hash.
pub const BEFORE: u16 = 0xffff;

/// Seconds for which SYNs keep going to the old owner after a change, and after a refusal: a SYN retransmitted within
/// them meets the backend that the first one met.
pub const GRACE: u32 = 4;

/// Seconds between the end of the swap that moves a row and the first second in which it does not move any more, on
/// top of the idle timeout: one because the swap does not end on a whole second, one because packets' seconds are
/// whole too.
pub const MARGIN: u32 = 2;

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// TCP SYN without ACK.
    Opens,
    /// Any other TCP packet, and every UDP one.
    Middle,
    /// TCP FIN.
    Finishes,
    /// TCP RST.
    Resets,
}

impl Sign {
    /// From the flags of a TCP header: its byte 13.
    #[inline(always)]
    pub const fn of_tcp(flags: u8) -> Self {
        const FIN: u8 = 0x01;
        const SYN: u8 = 0x02;
        const RST: u8 = 0x04;
        const ACK: u8 = 0x10;
        if flags & RST != 0 {
            Self::Resets
        } else if flags & (SYN | ACK) == SYN {
            Self::Opens
        } else if flags & FIN != 0 {
            Self::Finishes
        } else {
            Self::Middle
        }
    }
}

/// The packet, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub hash: u32,
    pub sign: Sign,
    pub tcp: bool,
}

/// The seconds that entries and rows live by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP flow of which only the SYN was seen.
    pub opening: u32,
    /// Any other, and what `until` was computed with.
    pub idle: u32,
}

/// What becomes of a flow in the middle whose backend is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// It goes to the owner of its row.
    Reselect,
    /// It is said to be one: [`Decision::Orphan`].
    Tell,
}

/// The outcome of [`Table::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    Done,
    /// There is one already.
    Exists,
    /// No room, no quota, or too many this second.
    Refused,
}

/// A flow's place in a table, for one packet.
pub trait Entries {
    /// The flow's entry, if somebody's name is in it. What [`Entries::replace`] acts on.
    fn find(&mut self) -> Option<FlowState>;
    /// Writes the flow down if it has no entry; one that is vacant is none.
    fn insert(&mut self, state: FlowState) -> Inserted;
    /// Changes the entry found last, if it still is what it was.
    fn replace(&mut self, from: FlowState, to: FlowState) -> bool;
    /// What is known of a backend; 0 is never up.
    fn backend(&mut self, id: u16) -> Known;
}

/// Everything outside the row that the decision looks at, for one packet of one flow.
pub trait Table: Entries {
    /// The second in which the service last refused to write a flow down; 0 for never.
    fn refused(&mut self) -> u32;
    /// A flow was not written down: remembers the second, and sees to it that the row moves until `until` at least.
    fn refuse(&mut self, until: u32);
    /// The backend the flow belongs to by the ring before this one, or 0: see [`BEFORE`].
    fn before(&mut self) -> u16;
}

/// A backend, as far as it matters to a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The life it lives, or has lived last.
    pub life: Life,
    pub up: bool,
}

/// What a row says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Forward to this backend id.
    Backend(u16),
    /// The pool behind this ring is empty.
    NoBackend,
    /// The flow's backend is down, and the service does not give its flows to another one.
    Orphan,
}

impl Decision {
    #[inline(always)]
    pub(crate) const fn of(backend: u16) -> Self {
        if backend == 0 { Self::NoBackend } else { Self::Backend(backend) }
    }
}

/// The owner, where the row's word alone decides: it is steady, or its filter does not know the flow. `None`: look the
/// flow up.
#[inline(always)]
pub const fn by_row_alone(row: Row, hash: u32) -> Option<u16> {
    if row.is_steady() || row.kind() == KIND_EXCEPTIONS && row.filter() & filter_bit(hash) == 0 {
        return Some(row.owner());
    }
    None
}

/// What is asked about a packet. Each is asked for where it is needed, so that a caller that has no room to keep them
/// all at hand (the program has 512 bytes of stack) may look them up.
pub trait Question {
    fn row(&self) -> Row;
    fn packet(&self) -> Packet;
    /// The second.
    fn now(&self) -> u32;
    fn timeouts(&self) -> Timeouts;
    fn orphans(&self) -> Orphans;
}

/// A question whose parts are at hand.
#[derive(Clone, Copy, Debug)]
struct Asked {
    row: Row,
    packet: Packet,
    now: u32,
    timeouts: Timeouts,
    orphans: Orphans,
}

impl Question for Asked {
    #[inline(always)]
    fn row(&self) -> Row {
        self.row
    }

    #[inline(always)]
    fn packet(&self) -> Packet {
        self.packet
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        self.now
    }

    #[inline(always)]
    fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    #[inline(always)]
    fn orphans(&self) -> Orphans {
        self.orphans
    }
}

/// Decides. What [`by_row_alone`] decides needs neither `table` nor `now`: callers that care ask it first.
#[inline(always)]
pub fn decide<T: Table>(
    row: Row,
    packet: Packet,
    now: u32,
    timeouts: Timeouts,
    orphans: Orphans,
    table: &mut T,
) -> Decision {
    answer(&Asked { row, packet, now, timeouts, orphans }, table)
}

/// [`decide`], for who has reason to be sparing.
#[inline(always)]
pub fn answer<Q: Question, T: Table>(question: &Q, table: &mut T) -> Decision {
    if let Some(owner) = by_row_alone(question.row(), question.packet().hash) {
        return Decision::of(owner);
    }
    // Twice, because what somebody else wrote meanwhile decides. Whoever loses twice is not written down.
    let mut tries = 0;
    while tries < 2 {
        tries += 1;
        let found = table.find();
        // `None` where there is an entry that says nothing: it is overwritten instead of inserted.
        let mut stale = None;
        if let Some(state) = found {
            let Packet { sign, tcp, .. } = question.packet();
            let expired = is_expired(state, tcp, question.now(), question.timeouts());
            let backend = table.backend(state.life().backend());
            let alive = backend.up && backend.life == state.life();
            let opens = matches!(sign, Sign::Opens);
            // A SYN follows an entry that is neither closing nor expired; TCP in the middle any, UDP one not expired.
            let follows = if opens { !expired && state.phase() != PHASE_CLOSING } else { tcp || !expired };
            if alive && follows {
                let next = FlowState::new(state.life(), next_phase(state.phase(), sign), question.now());
                if next != state {
                    // Losing means that somebody else has just touched it, or claimed it: for the flow's next packet.
                    let _ = table.replace(state, next);
                }
                return Decision::of(state.life().backend());
            }
            if !alive && orphaned(question) {
                return Decision::Orphan;
            }
            stale = Some(state);
        }

        if !question.row().is_moving(question.now()) {
            if let Some(state) = stale
                && table.backend(question.row().owner()).up
            {
                let _ = table.replace(state, FlowState::VACANT);
            }
            return Decision::of(question.row().owner());
        }
        let settled = Settled::of(question.row(), table);
        if settled.is_down() && orphaned(question) && !is_refusing(question.now(), question.timeouts(), table) {
            return Decision::Orphan;
        }
        let target = match question.packet().sign {
            Sign::Opens => syn_target(question.row(), settled, question.now(), question.timeouts(), table),
            _ => settled.or(question.row().owner()),
        };
        if target == 0 {
            return Decision::NoBackend;
        }
        // The last packet of a flow that nobody knew: there will be no second one to keep a promise to.
        if matches!(question.packet().sign, Sign::Resets) && stale.is_none() {
            return Decision::Backend(target);
        }
        let Known { life, up } = table.backend(target);
        // Nobody gets it, so there is nothing to keep: an entry would take the flow from whoever gets its next packet.
        if !up {
            return Decision::Backend(target);
        }
        let state = FlowState::new(life, first_phase(question.packet()), question.now());
        match stale {
            Some(old) => {
                if table.replace(old, state) {
                    return Decision::Backend(target);
                }
            }
            None => match table.insert(state) {
                Inserted::Done => return Decision::Backend(target),
                Inserted::Exists => {}
                Inserted::Refused => break,
            },
        }
    }
    // Not written down, so it must find the same way next time: where flows that are not written down go.
    table.refuse(question.now() + question.timeouts().idle + MARGIN);
    Decision::of(Settled::of(question.row(), table).or(question.row().owner()))
}

/// Whether the packet is told from others when its flow's backend is down: TCP, in the middle of a connection.
#[inline(always)]
pub(crate) fn orphaned(question: &impl Question) -> bool {
    let Packet { sign, tcp, .. } = question.packet();
    tcp && !matches!(sign, Sign::Opens) && matches!(question.orphans(), Orphans::Tell)
}

/// A reply shows which backend a flow has. On a row that moves it is written down if nobody knows the flow; never
/// changes what somebody else wrote.
#[inline(always)]
pub fn prove<T: Table>(row: Row, backend: u16, now: u32, table: &mut T) {
    if !row.is_moving(now) || table.find().is_some() {
        return;
    }
    let Known { life, up } = table.backend(backend);
    if up {
        // A refusal is no loss: the flow's own packets will be asked the same question.
        let _ = table.insert(FlowState::new(life, PHASE_ESTABLISHED, now));
    }
}

/// Where flows of a row that nobody has written down go, without looking any of them up: what a ring says to the one
/// that takes its place (see [`BEFORE`]).
#[inline(always)]
pub fn unwritten<T: Table>(row: Row, now: u32, table: &mut T) -> u16 {
    if row.is_moving(now) && table.backend(row.settled()).up { row.settled() } else { row.owner() }
}

/// Who is written down as the flow's, if they live.
#[inline(always)]
pub fn written<E: Entries>(entries: &mut E) -> Option<u16> {
    let life = entries.find()?.life();
    let backend = entries.backend(life.backend());
    if backend.up && backend.life == life { Some(life.backend()) } else { None }
}

/// Whose a flow is of which something was heard that is no packet of its own, so that nothing is written down.
#[inline(always)]
pub fn peek<T: Table>(row: Row, now: u32, table: &mut T) -> u16 {
    match written(table) {
        Some(backend) => backend,
        None if row.is_moving(now) => Settled::of(row, table).or(row.owner()),
        None => row.owner(),
    }
}

/// The backend that flows belong to which began before the row moved.
#[derive(Clone, Copy)]
struct Settled {
    /// 0 for none.
    id: u16,
    up: bool,
}

impl Settled {
    #[inline(always)]
    fn of<T: Table>(row: Row, table: &mut T) -> Self {
        let id = if row.settled() == BEFORE { table.before() } else { row.settled() };
        Self { id, up: table.backend(id).up }
    }

    #[inline(always)]
    const fn is_down(self) -> bool {
        self.id != 0 && !self.up
    }

    #[inline(always)]
    const fn or(self, owner: u16) -> u16 {
        if self.up { self.id } else { owner }
    }
}

/// Where a SYN goes that finds no entry to follow: to the owner, unless it may be the retransmission of one that went
/// to the backend before.
#[inline(always)]
fn syn_target<T: Table>(row: Row, settled: Settled, now: u32, timeouts: Timeouts, table: &mut T) -> u16 {
    if !settled.up {
        return row.owner();
    }
    // Both seconds are whole ones, so GRACE + 1 of them are GRACE at least.
    let moved = row.until().saturating_sub(timeouts.idle + MARGIN);
    let refused = table.refused();
    if now <= moved + GRACE || refused != 0 && now <= refused + GRACE { settled.id } else { row.owner() }
}

/// A flow may live that is not written down because it could not be. It is the owner's if `settled` was down by then,
/// and looks like one that is left of `settled`.
#[inline(always)]
fn is_refusing<T: Table>(now: u32, timeouts: Timeouts, table: &mut T) -> bool {
    let refused = table.refused();
    refused != 0 && now <= refused + timeouts.idle + MARGIN
}

/// Silent for longer than its timeout, strictly.
#[inline(always)]
pub const fn is_expired(state: FlowState, tcp: bool, now: u32, timeouts: Timeouts) -> bool {
    let opening = tcp && state.phase() == PHASE_OPENING;
    now.saturating_sub(state.last()) > if opening { timeouts.opening } else { timeouts.idle }
}

#[inline(always)]
pub(crate) const fn next_phase(phase: u8, sign: Sign) -> u8 {
    match sign {
        Sign::Finishes | Sign::Resets => PHASE_CLOSING,
        Sign::Middle if phase == PHASE_OPENING => PHASE_ESTABLISHED,
        Sign::Middle | Sign::Opens => phase,
    }
}

#[inline(always)]
pub(crate) const fn first_phase(packet: Packet) -> u8 {
    match packet.sign {
        Sign::Opens => PHASE_OPENING,
        Sign::Middle => PHASE_ESTABLISHED,
        Sign::Finishes | Sign::Resets => PHASE_CLOSING,
    }
}

#[cfg(test)]
mod tests;
