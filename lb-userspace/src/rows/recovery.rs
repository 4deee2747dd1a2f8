//! What comes back: a backend that was down while rows moved away from it, and a controller that was killed.
//!
//! A backend's flows that showed a packet meanwhile are written down as the owners'. Those that could not be written
//! down are not, and belong to the owners all the same. The trap is to mark it up first: those flows would go back to
//! it. A controller finds the rows as they are, and takes them as they are: what they say about `settled` and `until` is
//! the only memory there is.

use lb_common::ring::{KIND_MOVING, Row};
use lb_common::rows::MARGIN;

use super::{Correction, Rewrite, What};

/// Corrections to rows that another controller has left behind. If that was killed during a swap, refusals that pushed
/// `until` in the array before have not reached this one.
pub fn adopted(live: &[Row], idle: u32, refused: u32, now: u32) -> Vec<Correction> {
    if refused == 0 {
        return Vec::new();
    }
    let until = refused + idle + MARGIN;
    let short = live.iter().enumerate().filter(|(_, word)| word.is_moving(now) && word.until() < until);
    short.map(|(row, _)| Correction { row, what: What::Until(until) }).collect()
}

/// In-place changes to make *before* the backend is marked up, again until there are none: its rows forget it if the
/// service refused a flow (in second `refused`, 0 for never) since the backend went down.
pub fn recovered(live: &[Row], backend: u16, refused: u32, went_down: u32) -> Vec<Rewrite> {
    if refused == 0 || refused < went_down {
        return Vec::new();
    }
    let waiting = |word: &Row| word.kind() == KIND_MOVING && word.settled() == backend && word.owner() != backend;
    let rows = live.iter().enumerate().filter(|(_, word)| waiting(word));
    rows.map(|(row, &from)| Rewrite { row, from, to: Row::moving(from.owner(), 0, from.until()) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: [Row; 5] =
        [Row::steady(7), Row::moving(1, 7, 100), Row::moving(1, 2, 100), Row::moving(7, 7, 50), Row::exceptions(1, 7)];

    #[test]
    fn a_controller_that_starts_shortens_nothing_and_remembers_what_was_refused() {
        let until = |row, until| Correction { row, what: What::Until(until) };
        assert_eq!(adopted(&LIVE, 30, 0, 60), []);
        assert_eq!(adopted(&LIVE, 30, 68, 60), [], "that is when they end");
        assert_eq!(adopted(&LIVE, 30, 69, 60), [until(1, 101), until(2, 101)]);
        assert_eq!(adopted(&LIVE, 30, 99, 100), [], "none moves any more");
    }

    #[test]
    fn rows_forget_a_backend_that_was_down_while_flows_were_refused() {
        let forget = Rewrite { row: 1, from: LIVE[1], to: Row::moving(1, 0, 100) };
        for refused in [40, 41] {
            assert_eq!(recovered(&LIVE, 7, refused, 40), [forget], "refused in {refused}");
        }
    }

    #[test]
    fn rows_remember_a_backend_when_nothing_was_refused_since_it_went_down() {
        for refused in [0, 39] {
            assert_eq!(recovered(&LIVE, 7, refused, 40), [], "refused in {refused}");
        }
    }
}
