//! How long checks take and how late they begin, counted in buckets that are fixed.
//!
//! One list of bounds serves both, short on purpose: it is a time series per service and bound for whoever scrapes.
//! Counts only grow while their service is there, as Prometheus wants it; a service that goes and comes back begins anew.

use std::time::Duration;

use super::state::Outcome;
use crate::api::types::Histogram;

/// Upper bounds in seconds: from what a check on the link takes to what no operator has as a timeout.
pub const BOUNDS: [f64; 8] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Times, by bucket.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Of each bound those that are no longer, and longer than the bound before; then the rest.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Times {
    pub fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum += time;
    }

    /// Cumulative, as the text format has it.
    pub fn histogram(&self) -> Histogram {
        let mut so_far = 0;
        let buckets = BOUNDS.iter().zip(&self.counts).map(|(bound, count)| {
            so_far += count;
            (*bound, so_far)
        });
        Histogram { buckets: buckets.collect(), count: self.counts.iter().sum(), sum_seconds: self.sum.as_secs_f64() }
    }
}

/// What became of a service's checks.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    /// This host could not make them.
    pub skipped: u64,
    /// How long those took that were made.
    pub took: Times,
}

impl Counts {
    pub fn add(&mut self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Passed { .. } => self.passed += 1,
            Outcome::Failed { .. } => self.failed += 1,
            // What was not made says nothing of how long one takes.
            Outcome::Skipped { .. } => {
                self.skipped += 1;
                return;
            }
        }
        self.took.add(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_its_bucket_and_in_all_above() {
        let mut times = Times::default();
        for micros in [0, 1_000, 1_001, 60_000, 9_000_000] {
            times.add(Duration::from_micros(micros));
        }
        let Histogram { buckets, count, sum_seconds } = times.histogram();
        let counts: Vec<u64> = buckets.iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, [2, 3, 3, 3, 4, 4, 4, 4]);
        assert_eq!(count, 5, "one is above all bounds");
        assert!((sum_seconds - 9.062_001).abs() < 1e-9, "{sum_seconds}");
    }

    #[test]
    fn what_could_not_be_checked_took_no_time() {
        let mut counts = Counts::default();
        counts.add(&Outcome::Skipped { reason: "too many open files".into() }, Duration::from_secs(3));
        counts.add(&Outcome::passed("connected", Duration::ZERO), Duration::from_millis(2));
        counts.add(&Outcome::Failed { reason: "connection refused".into(), latency: None }, Duration::from_millis(2));
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 1, 1));
        assert_eq!(counts.took.histogram().count, 2);
    }
}
