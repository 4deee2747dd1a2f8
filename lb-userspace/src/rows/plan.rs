//! A change of owners: from the words that are in the kernel to the words that shall be, without moving a connection.
//!
//! ```text
//! plan ──► extensions ──► build the array ──► still_good? ──► swap the slot ──► settle ──► corrections
//!          (in place)                         no: plan anew   (returns when     (from the old array, which
//!                                                              no program uses   nobody writes any more)
//!                                                              the old one)
//! ```
//!
//! A row whose owner changes begins to move: `settled` is the owner it had, and `until` the second from which on each
//! of its flows has either shown a packet, and is written down, or been silent for longer than the idle timeout. That
//! time counts from the moment when no CPU uses the old array any more, which is known only when the swap has
//! returned: so `until` is written [`HEADSTART`] too late, and made exact after it. Too late is the safe side, should
//! nobody live to correct it, but it also is the time for which SYNs still go to the old owner.
//!
//! The trap is a row that moves already. Its flows that are not written down belong to the backend that was its owner
//! *before*, so `settled` and `until` stay what they are, and only the owner changes.

use lb_common::ring::{KIND_MOVING, Row};
use lb_common::rows::{BEFORE, MARGIN};

use super::{Correction, Facts, Rewrite, Standing, What};

/// Seconds between planning and the end of the swap that need no correction. A plan older than this is not swapped in.
pub const HEADSTART: u32 = 3;

/// A row that goes on to move must do so for this long from the moment of planning on, or is extended in place …
const SOON: u32 = 5;
/// … to move for this long: it may not come to its end between planning and the end of the swap.
pub(super) const EXTENSION: u32 = 10;

/// How a row gets its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its owner stays.
    Copied,
    /// It begins to move.
    Moved,
    /// It moves, and goes on to move under another owner.
    Kept,
    /// It moves, and its owner is again the one it had before. It need not move any more as soon as nobody writes flows
    /// down as the other one's: what was written down meanwhile are its exceptions.
    Returned,
    /// It has nobody to protect, and is its new owner's at once.
    AtOnce,
}

/// How the words of a ring change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// To be written into the live array first, before the new one is built. One that fails needs no care: the change
    /// is not [`Change::still_good`] then.
    pub extensions: Vec<Rewrite>,
    /// The new array.
    pub words: Vec<Row>,
    /// By row.
    pub fates: Vec<Fate>,
    /// Rows whose owner changes.
    pub moved: usize,
    built: u32,
    idle: u32,
}

/// Plans how `live` becomes the ring of `owners`: backend ids by row, 0 for none. `owners` may be 2^n times as many as
/// `live`; each row is split then.
pub fn plan(live: &[Row], owners: &[u16], facts: &Facts<'_>, now: u32) -> Change {
    let shift = shift(live, owners.len());
    let mut extensions: Vec<Rewrite> = Vec::new();
    let mut words = Vec::with_capacity(owners.len());
    let mut fates = Vec::with_capacity(owners.len());
    let mut moved = 0;
    // Flows may live that are not written down because they could not be.
    let refusing = facts.refused != 0 && now <= facts.refused + facts.idle + MARGIN;
    for (index, &owner) in owners.iter().enumerate() {
        let row = index >> shift;
        let live = live[row];
        moved += usize::from(live.owner() != owner);
        let goes_on = live.is_moving(now) && keeps(live, facts);
        let ends_soon = live.is_moving(now) && live.until() < now + SOON;
        let extended = if ends_soon { live.with_until(now + EXTENSION) } else { live };
        // What is not written down of a row without owner has no backend, and can lose none.
        let (fate, word) = if facts.idle == 0 || live == Row::steady(0) {
            let at_once = Row::steady(owner);
            (if at_once == live { Fate::Copied } else { Fate::AtOnce }, at_once)
        } else if live.owner() == owner {
            // A refusal after it was copied would come too late to the copy.
            (Fate::Copied, if refusing { extended } else { live })
        } else if goes_on {
            let settled = settled_meanwhile(live, facts);
            let fate = if settled == owner { Fate::Returned } else { Fate::Kept };
            (fate, Row::moving(owner, settled, extended.until()))
        } else {
            (Fate::Moved, Row::moving(owner, live.owner(), now + facts.idle + MARGIN + HEADSTART))
        };
        let extends = matches!(fate, Fate::Copied | Fate::Kept | Fate::Returned) && word.until() > live.until();
        // Once for all the children of a row.
        if extends && live.kind() == KIND_MOVING && extensions.last().is_none_or(|last| last.row != row) {
            extensions.push(Rewrite { row, from: live, to: extended });
        }
        words.push(word);
        fates.push(fate);
    }
    Change { extensions, words, fates, moved, built: now, idle: facts.idle }
}

/// The ring of `1 << log2` rows that says the same about every flow as `live` does: a row's children have its word.
pub fn split(live: &[Row], log2: u32) -> Vec<Row> {
    let shift = shift(live, 1 << log2);
    (0..1_usize << log2).map(|index| live[index >> shift]).collect()
}

/// How many bits of an index of `rows` rows tell the children of one row of `live` apart.
fn shift(live: &[Row], rows: usize) -> u32 {
    debug_assert!(live.len().is_power_of_two() && rows.is_power_of_two() && rows >= live.len());
    rows.trailing_zeros() - live.len().trailing_zeros()
}

/// Whether the flows of a moving row that are not written down belong to `settled`, and not to its owner.
///
/// While `settled` is down, such a flow is written down as the owner's as soon as it shows a packet. But one that was
/// refused then is the owner's without being written down.
fn keeps(word: Row, facts: &Facts<'_>) -> bool {
    match word.settled() {
        0 => false,
        BEFORE => true,
        settled => match (facts.standing)(settled) {
            Standing::Up => true,
            Standing::Unknown => false,
            Standing::Down => facts.refused == 0 || facts.refused < began(word, facts.idle),
        },
    }
}

/// The `settled` of a row that is kept, while both arrays are in use.
///
/// A flow that is refused while `settled` is down becomes the owner's, and there are two owners then. So until nobody
/// uses the old array, the one it has is `settled` in the new one.
fn settled_meanwhile(word: Row, facts: &Facts<'_>) -> u16 {
    let down = word.settled() != BEFORE && (facts.standing)(word.settled()) == Standing::Down;
    if down { word.owner() } else { word.settled() }
}

/// No later than the second in which a row began to move, or was extended: headstart and extensions make it look later
/// than it was, by less than [`EXTENSION`].
const fn began(word: Row, idle: u32) -> u32 {
    word.until().saturating_sub(idle + MARGIN + EXTENSION)
}

/// Whether `to` is what refusals or an extension make of `from`.
fn is_pushed(from: Row, to: Row) -> bool {
    from.kind() == KIND_MOVING && to == from.with_until(to.until().max(from.until()))
}

impl Change {
    /// Nothing to swap in.
    pub fn is_empty(&self) -> bool {
        self.fates.iter().all(|fate| *fate == Fate::Copied)
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.fates.iter().filter(|f| **f == fate).count()
    }

    /// To be asked just before the swap, with what is so then. If not, plan anew.
    pub fn still_good(&self, live: &[Row], facts: &Facts<'_>, now: u32) -> bool {
        let shift = shift(live, self.words.len());
        let stands = |index: usize| {
            let (old, new) = (live[index >> shift], self.words[index]);
            // Not about to end by any CPU's clock, and its unwritten flows are whose they were.
            let goes_on = old.kind() == KIND_MOVING && old.until() > now + 1 && keeps(old, facts);
            match self.fates[index] {
                // A word that was pushed meanwhile is made good after the swap.
                Fate::Copied => old == new || is_pushed(new, old) && new.until() > now + 1,
                Fate::Moved => old.owner() == new.settled() && !(old.is_moving(now) && keeps(old, facts)),
                Fate::Kept | Fate::Returned => {
                    goes_on && new.settled() == settled_meanwhile(old, facts) && new.until() > now + 1
                }
                Fate::AtOnce => self.idle == 0 || old == Row::steady(0),
            }
        };
        facts.idle == self.idle && now <= self.built + HEADSTART && (0..self.words.len()).all(stands)
    }

    /// What is left to do when the swap has returned, in second `returned`. `old` is the array that was swapped out, as
    /// it is now; `refused` the second in which the service last refused to write a flow down.
    pub fn settle(&self, old: &[Row], refused: u32, returned: u32) -> Vec<Correction> {
        let shift = shift(old, self.words.len());
        let exactly = self.exactly(refused, returned);
        let in_full = What::Until(exactly);
        let mut corrections = Vec::new();
        for (row, &new) in self.words.iter().enumerate().filter(|(_, new)| new.kind() == KIND_MOVING) {
            let old = old[row >> shift];
            let what = match self.fates[row] {
                Fate::Moved if new.until() > exactly => What::Becomes(new, new.with_until(exactly)),
                Fate::Moved => in_full,
                // While both arrays were in use, it had to go on writing flows down: a flow that opened by the new one
                // is not to be found unknown by the old one.
                Fate::Returned => What::Ends(returned),
                // Its settled one was down: see `settled_meanwhile`.
                Fate::Kept if new.settled() != old.settled() => {
                    if refused == 0 || refused + 1 < self.built {
                        What::Becomes(new, Row::moving(new.owner(), old.settled(), new.until()))
                    } else {
                        in_full
                    }
                }
                // Refusals may have pushed it in the old array.
                Fate::Copied | Fate::Kept | Fate::AtOnce => What::Until(old.until()),
            };
            let correction = Correction { row, what };
            if correction.apply(new).is_some() {
                corrections.push(correction);
            }
        }
        corrections
    }

    /// To be asked once more when these corrections are made: a refusal that came between the look at `refused` and
    /// the correction has found an `until` that was late enough, and then it was taken back.
    pub fn settle_again(&self, refused: u32, returned: u32) -> Vec<Correction> {
        if refused <= returned {
            return Vec::new();
        }
        let what = What::Until(self.exactly(refused, returned));
        let moved = self.fates.iter().enumerate().filter(|(_, fate)| **fate == Fate::Moved);
        moved.map(|(row, _)| Correction { row, what }).collect()
    }

    /// When rows that began to move by a swap that returned in second `returned` end. Refusals make them move for a
    /// whole timeout more.
    fn exactly(&self, refused: u32, returned: u32) -> u32 {
        refused.max(returned) + self.idle + MARGIN
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u32 = 1_000;
    const IDLE: u32 = 30;
    /// When a row that is planned to move now will stop.
    const UNTIL: u32 = NOW + IDLE + MARGIN + HEADSTART;

    const UP: Facts<'static> = Facts { idle: IDLE, refused: 0, standing: &|_| Standing::Up };
    const DOWN: Facts<'static> = Facts { standing: &|_| Standing::Down, ..UP };

    /// The plan for one row.
    fn one(word: Row, owner: u16, facts: &Facts<'_>) -> (Fate, Row) {
        let change = plan(&[word], &[owner], facts, NOW);
        (change.fates[0], change.words[0])
    }

    #[test]
    fn every_row_has_its_fate() {
        let refused = |second| Facts { refused: second, ..DOWN };
        let gone = Facts { standing: &|_| Standing::Unknown, ..UP };
        let oneshot = Facts { idle: 0, ..UP };
        let moving = |owner, settled| Row::moving(owner, settled, NOW + 20);
        // In which second that row seems to have begun to move.
        let began = NOW + 20 - IDLE - MARGIN;
        let table = [
            ("steady, same owner", Row::steady(1), 1, UP, Fate::Copied, Row::steady(1)),
            ("steady, other owner", Row::steady(1), 2, UP, Fate::Moved, Row::moving(2, 1, UNTIL)),
            ("nobody's", Row::steady(0), 2, UP, Fate::AtOnce, Row::steady(2)),
            ("the last backend leaves", Row::steady(1), 0, UP, Fate::Moved, Row::moving(0, 1, UNTIL)),
            ("oneshot", moving(1, 2), 1, oneshot, Fate::AtOnce, Row::steady(1)),
            ("oneshot and steady", Row::steady(1), 1, oneshot, Fate::Copied, Row::steady(1)),
            ("moving, same owner", moving(1, 2), 1, UP, Fate::Copied, moving(1, 2)),
            ("moving, other owner", moving(1, 2), 3, UP, Fate::Kept, moving(3, 2)),
            ("moving, settled down", moving(1, 2), 3, DOWN, Fate::Kept, moving(3, 1)),
            ("… refused before", moving(1, 2), 3, refused(began - EXTENSION - 1), Fate::Kept, moving(3, 1)),
            ("… refused since", moving(1, 2), 3, refused(began), Fate::Moved, Row::moving(3, 1, UNTIL)),
            ("moving, settled gone", moving(1, 2), 3, gone, Fate::Moved, Row::moving(3, 1, UNTIL)),
            ("moving, none settled", moving(1, 0), 3, UP, Fate::Moved, Row::moving(3, 1, UNTIL)),
            ("moving from another ring", moving(1, BEFORE), 3, gone, Fate::Kept, moving(3, BEFORE)),
            ("moving back", moving(1, 2), 2, UP, Fate::Returned, moving(2, 2)),
            ("moving back to one that was away", moving(1, 2), 2, refused(NOW), Fate::Moved, Row::moving(2, 1, UNTIL)),
            ("time is up", Row::moving(1, 2, NOW), 2, UP, Fate::Moved, Row::moving(2, 1, UNTIL)),
            ("exceptions", Row::exceptions(1, 7), 2, UP, Fate::Moved, Row::moving(2, 1, UNTIL)),
            ("exceptions, same owner", Row::exceptions(1, 7), 1, UP, Fate::Copied, Row::exceptions(1, 7)),
            ("exceptions without owner", Row::exceptions(0, 7), 1, UP, Fate::Moved, Row::moving(1, 0, UNTIL)),
        ];
        for (name, word, owner, facts, fate, expected) in table {
            assert_eq!(one(word, owner, &facts), (fate, expected), "{name}");
        }
    }

    #[test]
    fn a_row_that_is_about_to_end_is_extended_before_its_owner_changes() {
        let live = [Row::moving(1, 2, NOW + 4), Row::moving(1, 2, NOW + 5), Row::moving(1, 2, NOW + 1)];
        let live = [live[0], live[1], live[2], Row::moving(3, 2, NOW + 1)];
        let change = plan(&live, &[3, 3, 2, 3], &UP, NOW);
        let extended = |row: usize| Rewrite { row, from: live[row], to: live[row].with_until(NOW + 10) };
        assert_eq!(change.extensions, [extended(0), extended(2)]);
        let word = |owner, until| Row::moving(owner, 2, until);
        assert_eq!(change.words[..3], [word(3, NOW + 10), word(3, NOW + 5), word(2, NOW + 10)]);
        assert_eq!(change.fates, [Fate::Kept, Fate::Kept, Fate::Returned, Fate::Copied]);
    }

    #[test]
    fn while_the_service_refuses_rows_that_end_are_extended_though_they_keep_their_owner() {
        let live = [Row::moving(1, 2, NOW + 4), Row::moving(1, 2, NOW + 5), Row::moving(1, 2, NOW), Row::steady(1)];
        let extended = live[0].with_until(NOW + 10);
        for (refused, extensions) in [(0, 0), (NOW - IDLE - MARGIN - 1, 0), (NOW - IDLE - MARGIN, 1), (NOW, 1)] {
            let change = plan(&live, &[1, 1, 1, 1], &Facts { refused, ..UP }, NOW);
            assert_eq!(change.extensions.len(), extensions, "refused in {refused}");
            assert_eq!(change.words[0], if extensions > 0 { extended } else { live[0] });
            assert!(change.words[1..] == live[1..] && change.is_empty());
        }
    }

    #[test]
    fn a_ring_that_grows_extends_a_row_once_and_gives_its_word_to_its_children() {
        let live = [Row::moving(1, 2, NOW + 3), Row::steady(5)];
        let change = plan(&live, &[1, 3, 4, 1, 5, 6, 5, 5], &UP, NOW);
        assert_eq!(change.extensions.len(), 1);
        let moved = Row::moving(6, 5, UNTIL);
        let long = |owner| Row::moving(owner, 2, NOW + 10);
        let steady = Row::steady(5);
        assert_eq!(change.words, [live[0], long(3), long(4), live[0], steady, moved, steady, steady]);
        assert_eq!(change.moved, 3);

        let live = [live[0].with_until(NOW + 10), live[1]];
        assert!(change.still_good(&live, &UP, NOW));
        let due = NOW + 1 + IDLE + MARGIN;
        // The children that were copied learn of the extension, the one that moved of the second.
        let at_least = |row, until| Correction { row, what: What::Until(until) };
        let copied = [at_least(0, NOW + 10), at_least(3, NOW + 10)];
        // The headstart was more than it took.
        let exact = Correction { row: 5, what: What::Becomes(moved, moved.with_until(due)) };
        assert_eq!(change.settle(&live, 0, NOW + 1), [copied[0], copied[1], exact]);
        assert_eq!(change.settle(&live, 0, NOW + 9), [copied[0], copied[1], at_least(5, due + 8)]);
    }

    #[test]
    fn a_plan_does_not_outlive_what_it_was_made_from() {
        let steady = Row::steady(1);
        let kept = Row::moving(1, 2, NOW + 20);
        let soon = kept.with_until(NOW + 4);
        let table: [(&str, Row, u16, Row, Facts<'_>, u32, bool); 17] = [
            ("nothing happened", steady, 2, steady, UP, NOW, true),
            ("three seconds passed", steady, 2, steady, UP, NOW + 3, true),
            ("four seconds passed", steady, 2, steady, UP, NOW + 4, false),
            ("another timeout", steady, 2, steady, Facts { idle: 31, ..UP }, NOW, false),
            ("another owner", steady, 2, Row::steady(3), UP, NOW, false),
            ("kept", kept, 3, kept, UP, NOW, true),
            ("kept, and pushed", kept, 3, kept.with_until(NOW + 40), UP, NOW, true),
            ("kept, and pulled", kept, 3, kept.with_until(NOW + 1), UP, NOW, false),
            ("kept, not extended", kept.with_until(NOW + 3), 3, kept.with_until(NOW + 3), UP, NOW + 2, false),
            ("kept, settled went down", kept, 3, kept, DOWN, NOW, false),
            ("kept, settled went down and refused", kept, 3, kept, Facts { refused: NOW, ..DOWN }, NOW, false),
            ("kept, settled recovered", kept, 3, Row::moving(1, 0, NOW + 20), UP, NOW, false),
            ("returned", kept, 2, kept, UP, NOW, true),
            ("returned, about to end", kept, 2, kept.with_until(NOW + 1), UP, NOW, false),
            ("copied, and pushed", kept, 1, kept.with_until(NOW + 40), UP, NOW, true),
            ("copied, and pushed at its end", soon, 1, kept.with_until(NOW + 40), UP, NOW + 3, false),
            ("copied, and tidied", Row::exceptions(1, 3), 1, Row::exceptions(1, 1), UP, NOW, false),
        ];
        for (name, word, owner, live, facts, now, good) in table {
            let change = plan(&[word], &[owner], &UP, NOW);
            assert_eq!(change.still_good(&[live], &facts, now), good, "{name}");
        }
    }

    #[test]
    fn refusals_during_the_swap_reach_the_new_array() {
        let live =
            [Row::steady(1), Row::moving(1, 2, NOW + 20), Row::moving(1, 2, NOW + 20), Row::moving(1, 2, NOW + 9)];
        let change = plan(&live, &[2, 3, 1, 2], &UP, NOW);
        let pushed = NOW + 33;
        let old = [live[0], live[1].with_until(pushed), live[2].with_until(pushed), live[3].with_until(pushed)];
        let moved = change.words[0];
        let exact = |second: u32| What::Becomes(moved, moved.with_until(second + IDLE + MARGIN));
        let expected = |second: u32| {
            let corrections =
                [(0, exact(second)), (1, What::Until(pushed)), (2, What::Until(pushed)), (3, What::Ends(NOW + 1))];
            corrections.map(|(row, what)| Correction { row, what })
        };
        assert_eq!(change.settle(&old, NOW, NOW + 1), expected(NOW + 1), "the headstart was more than row 0 needed");
        assert_eq!(change.settle(&old, NOW + 2, NOW + 1), expected(NOW + 2), "a flow was refused after the swap");
        let again = Correction { row: 0, what: What::Until(NOW + 2 + IDLE + MARGIN) };
        assert_eq!(change.settle_again(NOW + 1, NOW + 1), []);
        assert_eq!(change.settle_again(NOW + 2, NOW + 1), [again], "after its correction, too");
        let late = Correction { row: 0, what: What::Until(NOW + 5 + IDLE + MARGIN) };
        assert_eq!(change.settle(&old, NOW, NOW + 5)[0], late);
    }

    #[test]
    fn a_settled_backend_that_is_down_is_put_back_unless_a_flow_became_the_owners_for_good() {
        let live = [Row::moving(1, 2, NOW + 20)];
        let change = plan(&live, &[3], &DOWN, NOW);
        let meanwhile = Row::moving(3, 1, NOW + 20);
        assert_eq!(change.words, [meanwhile]);
        let back = What::Becomes(meanwhile, Row::moving(3, 2, NOW + 20));
        let in_full = What::Until(NOW + 1 + IDLE + MARGIN);
        for (refused, what) in [(0, back), (NOW - 2, back), (NOW - 1, in_full), (NOW + 1, in_full)] {
            assert_eq!(change.settle(&live, refused, NOW + 1), [Correction { row: 0, what }], "refused in {refused}");
        }
        assert!(!change.still_good(&live, &UP, NOW), "it recovered in time");
        assert!(!plan(&live, &[3], &UP, NOW).still_good(&live, &DOWN, NOW), "it went down after that");
    }

    #[test]
    fn a_correction_does_not_undo_what_happened_meanwhile() {
        use What::{Becomes, Ends, Until};
        let word = Row::moving(1, 2, 8);
        let table = [
            (Until(9), word, Some(Row::moving(1, 2, 9))),
            (Until(8), word, None),
            (Until(9), Row::steady(1), None),
            (Until(9), Row::exceptions(1, 1), None),
            (Ends(9), Row::moving(1, 1, 10), Some(Row::moving(1, 1, 9))),
            (Ends(9), Row::moving(1, 1, 9), None),
            (Ends(9), Row::moving(1, 2, 10), None),
            (Ends(9), Row::exceptions(1, 1), None),
            (Becomes(word, Row::moving(1, 3, 8)), word, Some(Row::moving(1, 3, 8))),
            (Becomes(word, Row::moving(1, 3, 8)), word.with_until(9), None),
        ];
        for (what, word, corrected) in table {
            assert_eq!(Correction { row: 0, what }.apply(word), corrected, "{what:?} {word:?}");
        }
    }

    fn any_word() -> impl Strategy<Value = Row> {
        let time = prop_oneof![NOW - 3..NOW + 12, Just(NOW + 40)];
        prop_oneof![
            (0u16..4).prop_map(Row::steady),
            (0u16..4, 0u16..4, time).prop_map(|(owner, settled, until)| Row::moving(owner, settled, until)),
            (0u16..4, any::<u64>()).prop_map(|(owner, filter)| Row::exceptions(owner, filter)),
        ]
    }

    proptest! {
        #[test]
        fn a_plan_gives_every_row_its_owner_and_stands_until_something_happens(
            rows in prop::collection::vec((any_word(), 0u16..4), 8),
            standing in prop::collection::vec(prop_oneof![Just(Standing::Unknown), Just(Standing::Down), Just(Standing::Up)], 4),
            refused in prop_oneof![Just(0), NOW - 60..NOW + 1],
            late in 0..=HEADSTART,
        ) {
            let (live, owners): (Vec<Row>, Vec<u16>) = rows.into_iter().unzip();
            let standing = |id: u16| standing[usize::from(id)];
            let facts = Facts { idle: IDLE, refused, standing: &standing };
            let change = plan(&live, &owners, &facts, NOW);
            prop_assert!(change.words.iter().map(|word| word.owner()).eq(owners.iter().copied()));
            prop_assert_eq!(change.moved, live.iter().zip(&owners).filter(|(word, owner)| word.owner() != **owner).count());
            prop_assert_eq!(change.is_empty(), change.words == live);

            let mut live = live;
            for extension in &change.extensions {
                prop_assert_eq!(std::mem::replace(&mut live[extension.row], extension.to), extension.from);
            }
            prop_assert!(change.still_good(&live, &facts, NOW + late));
            for (row, (old, new)) in live.iter().zip(&change.words).enumerate() {
                match change.fates[row] {
                    Fate::Copied => prop_assert!(old == new),
                    // Whoever was not written down goes where it went.
                    Fate::Kept => {
                        let unwritten = if standing(old.settled()) == Standing::Up { old.settled() } else { old.owner() };
                        prop_assert!(new.settled() == unwritten && new.is_moving(NOW + late + 1));
                    }
                    Fate::Returned => prop_assert!(*new == Row::moving(old.settled(), old.settled(), old.until())),
                    Fate::Moved => prop_assert!(new.settled() == old.owner() && new.until() == UNTIL),
                    Fate::AtOnce => prop_assert!(*old == Row::steady(0) && new.is_steady()),
                }
            }
            // Once in place, the same owners need nothing more.
            prop_assert!(plan(&change.words, &owners, &facts, NOW).is_empty());
        }

        #[test]
        fn a_split_ring_says_the_same_about_every_flow(words in prop::collection::vec(any_word(), 4), hash: u32) {
            use lb_common::ring::row_index;
            let children = split(&words, 6);
            prop_assert_eq!(children[row_index(hash, 6) as usize], words[row_index(hash, 2) as usize]);
        }
    }
}
