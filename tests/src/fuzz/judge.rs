//! What the program did against what the model says it must have done.

use std::fmt;

use crate::model::checksum::{Judged, audit};
use crate::model::{Arrival, Family, Outcome, Path, Verdict};
use crate::packet::{decode, diff};
use crate::progrun;

/// In what the two disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Verdict,
    Bytes,
    /// The frame that left carries a checksum that its receiver would judge otherwise than the one that came.
    Checksum,
    Counters,
    Events,
}

/// A packet about which program and model disagree.
#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// Index of the step.
    pub step: usize,
    pub kinds: Vec<Kind>,
    /// For people, a paragraph per kind.
    pub findings: Vec<String>,
    /// What happened, packets side by side.
    pub packets: String,
}

impl Difference {
    /// None yet, at this step.
    pub fn at(step: usize) -> Self {
        Self { step, ..Self::default() }
    }

    pub fn is_some(&self) -> bool {
        !self.kinds.is_empty()
    }

    pub fn add(&mut self, kind: Kind, finding: String) {
        self.kinds.push(kind);
        self.findings.push(finding);
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        write!(f, "\n{}", self.packets)
    }
}

/// The program's verdict in the model's words. Test runs do not tell where a redirect leads; the device map does,
/// because it holds few devices in many worlds.
fn agrees(expected: Verdict, actual: progrun::Verdict) -> bool {
    matches!(
        (expected, actual),
        (Verdict::Pass, progrun::Verdict::Pass)
            | (Verdict::Drop(_), progrun::Verdict::Drop)
            | (Verdict::Transmit, progrun::Verdict::Tx)
            | (Verdict::Redirect(_), progrun::Verdict::Redirect)
    )
}

/// Compares one packet's outcomes.
pub fn judge(arrival: &Arrival, expected: &Outcome, actual: &progrun::Outcome, difference: &mut Difference) {
    let sent = matches!(actual.verdict, progrun::Verdict::Tx | progrun::Verdict::Redirect);
    if !agrees(expected.verdict, actual.verdict) {
        difference.add(Kind::Verdict, format!("verdict: expected {:?}, actual {:?}", expected.verdict, actual.verdict));
    } else if !matches!(expected.verdict, Verdict::Drop(_)) && expected.frame != actual.frame {
        // What becomes of a dropped frame's bytes is nobody's business.
        difference.add(Kind::Bytes, "bytes: the frame that left is not the one expected".to_owned());
    }
    if sent && let Some(finding) = checksums(arrival, expected, &actual.frame) {
        difference.add(Kind::Checksum, finding);
    }
}

/// A packet's way for people: where it came in, how the model decided, and the packets side by side.
pub fn describe(arrival: &Arrival, expected: &Outcome, actual: &progrun::Outcome) -> String {
    let Arrival { interface, headroom, frame } = arrival;
    let packets = match expected.verdict {
        Verdict::Drop(_) => format!("input:\n{}\n\noutput:\n{}\n", decode::text(frame), decode::text(&actual.frame)),
        _ => diff::report(frame, &expected.frame, &actual.frame),
    };
    let Outcome { verdict, trace, .. } = expected;
    format!(
        "came in by interface {interface} with {headroom} bytes of headroom\n\
         the model says {verdict:?} by {trace:?}\n\n{packets}"
    )
}

/// Every checksum of a frame that left, from zero: an outer header's must be right, each other must be as right or
/// wrong as it came.
fn checksums(arrival: &Arrival, expected: &Outcome, frame: &[u8]) -> Option<String> {
    let (came, mut left) = (audit(&arrival.frame), audit(frame));
    if expected.trace.path == Path::Ipip && expected.trace.family == Family::V4 {
        if left.first() != Some(&Judged::Ipv4(true)) {
            return Some(format!("checksums: the outer header's is wrong: {left:?}"));
        }
        left.remove(0);
    }
    (came != left).then(|| format!("checksums: came as {came:?}, left as {left:?}"))
}
