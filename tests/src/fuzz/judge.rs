//! What the program did against what the model says it must have done.

use std::fmt;

use lb_common::addr::PROTO_UDP;

use crate::model::checksum::{Judged, audit};
use crate::model::read::{ETHERNET, be16, untagged};
use crate::model::{Arrival, Family, Outcome, Verdict};
use crate::packet::checksum::sum;
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
    /// What is written down of flows.
    Flows,
    /// What services have used up of what they may write down.
    Uses,
    /// What rows say.
    Rows,
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
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
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
/// wrong as it came. An answer to the client is of Sluice's own making.
fn checksums(arrival: &Arrival, expected: &Outcome, frame: &[u8]) -> Option<String> {
    let ((came_as, _), (frame, _)) = (untagged(&arrival.frame), untagged(frame));
    if expected.trace.answered && !expected.trace.echoed {
        let left = audit(&frame);
        let right = left.iter().all(|judged| judged.is_right());
        return (!right || left.is_empty()).then(|| format!("checksums: an answer's are wrong: {left:?}"));
    }
    let came = audit(&came_as);
    let Some((_, outer)) = expected.trace.tunnel else {
        let left = audit(&frame);
        return (came != left).then(|| format!("checksums: came as {came:?}, left as {left:?}"));
    };
    let Some(length) = frame.len().checked_sub(came_as.len()).filter(|length| *length >= 20) else {
        return Some(format!("checksums: {} bytes hold no tunnel around {}", frame.len(), came_as.len()));
    };
    let (front, inner) = frame[ETHERNET..].split_at(length);
    // The reader wants a frame; the one that came has the right EtherType.
    let left = audit(&[&came_as[..ETHERNET], inner].concat());
    if came != left {
        return Some(format!("checksums: came as {came:?}, left in the tunnel as {left:?}"));
    }
    let whole = matches!(came.last(), Some(Judged::Transport(_))) && came.iter().all(|judged| judged.is_right());
    around(outer, front, inner, whole)
}

/// What is wrong with the checksums in front of a tunnelled packet, whose own are right if it is `whole`.
fn around(outer: Family, front: &[u8], inner: &[u8], whole: bool) -> Option<String> {
    let header = if outer == Family::V4 { 20 } else { 40 };
    if outer == Family::V4 && sum(&front[..header]) != 0xffff {
        return Some("checksums: the outer header's is wrong".to_owned());
    }
    let is_udp = front[if outer == Family::V4 { 9 } else { 6 }] == PROTO_UDP;
    let udp = front.get(header..).filter(|udp| is_udp && udp.len() >= 8)?;
    match (outer, be16(udp, 6)) {
        (Family::V4, sum) => (sum != Some(0)).then(|| "checksums: UDP over IPv4 has one".to_owned()),
        (_, Some(0)) => whole.then(|| "checksums: UDP over IPv6 has none".to_owned()),
        _ if whole => {
            let length = usize::from(be16(udp, 4)?);
            let segment = [udp, inner].concat();
            let pseudo = [&front[8..40], &(length as u32).to_be_bytes(), &[0, 0, 0, PROTO_UDP]].concat();
            let all = [&pseudo, segment.get(..length)?].concat();
            (sum(&all) != 0xffff).then(|| "checksums: the outer UDP header's is wrong".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::model::tunnel::{Kind as Tunnels, tests::into_tunnel};
    use crate::model::{Path, Trace};
    use crate::packet::{Mac, ethernet, ipv4, udp};

    fn frame(ttl: u8, checksum: Option<u16>) -> Vec<u8> {
        let [client, vip] = [Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 10)];
        let l4 = checksum.map_or(udp(1, 53), |sum| udp(1, 53).checksum(sum));
        (ethernet(Mac::local(1), Mac::local(2)) / ipv4(client, vip).ttl(ttl) / l4 / "query").bytes()
    }

    /// The kinds found where the model expects one thing and the program did another.
    fn kinds(expected: (Verdict, &[u8]), actual: (progrun::Verdict, &[u8])) -> Vec<Kind> {
        let arrival = Arrival { interface: 10, headroom: 216, frame: frame(64, None) };
        let trace = Trace { family: Family::V4, path: Path::Nat, ..Trace::default() };
        let expected = Outcome { verdict: expected.0, frame: expected.1.to_vec(), trace };
        let actual = progrun::Outcome { verdict: actual.0, frame: actual.1.to_vec() };
        let mut difference = Difference::at(0);
        judge(&arrival, &expected, &actual, &mut difference);
        assert!(describe(&arrival, &expected, &actual).contains("the model says"));
        difference.kinds
    }

    #[test]
    fn every_verdict_is_told_from_every_other() {
        let out = frame(63, None);
        let verdicts = [
            (Verdict::Pass, progrun::Verdict::Pass),
            (Verdict::Drop(lb_common::counters::DropReason::TooBig), progrun::Verdict::Drop),
            (Verdict::Transmit, progrun::Verdict::Tx),
            (Verdict::Redirect(20), progrun::Verdict::Redirect),
        ];
        for (i, (expected, _)) in verdicts.into_iter().enumerate() {
            for (j, (_, actual)) in verdicts.into_iter().enumerate() {
                let found = kinds((expected, &out), (actual, &out));
                assert_eq!(found.contains(&Kind::Verdict), i != j, "{expected:?} and {actual:?}: {found:?}");
            }
            assert_eq!(kinds((expected, &out), (progrun::Verdict::Aborted, &out)), [Kind::Verdict]);
        }
    }

    #[test]
    fn a_wrong_byte_matters_in_what_goes_on_and_not_in_what_is_dropped() {
        let (out, other) = (frame(63, None), [&frame(63, None)[..], &[0]].concat());
        let drop = Verdict::Drop(lb_common::counters::DropReason::TooBig);
        assert_eq!(kinds((Verdict::Pass, &out), (progrun::Verdict::Pass, &other)), [Kind::Bytes]);
        assert_eq!(kinds((Verdict::Redirect(20), &out), (progrun::Verdict::Redirect, &other)), [Kind::Bytes]);
        assert_eq!(kinds((drop, &out), (progrun::Verdict::Drop, &other)), []);
    }

    /// The audit does not take the model's word for it.
    #[test]
    fn a_checksum_that_became_wrong_or_right_is_found_even_if_the_model_expects_it() {
        for wrong in [frame(63, Some(0x1234)), frame(63, Some(0))] {
            let found = kinds((Verdict::Transmit, &wrong), (progrun::Verdict::Tx, &wrong));
            assert_eq!(found, [Kind::Checksum]);
        }
        let right = frame(63, None);
        assert_eq!(kinds((Verdict::Transmit, &right), (progrun::Verdict::Tx, &right)), []);
    }

    #[test]
    fn an_outer_header_must_be_right_whatever_is_inside() {
        let [host, vip] = [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(203, 0, 113, 10)].map(IpAddr::V4);
        let came = frame(64, Some(0x1234));
        let arrival = Arrival { interface: 10, headroom: 216, frame: came.clone() };
        let packet = crate::model::read::datagram(&came).expect("a packet with ports");
        let mut left = into_tunnel(Tunnels::IpInIp, &came, &packet, vip, host);
        let tunnel = Some((Tunnels::IpInIp, Family::V4));
        let trace = Trace { family: Family::V4, path: Path::Ipip, tunnel, ..Trace::default() };
        let expected = Outcome { verdict: Verdict::Transmit, frame: left.clone(), trace };
        assert_eq!(checksums(&arrival, &expected, &left), None);
        left[14 + 10] ^= 1;
        assert!(checksums(&arrival, &expected, &left).is_some_and(|finding| finding.contains("outer")));
    }

    #[test]
    fn udp_around_a_packet_adds_up_over_ipv6_and_has_no_checksum_over_ipv4() {
        let [host, vip] = [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(203, 0, 113, 10)].map(IpAddr::V4);
        let host6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 11));
        let came = frame(64, None);
        let packet = crate::model::read::datagram(&came).expect("a packet with ports");
        let arrival = Arrival { interface: 10, headroom: 216, frame: came.clone() };
        for kind in [Tunnels::Gue, Tunnels::GueHeader, Tunnels::Vxlan, Tunnels::Geneve] {
            for (outer, source, backend, at) in
                [(Family::V4, vip, host, 14 + 20 + 6), (Family::V6, host6, host6, 14 + 40 + 6)]
            {
                let left = into_tunnel(kind, &came, &packet, source, backend);
                let trace = Trace {
                    family: Family::V4,
                    path: Path::Encapsulated,
                    tunnel: Some((kind, outer)),
                    ..Trace::default()
                };
                let expected = Outcome { verdict: Verdict::Transmit, frame: left.clone(), trace };
                assert_eq!(checksums(&arrival, &expected, &left), None, "{kind:?}");
                let mut wrong = left.clone();
                wrong[at] ^= 1;
                assert!(checksums(&arrival, &expected, &wrong).is_some(), "{kind:?}");
                let mut none = left;
                none[at..at + 2].fill(0);
                assert_eq!(checksums(&arrival, &expected, &none).is_some(), outer == Family::V6, "{kind:?}");
            }
        }
    }
}
