//! A ring's idle timeout changes while rows move.
//!
//! `until` promises that a flow has had the whole timeout to show a packet, so a longer timeout needs a later `until`.
//! The program finds the second in which a row began to move as `until` minus the timeout, to know for how long SYNs
//! still go to the old owner. The trap is that a shorter timeout makes that second appear later: SYNs would go to the
//! old owner for as long as the timeouts differ. So a timeout becomes shorter only while no row moves, and until then
//! the longer one is right for everybody.

use lb_common::ring::{KIND_MOVING, Row};

use super::recovery::adopted;
use super::{Correction, Rewrite};

/// In-place changes to make *before* the program is told of the longer timeout.
pub fn raise(live: &[Row], from: u32, to: u32, now: u32) -> Vec<Rewrite> {
    let moving = live.iter().enumerate().filter(|(_, word)| word.is_moving(now));
    moving.map(|(row, &word)| Rewrite { row, from: word, to: word.with_until(word.until() + (to - from)) }).collect()
}

/// Corrections to make *after* the program was told of the longer timeout, if the service has refused a flow meanwhile:
/// it pushed `until` by the old one. `since` is the second that [`raise`] was given.
pub fn raised(live: &[Row], to: u32, refused: u32, since: u32, now: u32) -> Vec<Correction> {
    if refused + 1 < since { Vec::new() } else { adopted(live, to, refused, now) }
}

/// Whether the program may be told of a shorter timeout now.
pub fn may_lower(live: &[Row], now: u32) -> bool {
    // A second more than by our own clock: a CPU may still see the row move.
    live.iter().all(|word| word.kind() != KIND_MOVING || word.until() < now)
}

#[cfg(test)]
mod tests {
    use super::super::What;
    use super::*;

    #[test]
    fn a_longer_timeout_gives_moving_rows_the_difference_and_others_nothing() {
        let live = [Row::steady(1), Row::moving(1, 2, 110), Row::moving(1, 2, 100), Row::exceptions(1, 5)];
        let rewrites = raise(&live, 30, 50, 100);
        assert_eq!(rewrites, [Rewrite { row: 1, from: Row::moving(1, 2, 110), to: Row::moving(1, 2, 130) }]);
    }

    #[test]
    fn a_refusal_meanwhile_counts_with_the_longer_timeout() {
        let live = [Row::moving(1, 2, 110), Row::moving(1, 2, 160)];
        assert_eq!(raised(&live, 50, 0, 100, 100), []);
        assert_eq!(raised(&live, 50, 98, 100, 100), [], "was pushed with the rest");
        assert_eq!(raised(&live, 50, 100, 100, 100), [Correction { row: 0, what: What::Until(152) }]);
    }

    #[test]
    fn a_shorter_timeout_waits_for_the_last_row_that_moves() {
        let live = [Row::steady(1), Row::moving(1, 2, 100), Row::exceptions(1, 5)];
        assert!(!may_lower(&live, 99) && !may_lower(&live, 100));
        assert!(may_lower(&live, 101));
        assert!(may_lower(&[Row::steady(1)], 0));
    }
}
