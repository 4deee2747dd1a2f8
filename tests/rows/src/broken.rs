//! The rules broken on purpose, one at a time: what leaves one out is caught, or the oracle is blind.
//!
//! The product has no switches for this. The packet's side is broken in what a packet sees and writes (`cpu`), the
//! controller's in what is done with what the product's functions say (`controller`).

use serde::{Deserialize, Serialize};

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Broken {
    /// A row stops moving one timeout after it was planned.
    NoMargin,
    /// An entry is gone in the second in which its timeout is over.
    ExpiredEarly,
    /// A moving row that changes its owner again begins anew, with the owner in between as the settled one.
    BeginsAnew,
    /// A moving row that is about to end changes its owner all the same, and nobody looks again before the swap.
    NotExtended,
    /// A moving row is given to its new owner alone.
    LeavesMovingEarly,
    /// `settled` stays, though flows were refused while it was down.
    KeepsTheRefused,
    /// A row that returns to the owner before stops moving while both arrays are in use.
    ReturnsAtOnce,
    /// A settled backend that is down stays it while both arrays are in use, and refused flows have two owners.
    TwoOwners,
    /// A SYN starts a flow anew whatever is written down.
    SynStartsAnew,
    /// A SYN goes to the new owner from the first second on.
    NoGrace,
    /// A SYN that could not be written down goes to the owner.
    RefusedToOwner,
    /// A refused flow is called an orphan when the settled backend is down.
    CallsTheRefusedOrphans,
    /// A refusal does not make a row move for longer.
    RefusalDoesNotPush,
    /// Where there is no room, the oldest entry goes.
    OldestIsEvicted,
    /// A backend comes back to rows whose flows were refused while it was away.
    ComesBackToTheRefused,
    /// The ring before does not forget a backend that was away while flows were refused.
    BeforeRemembers,
    /// The entry of a dead backend stays when its flow goes elsewhere.
    DeadEntryStays,
    /// What another CPU has just inserted is overwritten.
    InsertOverwrites,
    /// What another CPU has just changed is overwritten.
    ReplaceOverwrites,
    /// An entry that is closing lives for three seconds.
    ClosingDiesYoung,
    /// A flow first seen when it closes is not written down.
    FinIsNotWritten,
    /// An id is free as soon as its backend is removed.
    NoQuarantine,
    /// What looked expired is removed, whatever it is by now.
    RemovesUnseen,
    /// Entries of the owner are removed while the row moves.
    RemovesTheOwners,
    /// The scan acts on rows that moved while it was on.
    ScanTrustsItself,
    /// The scan goes by the timeouts there were when it began.
    ScansByOldTimeouts,
    /// A row moves for as long as a SYN may be silent, not an established flow.
    ShortestTimeout,
    /// A longer timeout leaves the rows that move as they are.
    RaiseForgets,
    /// A ring that grows is built anew.
    GrowsAnew,
    /// A ring that takes another one's place begins steady.
    MigratesAnew,
    /// What moves in the ring before comes to its end while it is asked.
    BeforeEnds,
    /// A controller that starts does not ask whether flows were refused while the one before was killed.
    RestartForgetsRefusals,
    /// A controller that starts writes rows as it would for an empty kernel.
    RestartForgets,
}

impl Broken {
    /// Every one, with the rule of docs/design/rows.md that it breaks.
    pub const ALL: [(u8, Self); 33] = [
        (1, Self::NoMargin),
        (1, Self::ExpiredEarly),
        (2, Self::BeginsAnew),
        (2, Self::NotExtended),
        (2, Self::LeavesMovingEarly),
        (2, Self::KeepsTheRefused),
        (2, Self::ReturnsAtOnce),
        (2, Self::TwoOwners),
        (3, Self::SynStartsAnew),
        (3, Self::NoGrace),
        (4, Self::RefusedToOwner),
        (4, Self::CallsTheRefusedOrphans),
        (4, Self::RefusalDoesNotPush),
        (4, Self::OldestIsEvicted),
        (4, Self::ComesBackToTheRefused),
        (4, Self::BeforeRemembers),
        (5, Self::DeadEntryStays),
        (5, Self::InsertOverwrites),
        (5, Self::ReplaceOverwrites),
        (6, Self::ClosingDiesYoung),
        (6, Self::FinIsNotWritten),
        (7, Self::NoQuarantine),
        (8, Self::RemovesUnseen),
        (8, Self::RemovesTheOwners),
        (8, Self::ScanTrustsItself),
        (8, Self::ScansByOldTimeouts),
        (9, Self::ShortestTimeout),
        (9, Self::RaiseForgets),
        (9, Self::GrowsAnew),
        (9, Self::MigratesAnew),
        (9, Self::BeforeEnds),
        (10, Self::RestartForgetsRefusals),
        (10, Self::RestartForgets),
    ];

    /// In the words of its file.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
    }
}
