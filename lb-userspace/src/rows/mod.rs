//! The controller's part of the rows: what to write so that no connection moves, and when a row may be tidied up.
//!
//! The packet's part is `lb_common::rows`; docs/design/rows.md has the rules both follow. Everything here is pure:
//! words in, words out, `now` a parameter, in whole seconds of the data plane's clock. Who calls it owns the maps.
//!
//! [`plan`] says how a change of owners is written, [`migration`] how a ring takes the place of one of another kind,
//! [`recovery`] what to do before a backend comes back, [`sweep`] which flows may be forgotten and which rows have become
//! simpler, [`timeout`] what a changed timeout asks for.
//!
//! The trap is time. Between two calls the program goes on: it pushes `until` in words that were read, it writes flows
//! down, and during a swap half of the CPUs still do so by the old array. So every word is written by
//! compare-and-swap from the one that was looked at, and nothing is decided on a row that changed meanwhile.

pub mod migration;
pub mod plan;
pub mod recovery;
pub mod sweep;
pub mod timeout;

use lb_common::ring::{KIND_MOVING, Row};

/// What the controller knows of a backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No backend has this id.
    Unknown,
    Down,
    Up,
}

/// The world that a ring is planned in.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The ring's idle timeout in seconds, as the program has it; 0 where flows need not stay together.
    pub idle: u32,
    /// The second in which the ring's service last refused to write a flow down; 0 for never.
    pub refused: u32,
    /// Backends that leave are [`Standing::Up`] or [`Standing::Down`] until their id rests.
    pub standing: &'a dyn Fn(u16) -> Standing,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("idle", &self.idle).field("refused", &self.refused).finish_non_exhaustive()
    }
}

/// A word to be changed in place by compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Index of the row in the live array.
    pub row: usize,
    pub from: Row,
    pub to: Row,
}

/// A change in place that is made to whatever word is there, by compare-and-swap: the program may push its `until` at
/// the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    pub row: usize,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It moves until this second at least.
    Until(u32),
    /// It moves until this second at most, if its owner is its settled one too: then moving makes no difference to
    /// where its flows go.
    Ends(u32),
    /// This word becomes that one, and no other does.
    Becomes(Row, Row),
}

impl Correction {
    /// The word to put in the place of `word`, if any.
    pub fn apply(self, word: Row) -> Option<Row> {
        let (fits, to) = match self.what {
            What::Until(until) => (word.until() < until, word.with_until(until)),
            What::Ends(until) => (word.until() > until && word.owner() == word.settled(), word.with_until(until)),
            What::Becomes(from, to) => (word == from, to),
        };
        (word.kind() == KIND_MOVING && fits).then_some(to)
    }
}
