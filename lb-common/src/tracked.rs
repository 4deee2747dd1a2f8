//! Flows that are written down whatever their row: what their table says, and what is written into it.
//!
//! A tracked service keeps an entry for each flow it can, so that its flows can be listed and counted, and so that
//! whoever chooses a backend for each flow has a place to keep the choice. The table is LRU and under quota: an entry
//! may be gone at any time, or may never have been written. So nothing is promised by it. A flow that nobody knows goes
//! where its row says, and while a row is not steady [`crate::rows`] alone decides, from a table that forgets nobody;
//! that answer is only noted here.
//!
//! The trap is an entry that contradicts its row. One that has been silent for longer than its timeout is therefore no
//! entry, though its flow be in the middle of a connection: the row may have settled without knowing that it lives.

use crate::flow::{FlowState, Life, PHASE_CLOSING};
use crate::rows::{Decision, Entries, Inserted, Packet, Question, Sign, first_phase, is_expired, next_phase, orphaned};

/// The flow's place in a table of tracked flows, and who is told what came of it.
pub trait Tracked: Entries {
    /// Said at most once for each.
    fn note(&mut self, what: Note);
}

/// What is worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Note {
    /// The packet goes where an entry says.
    Hit = 1,
    /// The packet goes where the row says: the flow has no entry, or one that says nothing any more.
    Missed = 2,
    /// The flow should have been written down and was not.
    Lost = 4,
}

/// Decides about a packet of a tracked flow, whose row says by its word alone that it is the owner's
/// ([`crate::rows::by_row_alone`]).
#[inline(always)]
pub fn answer<Q: Question, T: Tracked>(question: &Q, table: &mut T) -> Decision {
    let owner = question.row().owner();
    let mut missed = false;
    // Twice, because what somebody else wrote meanwhile decides.
    let mut tries = 0;
    while tries < 2 {
        tries += 1;
        let stale = table.find();
        if let Some(state) = stale
            && !is_over(state, question)
        {
            let backend = table.backend(state.life().backend());
            let alive = backend.up && backend.life == state.life();
            if alive && !starts_anew(state, question) {
                let next =
                    FlowState::new(state.life(), next_phase(state.phase(), question.packet().sign), question.now());
                if next != state {
                    // Losing means that somebody else has just touched it, or that it is another flow's by now.
                    let _ = table.replace(state, next);
                }
                table.note(Note::Hit);
                return Decision::of(state.life().backend());
            }
            if !alive && orphaned(question) {
                return Decision::Orphan;
            }
        }
        if !missed {
            table.note(Note::Missed);
            missed = true;
        }
        if owner == 0 {
            return Decision::NoBackend;
        }
        // The last packet of a flow that nobody knew.
        if matches!(question.packet().sign, Sign::Resets) {
            return Decision::Backend(owner);
        }
        let life = Life::new(owner, table.backend(owner).life.generation());
        match write(FlowState::new(life, first_phase(question.packet()), question.now()), stale, table) {
            Inserted::Done => return Decision::Backend(owner),
            Inserted::Exists => {}
            Inserted::Refused => break,
        }
    }
    table.note(Note::Lost);
    Decision::Backend(owner)
}

/// Notes what a row that is not steady has decided about a packet of a tracked flow.
#[inline(always)]
pub fn record<Q: Question, T: Tracked>(question: &Q, backend: u16, table: &mut T) {
    let mut tries = 0;
    while tries < 2 {
        tries += 1;
        let found = table.find();
        let life = Life::new(backend, table.backend(backend).life.generation());
        let Packet { sign, .. } = question.packet();
        let phase = match found {
            Some(state) if state.life() == life && !is_over(state, question) && !starts_anew(state, question) => {
                next_phase(state.phase(), sign)
            }
            None if matches!(sign, Sign::Resets) => return,
            _ => first_phase(question.packet()),
        };
        let state = FlowState::new(life, phase, question.now());
        if found.is_some_and(|found| found == state) {
            return;
        }
        match write(state, found, table) {
            Inserted::Done => return,
            Inserted::Exists => {}
            Inserted::Refused => break,
        }
    }
    table.note(Note::Lost);
}

#[inline(always)]
fn write<T: Tracked>(state: FlowState, over: Option<FlowState>, table: &mut T) -> Inserted {
    match over {
        None => table.insert(state),
        Some(old) if table.replace(old, state) => Inserted::Done,
        Some(_) => Inserted::Exists,
    }
}

#[inline(always)]
fn is_over(state: FlowState, question: &impl Question) -> bool {
    is_expired(state, question.packet().tcp, question.now(), question.timeouts())
}

/// A SYN on a closing flow begins another one.
#[inline(always)]
fn starts_anew(state: FlowState, question: &impl Question) -> bool {
    matches!(question.packet().sign, Sign::Opens) && state.phase() == PHASE_CLOSING
}

#[cfg(test)]
mod tests;
