//! What a run of the demo found: as text, as JSON, and held against what was promised.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice::api::types::Status;

use super::REQUESTS;
use super::figures::{Figures, Phase, answers, fraction};
use crate::lab::config::Config;
use crate::lab::traffic::Outcome;

/// Phases shorter than this are transitions: their shares prove nothing.
const STEADY: Duration = Duration::from_secs(3);

/// What happened when.
#[derive(Debug)]
pub(super) struct Moments<'r> {
    pub killed: Instant,
    /// Sluice said that the dead backend is out.
    pub out: Instant,
    /// How long that may take.
    pub limit: Duration,
    /// From when to when the rings changed for another reason: the backend's return, the edited weight.
    pub changes: &'r [(Instant, Instant)],
}

impl Moments<'_> {
    /// Whether a request was under way when rows of the rings moved. Its connection may have moved with its row: a
    /// mid-flow packet that reaches another backend is answered with a reset.
    fn spans_a_change(&self, outcome: &Outcome) -> bool {
        let ended = outcome.started + outcome.latency;
        self.changes.iter().any(|(from, to)| outcome.started <= *to && ended >= *from)
    }
}

/// A backend's share in one phase.
#[derive(Clone, Debug)]
struct Share {
    backend: &'static str,
    expected: f64,
    measured: f64,
    answers: usize,
}

impl Share {
    /// Whether chance explains the difference: four standard deviations of a draw of that size, and one point for the
    /// ring's rounding. A share of zero has to be zero.
    fn is_as_promised(&self) -> bool {
        let deviation = (self.expected * (1.0 - self.expected) / self.answers.max(1) as f64).sqrt();
        let tolerance = if self.expected == 0.0 { 0.0 } else { 0.01 + 4.0 * deviation };
        (self.measured - self.expected).abs() <= tolerance
    }
}

#[derive(Clone, Debug)]
struct Chapter {
    name: &'static str,
    length: Duration,
    figures: Figures,
    shares: Vec<Share>,
}

/// Everything the demo reports.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    all: Figures,
    by_kind: BTreeMap<&'static str, Figures>,
    by_client: BTreeMap<&'static str, Figures>,
    chapters: Vec<Chapter>,
    errors: BTreeMap<String, usize>,
    failed_before_kill: usize,
    failed_after_failover: usize,
    /// Under way while the rings changed for another reason than the failover.
    failed_with_their_row: usize,
    failover: Duration,
    failover_limit: Duration,
    /// From the kill to the start of the last request that failed.
    last_failure: Option<Duration>,
    duration: Duration,
    xdp_mode: &'static str,
    drops: BTreeMap<String, u64>,
    version: String,
    health: (u64, u32, u32),
    /// Where logs and captures are, if the run broke a promise.
    pub evidence: Option<PathBuf>,
}

impl Summary {
    pub fn new(
        outcomes: &[Outcome],
        phases: &[Phase],
        status: &Status,
        config: &Config,
        moments: &Moments<'_>,
    ) -> Self {
        let Moments { killed, out, limit, .. } = *moments;
        let group = |key: fn(&Outcome) -> &'static str| {
            let mut groups: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
            for outcome in outcomes {
                groups.entry(key(outcome)).or_default().push(outcome);
            }
            groups.into_iter().map(|(name, members)| (name, Figures::of(members.into_iter()))).collect()
        };
        let failed = || outcomes.iter().filter(|o| o.answer.is_err());
        let mut errors = BTreeMap::new();
        for outcome in failed() {
            if let Err(e) = &outcome.answer {
                *errors.entry(format!("{}: {e}", outcome.target.kind())).or_default() += 1;
            }
        }
        let mut drops = BTreeMap::new();
        for (reason, n) in status.services.iter().flat_map(|s| &s.drops) {
            *drops.entry(reason.clone()).or_default() += n;
        }
        let native = status.interfaces.iter().all(|i| i.xdp_mode == "native");
        let began = phases.first().map_or(killed, |p| p.began);
        let ended = phases.last().and_then(|p| p.ended).unwrap_or_else(Instant::now);
        Self {
            all: Figures::of(outcomes.iter()),
            by_kind: group(|o| o.target.kind()),
            by_client: group(|o| o.client),
            chapters: phases.iter().map(|phase| Chapter::new(phase, outcomes)).collect(),
            errors,
            failed_before_kill: failed().filter(|o| o.started + o.latency < killed).count(),
            failed_after_failover: failed().filter(|o| o.started >= out && !moments.spans_a_change(o)).count(),
            failed_with_their_row: failed().filter(|o| o.started >= out && moments.spans_a_change(o)).count(),
            failover: out - killed,
            failover_limit: limit,
            last_failure: failed()
                .filter(|o| !moments.spans_a_change(o))
                .map(|o| o.started.saturating_duration_since(killed))
                .max(),
            duration: ended - began,
            xdp_mode: if native { "native" } else { "generic" },
            drops,
            version: status.version.clone(),
            health: (config.interval_ms, config.rise, config.fall),
            evidence: None,
        }
    }

    /// The promises that this run broke, one sentence each.
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.all.requests < REQUESTS {
            broken.push(format!("only {} of {REQUESTS} requests were made: is this machine busy?", self.all.requests));
        }
        if self.failed_before_kill > 0 {
            broken.push(format!("{} requests failed before any backend was killed", self.failed_before_kill));
        }
        if self.failed_after_failover > 0 {
            broken.push(format!("{} requests failed after the failover", self.failed_after_failover));
        }
        if self.failover > self.failover_limit {
            broken.push(format!(
                "the failover took {} ms, longer than interval × fall + interval = {} ms",
                self.failover.as_millis(),
                self.failover_limit.as_millis()
            ));
        }
        for chapter in self.chapters.iter().filter(|c| c.length >= STEADY) {
            for share in chapter.shares.iter().filter(|s| !s.is_as_promised()) {
                broken.push(format!(
                    "{}: {} answered {:.1} % of requests, its weight promises {:.1} %",
                    chapter.name,
                    share.backend,
                    share.measured * 100.0,
                    share.expected * 100.0
                ));
            }
        }
        if let Some(kept) = &self.evidence {
            broken.push(format!("logs, configuration and packet captures are in {}", kept.display()));
        }
        broken
    }

    /// How many requests failed, and when.
    fn failed(&self) -> String {
        let mut text = match (self.all.failed, self.failed_before_kill + self.failed_after_failover) {
            (0, _) => "none failed".to_owned(),
            (all, 0) => format!("{all} failed, none before the kill, none after the failover"),
            (all, other) => format!("{all} failed, {other} of them before the kill or after the failover"),
        };
        if self.failed_with_their_row > 0 {
            text += &format!(
                "\n  {} of them were under way when the backend returned or the weight changed, and moved with their row",
                self.failed_with_their_row
            );
        }
        text
    }

    /// For people.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::from("\nSummary\n");
        let _ = writeln!(
            text,
            "  {} requests in {:.0} s from {} clients, each a new flow; {}",
            self.all.requests,
            self.duration.as_secs_f64(),
            self.by_client.len(),
            self.failed()
        );
        let _ = writeln!(
            text,
            "  failover {} ms (limit {} ms: a check every {} ms, {} failures in a row, and one interval)",
            self.failover.as_millis(),
            self.failover_limit.as_millis(),
            self.health.0,
            self.health.2
        );
        for (kind, figures) in &self.by_kind {
            let _ = writeln!(
                text,
                "  {kind:<10} {:>6} requests, {:>3} failed   p50 {:.2} ms   p99 {:.2} ms",
                figures.requests,
                figures.failed,
                figures.percentile_ms(0.5),
                figures.percentile_ms(0.99)
            );
        }
        let _ = writeln!(text, "  share of answers, measured (promised by weight):");
        for chapter in self.chapters.iter().filter(|c| c.length >= STEADY) {
            let _ = write!(text, "    {:<22}", chapter.name);
            for share in &chapter.shares {
                let (measured, expected) = (share.measured * 100.0, share.expected * 100.0);
                let _ = write!(text, "   {} {measured:4.1} % ({expected:4.1})", share.backend);
            }
            text.push('\n');
        }
        for (error, count) in &self.errors {
            let _ = writeln!(text, "  {count:>4} × {error}");
        }
        let _ = write!(text, "  XDP {} mode; the lab is removed", self.xdp_mode);
        text
    }

    /// For programs: one line.
    pub fn json(&self) -> Value {
        let shares = |chapter: &Chapter| -> Value {
            let of = |s: &Share| json!({ "expected": round(s.expected), "measured": round(s.measured) });
            chapter.shares.iter().map(|s| (s.backend.to_owned(), of(s))).collect::<serde_json::Map<_, _>>().into()
        };
        let figures = |f: &Figures| {
            json!({
                "requests": f.requests,
                "failed": f.failed,
                "latency_ms": {
                    "p50": round(f.percentile_ms(0.5)),
                    "p90": round(f.percentile_ms(0.9)),
                    "p99": round(f.percentile_ms(0.99)),
                    "max": round(f.percentile_ms(1.0)),
                },
            })
        };
        let group = |groups: &BTreeMap<&'static str, Figures>| -> Value {
            groups.iter().map(|(name, f)| ((*name).to_owned(), figures(f))).collect::<serde_json::Map<_, _>>().into()
        };
        let (interval_ms, rise, fall) = self.health;
        json!({
            "requests": self.all.requests,
            "failed": self.all.failed,
            "failed_before_kill": self.failed_before_kill,
            "failed_after_failover": self.failed_after_failover,
            "failed_in_ring_changes": self.failed_with_their_row,
            "failover_ms": self.failover.as_millis() as u64,
            "failover_limit_ms": self.failover_limit.as_millis() as u64,
            "last_failure_ms": self.last_failure.map(|d| d.as_millis() as u64),
            "health": { "interval_ms": interval_ms, "rise": rise, "fall": fall },
            "share": self.chapters.first().map(shares),
            "xdp_mode": self.xdp_mode,
            "latency_ms": figures(&self.all)["latency_ms"],
            "by_kind": group(&self.by_kind),
            "by_client": group(&self.by_client),
            "phases": self.chapters.iter().map(|c| json!({
                "name": c.name,
                "seconds": round(c.length.as_secs_f64()),
                "requests": c.figures.requests,
                "failed": c.figures.failed,
                "share": shares(c),
            })).collect::<Vec<_>>(),
            "errors": self.errors,
            "drops": self.drops,
            "duration_seconds": round(self.duration.as_secs_f64()),
            "version": self.version,
            "broken_promises": self.broken_promises(),
        })
    }
}

impl Chapter {
    fn new(phase: &Phase, outcomes: &[Outcome]) -> Self {
        let members = || outcomes.iter().filter(|o| phase.has(o));
        let share = |&(backend, expected): &(&'static str, f64)| {
            let counted = answers(members(), backend);
            Share { backend, expected, measured: fraction(counted), answers: counted.1 }
        };
        Self {
            name: phase.name,
            length: phase.length(),
            figures: Figures::of(members()),
            shares: phase.expected.iter().map(share).collect(),
        }
    }
}

/// Three decimals are more than any of this is good for.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_spans_a_change_of_the_rings_is_told_from_one_that_does_not() {
        let from = Instant::now();
        let ms = Duration::from_millis;
        let moments = Moments { killed: from, out: from, limit: ms(600), changes: &[(from + ms(100), from + ms(200))] };
        for (started, took, spans) in
            [(0, 99, false), (0, 100, true), (150, 1, true), (200, 500, true), (201, 500, false), (50, 500, true)]
        {
            let outcome = Outcome {
                client: "client",
                target: crate::lab::traffic::Target::http([192, 0, 2, 1], 80),
                started: from + ms(started),
                latency: ms(took),
                answer: Err("reset".to_owned()),
            };
            assert_eq!(moments.spans_a_change(&outcome), spans, "{started} + {took} ms");
        }
    }

    #[test]
    fn a_share_may_miss_its_weight_by_chance_only_and_zero_not_at_all() {
        for (expected, measured, answers, as_promised) in [
            (0.25, 0.25, 2700, true),
            (0.25, 0.285, 2700, true),
            (0.25, 0.30, 2700, false),
            (0.25, 0.20, 2700, false),
            (0.5, 0.34, 2700, false),
            (0.909, 0.5, 2700, false),
            (0.0, 0.0, 1000, true),
            (0.0, 0.001, 1000, false),
        ] {
            let share = Share { backend: "b1", expected, measured, answers };
            assert_eq!(share.is_as_promised(), as_promised, "{share:?}");
        }
    }
}
