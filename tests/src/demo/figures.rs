//! Figures over outcomes: rates, percentiles, shares.

use std::time::{Duration, Instant};

use crate::lab::traffic::Outcome;

/// A chapter of the story.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub name: &'static str,
    pub began: Instant,
    /// `None` while it lasts.
    pub ended: Option<Instant>,
    /// Share of each backend by its weight, 0 to 1; 0 for those that are out.
    pub expected: Vec<(&'static str, f64)>,
}

impl Phase {
    /// Whether a request began in this phase.
    pub fn has(&self, outcome: &Outcome) -> bool {
        outcome.started >= self.began && self.ended.is_none_or(|end| outcome.started < end)
    }

    pub fn length(&self) -> Duration {
        self.ended.unwrap_or_else(Instant::now) - self.began
    }
}

/// Requests, failures, and how long the answered ones took.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub requests: usize,
    pub failed: usize,
    /// Sorted; successful requests only.
    latencies: Vec<Duration>,
}

impl Figures {
    pub fn of<'o>(outcomes: impl Iterator<Item = &'o Outcome>) -> Self {
        let mut figures = Self::default();
        for outcome in outcomes {
            figures.requests += 1;
            match outcome.answer {
                Ok(_) => figures.latencies.push(outcome.latency),
                Err(_) => figures.failed += 1,
            }
        }
        figures.latencies.sort_unstable();
        figures
    }

    /// The latency that this fraction of answered requests stayed below, in milliseconds; nearest rank.
    pub fn percentile_ms(&self, fraction: f64) -> f64 {
        let rank = (fraction * self.latencies.len() as f64).ceil() as usize;
        self.latencies.get(rank.saturating_sub(1)).map_or(0.0, |l| l.as_secs_f64() * 1e3)
    }
}

/// How many answers a backend gave, and how many all gave.
pub(super) fn answers<'o>(outcomes: impl Iterator<Item = &'o Outcome>, backend: &str) -> (usize, usize) {
    outcomes
        .filter_map(|o| o.answer.as_deref().ok())
        .fold((0, 0), |(its, all), name| (its + usize::from(name == backend), all + 1))
}

/// `part` of `whole`, 0 to 1.
pub(super) fn fraction((part, whole): (usize, usize)) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::traffic::Target;

    fn outcome(latency_ms: u64, answer: Result<&str, &str>) -> Outcome {
        Outcome {
            client: "client",
            target: Target::http([192, 0, 2, 1], 80),
            started: Instant::now(),
            latency: Duration::from_millis(latency_ms),
            answer: answer.map(str::to_owned).map_err(str::to_owned),
        }
    }

    #[test]
    fn percentiles_are_of_answered_requests_by_nearest_rank() {
        let mut outcomes: Vec<_> = (1..=100).rev().map(|ms| outcome(ms, Ok("b1"))).collect();
        outcomes.push(outcome(2000, Err("no answer")));
        let figures = Figures::of(outcomes.iter());
        assert_eq!((figures.requests, figures.failed), (101, 1));
        for (fraction, ms) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)] {
            assert_eq!(figures.percentile_ms(fraction), ms, "{fraction}");
        }
        assert_eq!(Figures::default().percentile_ms(0.5), 0.0);
    }

    #[test]
    fn shares_leave_failures_out() {
        let outcomes = [outcome(1, Ok("b1")), outcome(1, Ok("b2")), outcome(1, Ok("b1")), outcome(1, Err("refused"))];
        assert_eq!(answers(outcomes.iter(), "b1"), (2, 3));
        assert_eq!(fraction(answers(outcomes[3..].iter(), "b1")), 0.0);
    }
}
