//! A ring takes the place of one of another size, hash or key: its rows have nothing to do with the rows before.
//!
//! Every row moves, and `settled` is whoever the ring before says, which stays for as long as that. Services refer to
//! the new array one after the other, so the time counts from the moment when the last of them does. The trap is to
//! take that for a change of owners: who owned a row before is not in the word, so nobody but the array before can say
//! whose a flow is that is not written down, and it must neither be cleared nor be replaced before the last row rests.

use lb_common::ring::{KIND_MOVING, Row, UNTIL_MAX};
use lb_common::rows::{BEFORE, MARGIN};

use super::plan::{EXTENSION, HEADSTART};
use super::{Correction, Rewrite, What};

/// The rows of the new array, in second `now`. With no idle timeout there are no flows to keep.
pub fn begin(owners: &[u16], idle: u32, now: u32) -> Vec<Row> {
    let until = now + idle + MARGIN + HEADSTART;
    let word = |owner: &u16| if idle == 0 { Row::steady(*owner) } else { Row::moving(*owner, BEFORE, until) };
    owners.iter().map(word).collect()
}

/// In-place changes to make in the array before, ahead of all: a row of it that moves may not come to its end before
/// [`hold`] is there.
pub fn extensions(live: &[Row], now: u32) -> Vec<Rewrite> {
    let soon = |word: &Row| word.is_moving(now) && word.until() < now + EXTENSION;
    let rows = live.iter().enumerate().filter(|(_, word)| soon(word));
    rows.map(|(row, &from)| Rewrite { row, from, to: from.with_until(now + EXTENSION) }).collect()
}

/// Corrections to the array before, when nobody uses it by itself any more: what moves then goes on to move for as long
/// as somebody asks it. No flow opens on it any more, so whoever is not written down stays `settled`'s; and one that was
/// refused must find the same answer whenever it asks again.
pub fn hold(before: &[Row], now: u32) -> Vec<Correction> {
    let moving = before.iter().enumerate().filter(|(_, word)| word.is_moving(now) && word.until() < UNTIL_MAX);
    moving.map(|(row, _)| Correction { row, what: What::Until(UNTIL_MAX) }).collect()
}

/// In-place changes to the array before, to make before a backend that was down is marked up, if the service refused a
/// flow since it went down: what that array says is what `settled` is elsewhere, so it forgets the backend altogether (see
/// [`super::recovery::recovered`]). Nothing else asks for its owners any more.
pub fn forget(before: &[Row], backend: u16, refused: u32, went_down: u32) -> Vec<Rewrite> {
    if refused == 0 || refused < went_down {
        return Vec::new();
    }
    let other = |id: u16| if id == backend { 0 } else { id };
    let forget = |word: Row| match word.kind() {
        KIND_MOVING => Row::moving(other(word.owner()), other(word.settled()), word.until()),
        _ if word.owner() == backend => Row::steady(0),
        _ => word,
    };
    let rewrites = before.iter().enumerate().map(|(row, &from)| Rewrite { row, from, to: forget(from) });
    rewrites.filter(|rewrite| rewrite.from != rewrite.to).collect()
}

/// What is left to do in second `returned`, when nobody uses the array before by itself any more: `until` is made exact.
/// `refused` is the second in which the service last refused to write a flow down, as it is after `returned`; to be
/// asked once more when the corrections are made, for what was refused meanwhile.
pub fn settle(live: &[Row], idle: u32, refused: u32, returned: u32) -> Vec<Correction> {
    let exactly = refused.max(returned) + idle + MARGIN;
    let corrections = live.iter().enumerate().filter(|(_, word)| word.kind() == KIND_MOVING).map(|(row, &word)| {
        // Nothing but the headstart puts it there: a refusal is not later than `refused`.
        let early = word.settled() == BEFORE && word.until() > exactly && word.until() <= exactly + HEADSTART;
        let what = if early { What::Becomes(word, word.with_until(exactly)) } else { What::Until(exactly) };
        Correction { row, what }
    });
    corrections.filter(|correction| correction.apply(live[correction.row]).is_some()).collect()
}

/// Whether some row may still ask the array before.
pub fn refers(live: &[Row], now: u32) -> bool {
    // A second more than by our own clock: a CPU may still see the row move.
    live.iter().any(|word| word.kind() == KIND_MOVING && word.settled() == BEFORE && word.until() >= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_000;
    const IDLE: u32 = 30;

    #[test]
    fn every_row_moves_for_one_timeout_from_when_the_last_service_follows() {
        let words = begin(&[1, 2], IDLE, NOW);
        assert_eq!(words, [1, 2].map(|owner| Row::moving(owner, BEFORE, NOW + IDLE + MARGIN + HEADSTART)));
        for (refused, returned, until) in [(0, NOW + 1, 1_033), (NOW + 1, NOW + 1, 1_033), (NOW + 2, NOW + 1, 1_034)] {
            let exact = |row: usize| Correction { row, what: What::Becomes(words[row], words[row].with_until(until)) };
            assert_eq!(settle(&words, IDLE, refused, returned), [exact(0), exact(1)], "refused in {refused}");
        }
        let late = NOW + HEADSTART + 4;
        let longer = |row| Correction { row, what: What::Until(late + IDLE + MARGIN) };
        assert_eq!(settle(&words, IDLE, 0, late), [longer(0), longer(1)]);
        assert_eq!(begin(&[1, 2], 0, NOW), [Row::steady(1), Row::steady(2)]);
    }

    #[test]
    fn what_was_refused_after_the_look_is_made_good() {
        let words = begin(&[1], IDLE, NOW);
        let made_exact = [words[0].with_until(NOW + 1 + IDLE + MARGIN)];
        assert_eq!(settle(&made_exact, IDLE, NOW + 1, NOW + 1), []);
        let pushed = Correction { row: 0, what: What::Until(NOW + 2 + IDLE + MARGIN) };
        assert_eq!(settle(&made_exact, IDLE, NOW + 2, NOW + 1), [pushed]);
    }

    #[test]
    fn what_moved_in_the_array_before_moves_on_for_as_long_as_it_is_asked() {
        let before = [Row::steady(1), Row::moving(1, 2, NOW + 3), Row::moving(1, 2, NOW), Row::moving(1, 2, NOW + 10)];
        let extended = Rewrite { row: 1, from: before[1], to: Row::moving(1, 2, NOW + EXTENSION) };
        assert_eq!(extensions(&before, NOW), [extended]);
        let held = |row| Correction { row, what: What::Until(UNTIL_MAX) };
        assert_eq!(hold(&before, NOW), [held(1), held(3)]);
        assert_eq!(hold(&[before[1].with_until(UNTIL_MAX)], NOW), []);
    }

    #[test]
    fn the_array_before_forgets_a_backend_that_was_away_while_flows_were_refused() {
        let before =
            [Row::steady(7), Row::steady(1), Row::moving(1, 7, 9), Row::moving(7, 7, 9), Row::exceptions(7, 1)];
        let to = [(0, Row::steady(0)), (2, Row::moving(1, 0, 9)), (3, Row::moving(0, 0, 9)), (4, Row::steady(0))];
        let rewrites = to.map(|(row, to)| Rewrite { row, from: before[row], to });
        for (refused, rewrites) in [(0, &[][..]), (39, &[]), (40, &rewrites)] {
            assert_eq!(forget(&before, 7, refused, 40), rewrites, "refused in {refused}");
        }
    }

    #[test]
    fn the_array_before_is_needed_until_no_cpu_sees_a_row_move() {
        let words = [Row::steady(1), Row::moving(1, BEFORE, NOW)];
        assert!(refers(&words, NOW) && !refers(&words, NOW + 1));
        assert!(!refers(&[Row::steady(1), Row::moving(1, 2, NOW), Row::exceptions(1, 1)], NOW));
    }
}
