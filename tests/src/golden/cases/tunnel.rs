//! IP in IP: 4in4 (RFC 2003) and 6in6 (RFC 2473). The client's packet is kept, but for the one hop that Sluice
//! is; the outer header is Sluice's own, with ToS and ECN copied (RFC 6040 §4.1) and DF set.

use lb_common::hash::HashKey;

use super::super::oracle::hash6;
use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, to_dc, to_lan};
use crate::packet::{Ipv4, Ipv6, ipv4, ipv6, tcp, udp};

/// The outer IPv4 header (RFC 2003 §3.1): DF, identification 0 as DF allows (RFC 6864 §4.1), a TTL of its own.
pub(in super::super) fn outer4(backend: u16, tos: u8) -> Ipv4 {
    ipv4(TUNNEL_SOURCE4, backend4(backend)).identification(0).dont_fragment().ttl(64).tos(tos)
}

/// The outer IPv6 header (RFC 2473 §5.1). Its flow label is the lower 20 bits of the flow's hash (RFC 6438).
pub(in super::super) fn outer6(backend: u16, class: u8, hash: u32) -> Ipv6 {
    ipv6(TUNNEL_SOURCE6, backend6(backend)).hop_limit(64).traffic_class(class).flow_label(hash & 0xf_ffff)
}

pub fn cases(key: &HashKey) -> Vec<Case> {
    let hash = |port: u16| hash6(key, (CLIENT6, 40_000), (VIP6, port));
    let mut cases = vec![
        case("4in4, TCP: the client's packet arrives whole inside")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444) / "hello")
            .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 444) / "hello")
            .forwarded(TUNNEL.id, T1),
        case("4in4, UDP: the client's packet arrives whole inside")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 444) / "hello")
            .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63) / udp(40_000, 444) / "hello")
            .forwarded(TUNNEL_UDP.id, T1),
        case("6in6, TCP: the client's packet arrives whole inside")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444) / "hello")
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / outer6(T1, 0, hash(444))
                    / ipv6(CLIENT6, VIP6).hop_limit(63)
                    / tcp(40_000, 444)
                    / "hello",
            )
            .forwarded(TUNNEL.id + ID6, T1 + V6),
        case("6in6, UDP: the client's packet arrives whole inside")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 444) / "hello")
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / outer6(T1, 0, hash(444))
                    / ipv6(CLIENT6, VIP6).hop_limit(63)
                    / udp(40_000, 444)
                    / "hello",
            )
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6),
        case("4in4: a tunnel end on the client's link is reached by XDP_TX")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 445) / "hello")
            .leaves(LAN, to_lan(ARM_MAC) / outer4(TARM, 0) / ipv4(CLIENT4, VIP4).ttl(63) / tcp(40_000, 445) / "hello")
            .forwarded(TUNNEL_ARMED.id, TARM),
        case("6in6: a tunnel end on the client's link is reached by XDP_TX")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 445) / "hello")
            .leaves(
                LAN,
                to_lan(ARM_MAC)
                    / outer6(TARM, 0, hash(445))
                    / ipv6(CLIENT6, VIP6).hop_limit(63)
                    / tcp(40_000, 445)
                    / "hello",
            )
            .forwarded(TUNNEL_ARMED.id + ID6, TARM + V6),
        case("4in4: a SYN is counted")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).dont_fragment() / tcp(40_000, 444).syn())
            .leaves(
                DC,
                to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(63).dont_fragment() / tcp(40_000, 444).syn(),
            )
            .forwarded(TUNNEL.id, T1)
            .counting(TUNNEL.id, "syns"),
        case("6in6: a SYN is counted")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444).syn())
            .leaves(
                DC,
                to_dc(B1_MAC) / outer6(T1, 0, hash(444)) / ipv6(CLIENT6, VIP6).hop_limit(63) / tcp(40_000, 444).syn(),
            )
            .forwarded(TUNNEL.id + ID6, T1 + V6)
            .counting(TUNNEL.id + ID6, "syns"),
        case("4in4: IPv4 options travel inside and do not lengthen the outer header")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).options(&[0x94, 4, 0, 0]) / tcp(40_000, 444) / "hello")
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / outer4(T1, 0)
                    / ipv4(CLIENT4, VIP4).ttl(63).options(&[0x94, 4, 0, 0])
                    / tcp(40_000, 444)
                    / "hello",
            )
            .forwarded(TUNNEL.id, T1),
        case("4in4: an inner TTL of 2 is the last that is tunnelled, and the outer one is fresh")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).ttl(2) / udp(40_000, 444))
            .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / ipv4(CLIENT4, VIP4).ttl(1) / udp(40_000, 444))
            .forwarded(TUNNEL_UDP.id, T1),
        case("6in6: an inner hop limit of 2 is the last that is tunnelled, and the outer one is fresh")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).hop_limit(2) / udp(40_000, 444))
            .leaves(DC, to_dc(B1_MAC) / outer6(T1, 0, hash(444)) / ipv6(CLIENT6, VIP6).hop_limit(1) / udp(40_000, 444))
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6),
        case("6in6: the client's flow label stays inside")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).flow_label(0x54321) / udp(40_000, 444))
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / outer6(T1, 0, hash(444))
                    / ipv6(CLIENT6, VIP6).hop_limit(63).flow_label(0x54321)
                    / udp(40_000, 444),
            )
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6),
    ];
    cases.extend(copied_bits(hash(444)));
    cases.extend(sizes(hash(9009)));
    cases
}

/// ToS and traffic class are copied whole: DSCP for the queues on the way, ECN as RFC 6040 §4.1 says.
fn copied_bits(hash: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for (what, tos) in [
        ("DSCP EF", 0xb8),
        ("ECN capable, ECT(0)", 0x02),
        ("ECN capable, ECT(1)", 0x01),
        ("congestion experienced", 0x03),
        ("all of DSCP and ECN", 0xff),
    ] {
        cases.push(
            case(format!("4in4: {what} is copied to the outer header"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).tos(tos) / udp(40_000, 444))
                .leaves(DC, to_dc(B1_MAC) / outer4(T1, tos) / ipv4(CLIENT4, VIP4).ttl(63).tos(tos) / udp(40_000, 444))
                .forwarded(TUNNEL_UDP.id, T1),
        );
        cases.push(
            case(format!("6in6: {what} is copied to the outer header"))
                .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).traffic_class(tos) / udp(40_000, 444))
                .leaves(
                    DC,
                    to_dc(B1_MAC)
                        / outer6(T1, tos, hash)
                        / ipv6(CLIENT6, VIP6).hop_limit(63).traffic_class(tos)
                        / udp(40_000, 444),
                )
                .forwarded(TUNNEL_UDP.id + ID6, T1 + V6),
        );
    }
    for df in [false, true] {
        let name = if df { "set" } else { "clear" };
        cases.push(
            case(format!("4in4: DF {name} inside stays so, and the outer header has it set"))
                .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).with(|ip| ip.dont_fragment = df) / udp(40_000, 444))
                .leaves(
                    DC,
                    to_dc(B1_MAC)
                        / outer4(T1, 0)
                        / ipv4(CLIENT4, VIP4).ttl(63).with(|ip| ip.dont_fragment = df)
                        / udp(40_000, 444),
                )
                .forwarded(TUNNEL_UDP.id, T1),
        );
    }
    cases
}

/// The largest packets that fit the next link with the outer header on. (Those one byte larger are refused.)
fn sizes(hash: u32) -> Vec<Case> {
    let data4 = vec![0x5a; NARROW_MTU - 20 - 20 - 8];
    let data6 = vec![0x5a; NARROW_MTU - 40 - 40 - 8];
    vec![
        case("4in4: a packet that fills the link's MTU together with the outer header is sent")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 9009) / data4.clone())
            .leaves(DC, to_dc(B1_MAC) / outer4(NARROW, 0) / ipv4(CLIENT4, VIP4).ttl(63) / udp(40_000, 9009) / data4)
            .forwarded(TIGHT_TUNNEL.id, NARROW),
        case("6in6: a packet that fills the link's MTU together with the outer header is sent")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9009) / data6.clone())
            .leaves(
                DC,
                to_dc(B1_MAC) / outer6(NARROW, 0, hash) / ipv6(CLIENT6, VIP6).hop_limit(63) / udp(40_000, 9009) / data6,
            )
            .forwarded(TIGHT_TUNNEL.id + ID6, NARROW + V6),
    ]
}
