//! What a backend host does with what comes through a tunnel (ARCHITECTURE.md, "On a backend host"): the outer header
//! goes if the packet inside is for a VIP that was listed. Whatever else comes is the host's, untouched.

use std::net::IpAddr;

use super::checksum::keep;
use super::read::{self, ETHERNET, address4, address6, be16};
use super::{Arrival, Family, Outcome, Path, State, Trace, Verdict};

/// What was in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A packet for a listed VIP, which goes on without its outer header.
    Ours,
    /// A tunnelled packet for somebody else.
    Unlisted,
    /// Congestion was marked on a packet whose sender does not know ECN.
    Mismarked,
    /// No tunnel of Sluice's.
    Other,
}

/// What becomes of a frame at a backend host that was told these VIPs.
pub fn unwrap(vips: &[IpAddr], state: &mut State, arrival: &Arrival) -> Outcome {
    let frame = &arrival.frame;
    let family = read::family(frame);
    let (content, frame) = look(vips, family, frame).unwrap_or_else(|| (Content::Other, frame.clone()));
    match content {
        Content::Ours => state.unwrapped += 1,
        Content::Unlisted => state.unlisted += 1,
        Content::Mismarked | Content::Other => {}
    }
    let trace = Trace { family, path: Path::Tunnelled, content: Some(content), ..Trace::default() };
    Outcome { verdict: Verdict::Pass, frame, trace }
}

/// `None` where it is no tunnel of Sluice's, or a header of it is not there.
fn look(vips: &[IpAddr], family: Family, frame: &[u8]) -> Option<(Content, Vec<u8>)> {
    let outer = frame.get(ETHERNET..)?;
    let (length, destination) = match family {
        Family::V4 => {
            // IPv4 in IPv4 (RFC 2003), as Sluice writes it: no options, no fragments.
            let fragment = be16(outer, 6)? & 0x3fff != 0;
            if outer[0] != 0x45 || *outer.get(9)? != 4 || fragment {
                return None;
            }
            (20, address4(outer, 20 + 16)?)
        }
        Family::V6 => {
            // IPv6 in IPv6 (RFC 2473), without extension headers.
            if *outer.get(6)? != 41 {
                return None;
            }
            (40, address6(outer, 40 + 24)?)
        }
        Family::Other => return None,
    };
    if !vips.contains(&destination) {
        return Some((Content::Unlisted, frame.to_vec()));
    }
    let inner = [&frame[..ETHERNET], &frame[ETHERNET + length..]].concat();
    let class = |packet: &[u8]| if family == Family::V4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let before = class(&inner[ETHERNET..]);
    match ecn(before & 3, class(outer) & 3) {
        None => Some((Content::Mismarked, frame.to_vec())),
        Some(ecn) => Some((Content::Ours, marked(inner, family, before & !3 | ecn))),
    }
}

/// RFC 6040 §4.2, figure 4: the ECN field that goes on, by that of the inner and of the outer header. Where the
/// figure drops the packet, it is left to the host.
fn ecn(inner: u8, outer: u8) -> Option<u8> {
    // Not ECN capable, ECT(1), ECT(0), congestion experienced: columns and rows in the order of their numbers.
    const FIGURE: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(0), Some(0), None],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(2), Some(1), Some(2), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    FIGURE[usize::from(inner)][usize::from(outer)]
}

/// The frame with another ToS or traffic class, and an IPv4 header checksum as right or wrong as before.
fn marked(frame: Vec<u8>, family: Family, class: u8) -> Vec<u8> {
    let mut out = frame.clone();
    match family {
        Family::V4 => out[ETHERNET + 1] = class,
        _ => {
            out[ETHERNET] = out[ETHERNET] & 0xf0 | class >> 4;
            out[ETHERNET + 1] = class << 4 | out[ETHERNET + 1] & 0x0f;
        }
    }
    if family == Family::V4 && out != frame {
        // Options, if there are any, are the same in both sums.
        keep(&frame, &mut out, ETHERNET..ETHERNET + 20, ETHERNET + 10);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::super::read::datagram;
    use super::super::rewrite::encapsulate;
    use super::*;
    use crate::packet::{Mac, ethernet, ipv4, ipv6, tcp};

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 11));

    fn arrival(frame: Vec<u8>) -> Arrival {
        Arrival { interface: 10, headroom: 216, frame }
    }

    #[test]
    fn what_was_put_into_a_tunnel_comes_out_one_hop_later() {
        let (client, vip) = (Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(203, 0, 113, 10));
        let (client6, vip6) = (Ipv6Addr::LOCALHOST, Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, 0x10));
        let link = || ethernet(Mac::local(1), Mac::local(2));
        for tos in [0, 1, 2, 3, 0xb8, 0xff] {
            let before = link() / ipv4(client, vip).tos(tos) / tcp(40_000, 443) / "hello";
            let after = link() / ipv4(client, vip).tos(tos).ttl(63) / tcp(40_000, 443) / "hello";
            let before6 = link() / ipv6(client6, vip6).traffic_class(tos) / tcp(40_000, 443) / "hello";
            let after6 = link() / ipv6(client6, vip6).traffic_class(tos).hop_limit(63) / tcp(40_000, 443) / "hello";
            for (before, after, source) in [(before, after, HOST), (before6, after6, vip6.into())] {
                let (before, after) = (before.bytes(), after.bytes());
                let packet = datagram(&before).expect("a packet with ports");
                let tunnelled = encapsulate(&before, &packet, source, source, 0x1234_5678);
                let mut state = State::default();
                let out = unwrap(&[vip.into(), vip6.into()], &mut state, &arrival(tunnelled.clone()));
                assert_eq!((out.frame, state.unwrapped), (after, 1), "traffic class {tos:#04x}");
                let out = unwrap(&[], &mut state, &arrival(tunnelled.clone()));
                assert_eq!((out.frame, state.unlisted), (tunnelled, 1));
            }
        }
    }
}
