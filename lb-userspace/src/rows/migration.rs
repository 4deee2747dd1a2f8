//! A ring takes the place of one of another size, hash or key: its rows have nothing to do with the rows before.
//!
//! Every row moves, and `settled` is whoever the ring before says, which stays for as long as that. Services refer to
//! the new array one after the other, so the time counts from the moment when the last of them does. The trap is to
//! take that for a change of owners: who owned a row before is not in the word, so nobody but the array before can say
//! whose a flow is that is not written down, and it must neither be cleared nor be replaced before the last row rests.

use lb_common::ring::{KIND_MOVING, Row};
use lb_common::rows::{BEFORE, MARGIN};

use super::plan::HEADSTART;
use super::{Correction, What};

/// The rows of the new array, in second `now`. With no idle timeout there are no flows to keep.
pub fn begin(owners: &[u16], idle: u32, now: u32) -> Vec<Row> {
    let until = now + idle + MARGIN + HEADSTART;
    let word = |owner: &u16| if idle == 0 { Row::steady(*owner) } else { Row::moving(*owner, BEFORE, until) };
    owners.iter().map(word).collect()
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
    fn the_array_before_is_needed_until_no_cpu_sees_a_row_move() {
        let words = [Row::steady(1), Row::moving(1, BEFORE, NOW)];
        assert!(refers(&words, NOW) && !refers(&words, NOW + 1));
        assert!(!refers(&[Row::steady(1), Row::moving(1, 2, NOW), Row::exceptions(1, 1)], NOW));
    }
}
