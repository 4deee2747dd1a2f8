//! What a backend host does with what comes through a tunnel (ARCHITECTURE.md, "On a backend host"): everything around
//! the packet inside goes if that is for a VIP that was listed. Whatever else comes is the host's, untouched.

use std::net::IpAddr;

use super::checksum::keep;
use super::read::{self, ETHERNET, address4, address6, be16};
use super::{Arrival, Family, Outcome, Path, State, Trace, Verdict};

/// Where tunnels over UDP arrive, unless the operator says otherwise.
pub const GUE: u16 = 6080;
pub const VXLAN: u16 = 4789;
pub const GENEVE: u16 = 6081;

/// What is between the outer IP header and the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Nothing.
    IpInIp,
    Gre,
    /// UDP, and GUE of variant 0.
    Gue,
    /// UDP alone: GUE of variant 1.
    GueBare,
    /// UDP, VXLAN and Ethernet.
    Vxlan,
    /// UDP, Geneve and Ethernet.
    GeneveEthernet,
    /// UDP and Geneve.
    Geneve,
}

impl Kind {
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::IpInIp, "IP in IP"),
        (Self::Gre, "GRE"),
        (Self::Gue, "GUE"),
        (Self::GueBare, "GUE without a header"),
        (Self::Vxlan, "VXLAN"),
        (Self::GeneveEthernet, "Geneve with Ethernet"),
        (Self::Geneve, "Geneve"),
    ];
}

/// A packet inside another: its kind of tunnel, its family, and where its IP header starts in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    pub kind: Kind,
    pub family: Family,
    pub at: usize,
}

/// What was in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A packet for a listed VIP, which goes on without what was around it.
    Ours(Inside),
    /// A tunnelled packet for somebody else.
    Unlisted,
    /// Congestion was marked on a packet whose sender does not know ECN.
    Mismarked,
    /// A tunnel by protocol or port, but not as Sluice writes it. The kind is that of its plain form.
    Foreign(Kind),
    /// No tunnel of Sluice's.
    Other,
}

/// What becomes of a frame at a backend host that was told these VIPs.
pub fn unwrap(vips: &[IpAddr], state: &mut State, arrival: &Arrival) -> Outcome {
    let frame = &arrival.frame;
    let family = read::family(frame);
    let (content, frame) = look(vips, family, frame).unwrap_or_else(|| (Content::Other, frame.clone()));
    match content {
        Content::Ours(_) => state.unwrapped += 1,
        Content::Unlisted => state.unlisted += 1,
        Content::Mismarked | Content::Foreign(_) | Content::Other => {}
    }
    let trace = Trace { family, path: Path::Tunnelled, content: Some(content), ..Trace::default() };
    Outcome { verdict: Verdict::Pass, frame, trace }
}

/// `None` where it is no tunnel of Sluice's, or an IP header of it is not there.
fn look(vips: &[IpAddr], family: Family, frame: &[u8]) -> Option<(Content, Vec<u8>)> {
    let outer = frame.get(ETHERNET..)?;
    let (protocol, header, length) = match family {
        Family::V4 => {
            // As Sluice writes it: no options, no fragments.
            let fragment = be16(outer, 6)? & 0x3fff != 0;
            outer.get(..20).filter(|ip| ip[0] == 0x45 && !fragment)?;
            (outer[9], 20, usize::from(be16(outer, 2)?))
        }
        // Extension headers are other protocols.
        Family::V6 => (outer.get(..40)?[6], 40, 40 + usize::from(be16(outer, 4)?)),
        Family::Other => return None,
    };
    // What the outer IP header carries, and where that is in the frame.
    let (body, at) = (&outer[header..], ETHERNET + header);
    let (kind, inside) = match protocol {
        // RFC 2003, RFC 2473, RFC 4213.
        4 => (Kind::IpInIp, Some((Family::V4, 0))),
        41 => (Kind::IpInIp, Some((Family::V6, 0))),
        47 => (Kind::Gre, gre(body)),
        // RFC 768: ports, length, checksum. The last is not looked at.
        17 => {
            let agreed = header + usize::from(be16(body, 4)?) == length;
            let data = body.get(8..)?;
            let (kind, inside) = match be16(body, 2)? {
                GUE => gue(data),
                VXLAN => (Kind::Vxlan, vxlan(data)),
                GENEVE => geneve(data),
                _ => return None,
            };
            (kind, inside.filter(|_| agreed).map(|(family, at)| (family, 8 + at)))
        }
        _ => return None,
    };
    let Some((inner, offset)) = inside else { return Some((Content::Foreign(kind), frame.to_vec())) };
    let inside = Inside { kind, family: inner, at: at + offset };
    let packet = &frame[inside.at.min(frame.len())..];
    let destination = if inner == Family::V4 { address4(packet, 16)? } else { address6(packet, 24)? };
    if !vips.contains(&destination) {
        return Some((Content::Unlisted, frame.to_vec()));
    }
    let class = |family, ip: &[u8]| if family == Family::V4 { ip[1] } else { ip[0] << 4 | ip[1] >> 4 };
    let before = class(inner, packet);
    match ecn(before & 3, class(family, outer) & 3) {
        None => Some((Content::Mismarked, frame.to_vec())),
        Some(ecn) => {
            // The addresses of the outer frame, whatever an inner one has.
            let ethertype: [u8; 2] = if inner == Family::V4 { [0x08, 0x00] } else { [0x86, 0xdd] };
            let frame = [&frame[..12], &ethertype, packet].concat();
            Some((Content::Ours(inside), marked(frame, inner, before & !3 | ecn)))
        }
    }
}

/// The packet inside by the EtherType in front of it.
fn by_ethertype(ethertype: u16, at: usize) -> Option<(Family, usize)> {
    match ethertype {
        0x0800 => Some((Family::V4, at)),
        0x86dd => Some((Family::V6, at)),
        _ => None,
    }
}

/// RFC 2784 §2.1: no checksum, version 0, and no bit of RFC 2890's.
fn gre(header: &[u8]) -> Option<(Family, usize)> {
    if be16(header, 0)? != 0 {
        return None;
    }
    by_ethertype(be16(header, 2)?, 4)
}

/// draft-ietf-intarea-gue: variant (2 bits), C, header length (5 bits); protocol; flags (16 bits). Of variant 1 there is
/// the packet, whose version begins with the variant's bits.
fn gue(header: &[u8]) -> (Kind, Option<(Family, usize)>) {
    let version = header.first().map_or(0, |first| first >> 4);
    if version >> 2 == 1 {
        let inside = match version {
            4 => Some((Family::V4, 0)),
            6 => Some((Family::V6, 0)),
            _ => None,
        };
        // Any packet has four bytes.
        return (Kind::GueBare, inside.filter(|_| header.len() >= 4));
    }
    let inside = match header {
        [0, 4, 0, 0, ..] => Some((Family::V4, 4)),
        [0, 41, 0, 0, ..] => Some((Family::V6, 4)),
        _ => None,
    };
    (Kind::Gue, inside)
}

/// An inner frame, which has no tag.
fn ethernet(header: &[u8], at: usize) -> Option<(Family, usize)> {
    by_ethertype(be16(header, at + 12)?, at + 14)
}

/// RFC 7348 §5: flags (8 bits), of which one is set; reserved (24); network (24); reserved (8).
fn vxlan(header: &[u8]) -> Option<(Family, usize)> {
    if header.get(..8)?[0] != 0x08 {
        return None;
    }
    ethernet(header, 8)
}

/// RFC 8926 §3.4: version (2 bits), length of the options (6); O, C, reserved (6); protocol (16); network (24);
/// reserved (8).
fn geneve(header: &[u8]) -> (Kind, Option<(Family, usize)>) {
    let plain = header.get(..8).is_some_and(|h| h[0] == 0 && h[1] & 0xc0 == 0);
    match be16(header, 2) {
        Some(0x6558) => (Kind::GeneveEthernet, ethernet(header, 8).filter(|_| plain)),
        ethertype => (Kind::Geneve, by_ethertype(ethertype.unwrap_or(0), 8).filter(|_| plain)),
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
    use super::super::tunnel::Kind as Tunnels;
    use super::super::tunnel::tests::into_tunnel;
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
                let tunnelled = into_tunnel(Tunnels::IpInIp, &before, &packet, source, source);
                let mut state = State::default();
                let out = unwrap(&[vip.into(), vip6.into()], &mut state, &arrival(tunnelled.clone()));
                assert_eq!((out.frame, state.unwrapped), (after, 1), "traffic class {tos:#04x}");
                let out = unwrap(&[], &mut state, &arrival(tunnelled.clone()));
                assert_eq!((out.frame, state.unlisted), (tunnelled, 1));
            }
        }
    }
}
