//! From results to a verdict: rise and fall, counted consecutively.
//!
//! Sans-io: results and `now` come in, a change of verdict comes out. The very first result decides alone, so
//! that a start does not wait `rise` or `fall` intervals to learn what one check can tell; from then on it takes
//! `rise` successes or `fall` failures in a row, and any result to the contrary starts the count again.

use std::time::{Duration, Instant};

use crate::api::types::Health;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `reason` is what it saw ("status 200"), `latency` how long the whole check took, `warning` what will make it
    /// fail one day.
    Passed { reason: String, latency: Duration, warning: Option<String> },
    /// `latency` is `None` when the backend never answered.
    Failed { reason: String, latency: Option<Duration> },
    /// This host could not check; nothing is known of the backend.
    Skipped { reason: String },
}

impl Outcome {
    pub fn passed(reason: impl Into<String>, latency: Duration) -> Self {
        Self::Passed { reason: reason.into(), latency, warning: None }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Passed { reason, .. } | Self::Failed { reason, .. } | Self::Skipped { reason } => reason,
        }
    }

    /// The same outcome in other words.
    pub fn map_reason(self, words: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Passed { reason, latency, warning } => Self::Passed { reason: words(reason), latency, warning },
            Self::Failed { reason, latency } => Self::Failed { reason: words(reason), latency },
            Self::Skipped { reason } => Self::Skipped { reason: words(reason) },
        }
    }

    pub fn latency(&self) -> Option<Duration> {
        match self {
            Self::Passed { latency, .. } => Some(*latency),
            Self::Failed { latency, .. } => *latency,
            Self::Skipped { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No result yet.
    Checking,
    Up,
    Down,
}

impl From<Verdict> for Health {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Checking => Self::Checking,
            Verdict::Up => Self::Up,
            Verdict::Down => Self::Down,
        }
    }
}

/// What a target's next check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// To see that it is still up, or to get a first result.
    Steady,
    /// The last result contradicts the verdict: to confirm it or not.
    Changing,
    /// To see it come back.
    Down,
}

/// The verdict changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: Verdict,
    pub up: bool,
    /// Of the check that decided.
    pub reason: String,
    pub latency: Option<Duration>,
    /// What the last check saw that failed, this one or an earlier one.
    pub last_error: Option<String>,
    pub at: Instant,
}

/// One backend's health.
#[derive(Clone, Debug)]
pub struct Machine {
    rise: u32,
    fall: u32,
    verdict: Verdict,
    /// Results in a row that contradict the verdict.
    contrary: u32,
    since: Instant,
    checked: Option<Instant>,
    last: Option<Outcome>,
    last_error: Option<String>,
    latency: Option<Duration>,
    /// How often the verdict changed.
    changes: u64,
}

impl Machine {
    /// `rise` and `fall` of 0 count as 1.
    pub fn new(rise: u32, fall: u32, now: Instant) -> Self {
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            verdict: Verdict::Checking,
            contrary: 0,
            since: now,
            checked: None,
            last: None,
            last_error: None,
            latency: None,
            changes: 0,
        }
    }

    /// As [`Self::new`], with a verdict from before a restart: it stands until results in a row contradict it.
    pub fn assumed(rise: u32, fall: u32, up: bool, now: Instant) -> Self {
        let verdict = if up { Verdict::Up } else { Verdict::Down };
        Self { verdict, ..Self::new(rise, fall, now) }
    }

    /// The check itself changed: the verdict stands until the new check decides, and the count starts again.
    pub fn check_changed(&mut self, rise: u32, fall: u32) {
        self.rise = rise.max(1);
        self.fall = fall.max(1);
        self.contrary = 0;
    }

    /// Takes one result; says whether the verdict changed.
    pub fn observe(&mut self, outcome: Outcome, now: Instant) -> Option<Change> {
        let (passed, threshold) = match outcome {
            Outcome::Skipped { .. } => {
                self.last = Some(outcome);
                return None;
            }
            Outcome::Passed { latency, .. } => {
                self.latency = Some(latency);
                (true, self.rise)
            }
            Outcome::Failed { ref reason, .. } => {
                self.last_error = Some(reason.clone());
                (false, self.fall)
            }
        };
        self.checked = Some(now);
        let verdict = if passed { Verdict::Up } else { Verdict::Down };
        self.contrary = if verdict == self.verdict { 0 } else { self.contrary + 1 };
        let decides = self.contrary >= threshold || self.verdict == Verdict::Checking;
        let change = (verdict != self.verdict && decides).then(|| {
            let from = std::mem::replace(&mut self.verdict, verdict);
            self.contrary = 0;
            self.since = now;
            self.changes += 1;
            Change {
                from,
                up: passed,
                reason: outcome.reason().to_owned(),
                latency: outcome.latency(),
                last_error: self.last_error.clone(),
                at: now,
            }
        });
        self.last = Some(outcome);
        change
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// How soon to look again.
    pub fn pace(&self) -> Pace {
        match self.verdict {
            _ if self.contrary > 0 => Pace::Changing,
            Verdict::Down => Pace::Down,
            Verdict::Checking | Verdict::Up => Pace::Steady,
        }
    }

    /// When the verdict was reached; before the first result, when checking began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// When the last result came.
    pub fn checked(&self) -> Option<Instant> {
        self.checked
    }

    /// How long the last successful check took.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// What the last check saw that failed.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// How often the verdict changed; the first one counts.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What the last successful check saw coming; nothing while the last one failed, which has worse to say.
    pub fn warning(&self) -> Option<&str> {
        match &self.last {
            Some(Outcome::Passed { warning, .. }) => warning.as_deref(),
            _ => None,
        }
    }

    /// The last check's outcome in words, and how far it got where it contradicts the verdict.
    pub fn reason(&self) -> Option<String> {
        let last = self.last.as_ref()?;
        let (against, direction) = match (last, self.verdict) {
            (Outcome::Skipped { reason }, _) => return Some(format!("not checked: {reason}")),
            (Outcome::Failed { .. }, Verdict::Up) => (self.fall, "down"),
            (Outcome::Passed { .. }, Verdict::Down) => (self.rise, "up"),
            _ => return Some(last.reason().to_owned()),
        };
        Some(format!("{} ({} of {against} before it counts as {direction})", last.reason(), self.contrary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passed() -> Outcome {
        Outcome::passed("status 200", Duration::from_millis(3))
    }

    fn failed() -> Outcome {
        Outcome::Failed { reason: "connection refused".into(), latency: None }
    }

    fn skipped() -> Outcome {
        Outcome::Skipped { reason: "too many open files".into() }
    }

    fn at(start: Instant, seconds: usize) -> Instant {
        start + Duration::from_secs(seconds as u64)
    }

    #[test]
    fn the_first_result_decides_alone() {
        for (outcome, up) in [(passed(), true), (failed(), false)] {
            let start = Instant::now();
            let mut machine = Machine::new(5, 5, start);
            let change = machine.observe(outcome.clone(), at(start, 1)).expect("a verdict");
            let expected = Change {
                from: Verdict::Checking,
                up,
                reason: outcome.reason().into(),
                latency: outcome.latency(),
                last_error: (!up).then(|| outcome.reason().into()),
                at: at(start, 1),
            };
            assert_eq!(change, expected);
            assert_eq!(machine.since(), at(start, 1));
        }
    }

    #[test]
    fn an_assumed_verdict_takes_as_many_results_to_change_as_a_reached_one() {
        let now = Instant::now();
        for (up, contrary, agreeing) in [(true, failed(), passed()), (false, passed(), failed())] {
            let mut machine = Machine::assumed(2, 2, up, now);
            assert_eq!(machine.verdict() == Verdict::Up, up);
            for outcome in [agreeing.clone(), contrary.clone(), agreeing, contrary.clone()] {
                assert_eq!(machine.observe(outcome, now), None);
            }
            assert_eq!(machine.observe(contrary, now).map(|c| c.up), Some(!up));
        }
    }

    #[test]
    fn the_reason_says_how_far_a_contrary_streak_got() {
        let now = Instant::now();
        let mut machine = Machine::new(2, 3, now);
        assert_eq!(machine.reason(), None);
        machine.observe(passed(), now);
        assert_eq!(machine.reason().unwrap(), "status 200");
        machine.observe(failed(), now);
        machine.observe(failed(), now);
        assert_eq!(machine.reason().unwrap(), "connection refused (2 of 3 before it counts as down)");
        machine.observe(failed(), now);
        assert_eq!(machine.reason().unwrap(), "connection refused");
        machine.observe(passed(), now);
        assert_eq!(machine.reason().unwrap(), "status 200 (1 of 2 before it counts as up)");
        machine.observe(skipped(), now);
        assert_eq!(machine.reason().unwrap(), "not checked: too many open files");
    }

    #[test]
    fn a_change_tells_where_it_came_from_and_what_went_wrong_last() {
        let now = Instant::now();
        let mut machine = Machine::new(1, 2, now);
        machine.observe(passed(), now);
        assert_eq!((machine.changes(), machine.last_error()), (1, None));
        machine.observe(failed(), now);
        assert_eq!((machine.changes(), machine.last_error()), (1, Some("connection refused")));
        let down = machine.observe(failed(), now).expect("two in a row");
        assert_eq!((down.from, down.up), (Verdict::Up, false));
        let up = machine.observe(passed(), now).expect("one is enough");
        assert_eq!((up.from, up.reason.as_str()), (Verdict::Down, "status 200"));
        assert_eq!(up.last_error.as_deref(), Some("connection refused"), "what kept it down until now");
        assert_eq!(machine.changes(), 3);
    }

    #[test]
    fn a_check_that_changed_keeps_the_verdict_and_starts_the_count_again() {
        let now = Instant::now();
        let mut machine = Machine::new(1, 3, now);
        machine.observe(passed(), now);
        machine.observe(failed(), now);
        machine.observe(failed(), now);
        machine.check_changed(1, 2);
        assert_eq!(machine.verdict(), Verdict::Up);
        assert_eq!(machine.observe(failed(), now), None);
        assert!(!machine.observe(failed(), now).expect("two failures of the new check").up);
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Passed,
        Failed,
        Skipped,
    }

    /// The verdict from the whole history, with no counter to get wrong: the last `n` results all say so.
    fn from_history(history: &[Kind], rise: usize, fall: usize) -> Verdict {
        let results: Vec<Kind> = history.iter().copied().filter(|&k| k != Kind::Skipped).collect();
        let mut verdict = Verdict::Checking;
        for end in 1..=results.len() {
            let all_last = |n: usize, kind| end >= n && results[end - n..end].iter().all(|&k| k == kind);
            verdict = match verdict {
                Verdict::Checking if results[0] == Kind::Passed => Verdict::Up,
                Verdict::Checking => Verdict::Down,
                Verdict::Up if all_last(fall, Kind::Failed) => Verdict::Down,
                Verdict::Down if all_last(rise, Kind::Passed) => Verdict::Up,
                stays => stays,
            };
        }
        verdict
    }

    proptest! {
        #[test]
        fn any_sequence_gives_the_verdict_of_its_history(
            rise in 1u32..5,
            fall in 1u32..5,
            history in prop::collection::vec(prop_oneof![4 => Just(Kind::Passed), 4 => Just(Kind::Failed), 1 => Just(Kind::Skipped)], 0..80),
        ) {
            let start = Instant::now();
            let mut machine = Machine::new(rise, fall, start);
            let mut before = Verdict::Checking;
            let mut since = start;
            for (i, kind) in history.iter().enumerate() {
                let outcome = match kind { Kind::Passed => passed(), Kind::Failed => failed(), Kind::Skipped => skipped() };
                let change = machine.observe(outcome, at(start, i));
                let expected = from_history(&history[..=i], rise as usize, fall as usize);
                prop_assert_eq!(machine.verdict(), expected, "after {:?}", &history[..=i]);
                // The pace too follows from history alone: from the last result, and from what it means now.
                let last = history[..=i].iter().rfind(|&&k| k != Kind::Skipped);
                let pace = match (expected, last) {
                    (Verdict::Up, Some(Kind::Failed)) | (Verdict::Down, Some(Kind::Passed)) => Pace::Changing,
                    (Verdict::Down, _) => Pace::Down,
                    _ => Pace::Steady,
                };
                prop_assert_eq!(machine.pace(), pace, "after {:?}", &history[..=i]);
                // A change is told exactly when there is one, in the right direction.
                prop_assert_eq!(change.as_ref().map(|c| c.up), (expected != before).then_some(expected == Verdict::Up));
                if change.is_some() { since = at(start, i); }
                prop_assert_eq!(machine.since(), since);
                before = expected;
            }
        }
    }
}
