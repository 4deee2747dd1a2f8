//! When the next check is due.
//!
//! Each target has a grid of its own, one point per interval, and every check is moved off its point by a random
//! part of the interval. With another interval (a verdict is changing, or the backend is down) the grid goes on from
//! its last point, so that targets whose verdicts change together stay as far apart as they were. The traps: sleeping
//! an interval after each check drifts by what the check took; a grid begun at the same time for all targets hits the
//! network in one burst for ever; and a process that was stopped for a minute must not catch up on what it missed.
//!
//! Sans-io: `now` and the randomness are parameters.

use std::time::{Duration, Instant};

/// The first checks of all targets fall within this time (or one interval, if shorter): soon, but no burst.
pub const INITIAL_SPREAD: Duration = Duration::from_millis(200);

/// No grid is finer than this, whatever the configuration says.
const FINEST: Duration = Duration::from_millis(1);

/// One target's times.
#[derive(Clone, Debug)]
pub struct Schedule {
    interval: Duration,
    /// Fraction of the interval, 0 to 0.5.
    jitter: f64,
    /// The next point, before jitter.
    point: Instant,
}

impl Schedule {
    /// The schedule and its first check. `random` is uniform in 0..1 and places the target's grid for good: the
    /// first check comes within [`INITIAL_SPREAD`], the second half to one and a half intervals after `now`, and
    /// the grids of many targets spread evenly over the interval.
    pub fn start(interval: Duration, jitter: f64, now: Instant, random: f64) -> (Self, Instant) {
        let interval = interval.max(FINEST);
        let random = random.clamp(0.0, 1.0);
        let phase = if random < 0.5 { 1.0 + random } else { random };
        let schedule = Self { interval, jitter: jitter.clamp(0.0, 0.5), point: now + interval.mul_f64(phase) };
        (schedule, now + interval.min(INITIAL_SPREAD).mul_f64(random))
    }

    /// When to check next, asked when a check has ended. `interval` is the one that holds from the last point on,
    /// `random` is uniform in -1..1.
    ///
    /// A check that ran past the next point is followed at once, so that a timeout as long as the interval does
    /// not halve the pace; points passed by more than an interval are forgotten.
    pub fn next(&mut self, interval: Duration, now: Instant, random: f64) -> Instant {
        let interval = interval.max(FINEST);
        self.point = self.point + interval - self.interval;
        self.interval = interval;
        let late = now.saturating_duration_since(self.point);
        if late >= self.interval {
            let missed = late.as_nanos() / self.interval.as_nanos() + 1;
            self.point += self.interval.saturating_mul(u32::try_from(missed).unwrap_or(u32::MAX));
        }
        let offset = self.interval.mul_f64(self.jitter * random.clamp(-1.0, 1.0).abs());
        let due = if random < 0.0 { self.point - offset } else { self.point + offset };
        self.point += self.interval;
        due.max(now)
    }
}

/// Randomness enough for jitter: splitmix64, seeded by the standard library's random hash keys.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in -1..1.
    pub fn signed(&mut self) -> f64 {
        self.unit() * 2.0 - 1.0
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn many_targets_start_soon_and_then_spread_over_the_interval() {
        let now = Instant::now();
        let mut random = Random::new();
        let mut seconds = Vec::new();
        for _ in 0..2_000 {
            let (mut schedule, first) = Schedule::start(SECOND, 0.0, now, random.unit());
            assert!(first >= now && first <= now + INITIAL_SPREAD);
            seconds.push(schedule.next(SECOND, first, 0.0) - now);
        }
        assert!(seconds.iter().all(|d| (0.5..1.5).contains(&d.as_secs_f64())));
        for tenth in 0..10 {
            let inside = seconds.iter().filter(|d| d.subsec_millis() / 100 == tenth).count();
            assert!((120..280).contains(&inside), "{inside} of 2,000 in tenth {tenth}");
        }
    }

    #[test]
    fn a_short_interval_has_a_shorter_spread() {
        let now = Instant::now();
        let (_, first) = Schedule::start(Duration::from_millis(50), 0.1, now, 0.999);
        assert!(first < now + Duration::from_millis(50));
    }

    #[test]
    fn a_timeout_as_long_as_the_interval_does_not_halve_the_pace() {
        let start = Instant::now();
        let (mut schedule, mut now) = Schedule::start(SECOND, 0.0, start, 0.5);
        let mut checks = 0;
        while now < start + 60 * SECOND {
            checks += 1;
            now = schedule.next(SECOND, now + SECOND + Duration::from_micros(300), 0.0);
        }
        assert!((59..=61).contains(&checks), "{checks} checks in a minute");
    }

    #[test]
    fn a_stopped_process_does_not_catch_up() {
        let start = Instant::now();
        let (mut schedule, first) = Schedule::start(SECOND, 0.0, start, 0.75);
        let woken = first + Duration::from_secs(600);
        let next = schedule.next(SECOND, woken, 0.0);
        assert!(next > woken && next <= woken + SECOND, "{:?}", next - woken);
        assert_eq!(schedule.next(SECOND, next, 0.0), next + SECOND);
    }

    #[test]
    fn another_interval_counts_from_the_last_point_and_back_again() {
        let start = Instant::now();
        // The first check at 0.1 s, the grid's first point after it at 0.5 s.
        let (mut schedule, _) = Schedule::start(SECOND, 0.0, start, 0.5);
        let quick = SECOND / 10;
        let mut now = start + SECOND / 2;
        for (interval, after) in [(SECOND, SECOND), (quick, quick), (quick, quick), (5 * SECOND, 5 * SECOND)] {
            schedule.point = now + schedule.interval;
            let next = schedule.next(interval, now + SECOND / 100, 0.0);
            assert_eq!(next - now, after);
            now = next;
        }
        // A check that failed by taking longer than the short interval is followed at once.
        schedule.point = now + schedule.interval;
        assert_eq!(schedule.next(quick, now + quick * 3 / 2, 0.0), now + quick * 3 / 2);
    }

    /// All fail at the same moment: what was spread over an interval must not meet in one point.
    #[test]
    fn targets_that_change_their_pace_together_stay_apart() {
        let start = Instant::now();
        let mut random = Random::new();
        let fall = start + 10 * SECOND;
        let mut tenths = [0; 25];
        for _ in 0..10_000 {
            let (mut schedule, mut now) = Schedule::start(SECOND, 0.1, start, random.unit());
            let mut failures = 0;
            while now < fall + 5 * SECOND {
                // Three quick ones once they fail, then slow ones: as with `fall: 3`.
                failures += u32::from(now >= fall);
                let interval = match failures {
                    0 => SECOND,
                    1 | 2 => SECOND / 4,
                    _ => 2 * SECOND,
                };
                now = schedule.next(interval, now + SECOND / 1000, random.signed());
            }
            tenths[((now - fall - 5 * SECOND).as_millis() / 100) as usize] += 1;
        }
        // 1,000 in each tenth before, and so afterwards, though the interval is twice as long.
        assert!(tenths.iter().all(|n| *n < 1_300), "{tenths:?}");
    }

    proptest! {
        /// Checks that end before the next is due, whatever they take, stay on the grid for ever.
        #[test]
        fn quick_checks_never_leave_the_grid(
            millis in 10u64..10_000,
            jitter in 0.0..0.5f64,
            start_random in 0.0..1.0f64,
            checks in prop::collection::vec((-1.0..1.0f64, 0.0..0.2f64), 1..200),
        ) {
            let interval = Duration::from_millis(millis);
            let start = Instant::now();
            let (mut schedule, mut due) = Schedule::start(interval, jitter, start, start_random);
            let point = schedule.point;
            for (i, (random, took)) in checks.into_iter().enumerate() {
                let ended = due + interval.mul_f64(took);
                due = schedule.next(interval, ended, random);
                let on_grid = point + interval * i as u32;
                let off = if due > on_grid { due - on_grid } else { on_grid - due };
                // The check before may push it, by what it took past the point at most.
                let pushed = ended.saturating_duration_since(on_grid).max(Duration::from_nanos(2));
                prop_assert!(off <= interval.mul_f64(jitter).max(pushed) + Duration::from_nanos(2), "check {i} is {off:?} off");
                prop_assert!(due >= ended);
            }
        }

        /// However late things get, two checks are due at most one interval and its jitter apart, and of the
        /// points passed over none is made up for.
        #[test]
        fn lateness_never_bunches(
            jitter in 0.0..0.5f64,
            lates in prop::collection::vec((-1.0..1.0f64, 0u64..20_000), 1..100),
        ) {
            let start = Instant::now();
            let (mut schedule, mut due) = Schedule::start(SECOND, jitter, start, 0.6);
            for (i, (random, late)) in lates.into_iter().enumerate() {
                let ended = due + Duration::from_millis(late);
                due = schedule.next(SECOND, ended, random);
                prop_assert!(due >= ended);
                prop_assert!(i == 0 || due <= ended + SECOND.mul_f64(1.0 + 2.0 * jitter) + Duration::from_nanos(4), "{:?}", due - ended);
                prop_assert!(schedule.point > ended, "the next but one is behind us");
            }
        }
    }
}
