//! When rings may change: what comes within `node.min_ring_interval` of a change waits, and is applied together.
//!
//! Each change of a ring makes rows move, and their flows are looked up and written down for as long as a timeout. Ten
//! backends that come up within a second are one change for their flows, not ten. The trap is to make a death wait: a
//! backend that is down loses packets until its rows are somebody else's.

use std::time::{Duration, Instant};

/// When rings changed last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    last: Option<Instant>,
}

impl Turns {
    /// Rows have got other owners.
    pub fn taken(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// When a change that can wait may be made; `None` for at once.
    pub fn wait(&self, interval: Duration, now: Instant) -> Option<Instant> {
        self.last.map(|last| last + interval).filter(|next| *next > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_for_the_rest_of_the_interval_after_the_last_one() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut turns = Turns::default();
        assert_eq!(turns.wait(ms(1_000), now), None, "nothing has changed yet");
        turns.taken(now);
        assert_eq!(turns.wait(ms(1_000), now + ms(300)), Some(now + ms(1_000)));
        assert_eq!(turns.wait(ms(1_000), now + ms(1_000)), None);
        assert_eq!(turns.wait(ms(0), now), None);
        turns.taken(now + ms(400));
        assert_eq!(turns.wait(ms(1_000), now + ms(1_000)), Some(now + ms(1_400)));
    }
}
