//! Fragments. Only the first of a packet has ports: it goes where a whole packet would, and the rest go after it. One that
//! comes before its first, or without, is nobody's.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::counters::DropReason;
use lb_common::hash::HashKey;

use super::super::oracle::hash6;
use super::super::world::*;
use super::super::{Case, Sweep, case};
use super::{from_router, outer4, outer6, to_dc, to_lan};
use crate::packet::checksum::sum;
use crate::packet::{Extension, Ipv4, Ipv6, Layer, Packet, ethernet, ipv4, ipv6, raw, tcp, udp};

/// What all fragments of these tests' packets have in common.
const ID: u16 = 0x4321;
const LONG_ID: u32 = 0x8765_4321;

/// Bytes that look like ports 40000 → 53, where a later fragment has payload.
const LIKE_PORTS: [u8; 16] = [0x9c, 0x40, 0x00, 0x35, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

fn part4(source: Ipv4Addr, destination: Ipv4Addr, offset: u16, more: bool) -> Ipv4 {
    ipv4(source, destination).identification(ID).fragment(offset, more).protocol(17)
}

fn part6(source: Ipv6Addr, destination: Ipv6Addr, offset: u16, more: bool) -> Ipv6 {
    let fragment = Extension::Fragment { offset, more, identification: LONG_ID };
    ipv6(source, destination).extension(fragment).next_header(17)
}

/// The first 1,448 bytes of a longer datagram: its header, and the checksum its sender had found.
fn head(source: u16, destination: u16, checksum: u16) -> Packet {
    udp(source, destination).length(1472).checksum(checksum) / vec![1; 1440]
}

/// Payload of a later fragment.
fn rest() -> Layer {
    raw([7; 16])
}

/// The checksum of a datagram of which one end has become another, address and port.
fn translated(checksum: u16, from: (&[u8], u16), to: (&[u8], u16)) -> u16 {
    let number = |(address, port): (&[u8], u16)| u32::from(sum(&[address, &port.to_be_bytes()].concat())) % 0xffff;
    match (u32::from(checksum) + number(from) + 0xffff - number(to)) % 0xffff {
        0 => 0xffff,
        checksum => checksum as u16,
    }
}

pub fn cases() -> Vec<Case> {
    let atomic = || Extension::Fragment { offset: 0, more: false, identification: 7 };
    let mut cases = vec![
        case("the first fragment of somebody else's datagram passes").enters(LAN, {
            from_router() / ipv4(CLIENT4, VIP4).fragment(0, true) / udp(40_000, 4500).checksum(0x1234) / vec![1; 1448]
        }),
        case("a first fragment too small for a TCP header (RFC 3128) is truncated")
            .enters(
                LAN,
                from_router()
                    / ipv4(CLIENT4, VIP4).fragment(0, true).protocol(6)
                    / raw([0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1]),
            )
            .dropped(WEB.id, DropReason::Truncated),
        case("an IPv6 atomic fragment (RFC 6946) is a whole packet")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6).extension(atomic()) / udp(40_000, 53) / "query")
            .leaves(DC, {
                let ip = ipv6(CLIENT6, backend6(B1)).hop_limit(63).extension(atomic());
                to_dc(B1_MAC) / ip / udp(40_000, 53) / "query"
            })
            .forwarded(DNS.id + ID6, B1 + V6),
        nobodys("a later IPv6 fragment without a first one passes, whatever its payload looks like", {
            let fragment = Extension::Fragment { offset: 1432, more: false, identification: 7 };
            from_router() / ipv6(CLIENT6, VIP6).extension(fragment).next_header(17) / raw(LIKE_PORTS)
        }),
        case("a later fragment of neither TCP nor UDP is not looked for")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 1480, false).protocol(47) / raw(LIKE_PORTS)),
    ];
    for (name, offset, more) in
        [("a middle", 1480, true), ("the last", 2960, false), ("the second, at 8 bytes,", 8, true)]
    {
        cases.push(nobodys(
            &format!("{name} fragment without a first one passes, whatever its payload looks like"),
            from_router() / ipv4(CLIENT4, VIP4).fragment(offset, more).protocol(17) / raw(LIKE_PORTS),
        ));
    }
    for bit in 0..13 {
        cases.push(nobodys(
            &format!("a later fragment is told by bit {bit} of its offset alone"),
            from_router() / ipv4(CLIENT4, VIP4).fragment(8 << bit, false).protocol(17) / raw(LIKE_PORTS),
        ));
    }
    cases
}

/// A later fragment that the host gets.
fn nobodys(name: &str, packet: Packet) -> Case {
    case(name).enters(LAN, packet).counting(0, "fragments")
}

/// What must become of fragments that come one after the other.
pub fn sweeps(key: &HashKey) -> Vec<Sweep> {
    vec![
        Sweep {
            name: "fragments of a datagram go where the first one goes, in any order after it".into(),
            cases: datagram4(),
        },
        Sweep {
            name: "IPv6 fragments of a datagram go where the first one goes, in any order after it".into(),
            cases: datagram6(),
        },
        Sweep { name: "fragments of a backend's reply are translated back".into(), cases: reply4() },
        Sweep { name: "IPv6 fragments of a backend's reply are translated back".into(), cases: reply6() },
        Sweep { name: "fragments of a TCP segment go where the first one goes".into(), cases: segment4() },
        Sweep { name: "fragments go into the same tunnel".into(), cases: tunnel4() },
        Sweep { name: "IPv6 fragments go into the same tunnel".into(), cases: tunnel6(key) },
    ]
}

fn datagram4() -> Vec<Case> {
    let sum = translated(0x1234, (&VIP4.octets(), 53), (&backend4(B1).octets(), 53));
    let follows = |name: &str, offset, more| {
        case(name)
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, offset, more) / rest())
            .leaves(DC, to_dc(B1_MAC) / part4(CLIENT4, backend4(B1), offset, more).ttl(63) / rest())
            .forwarded(DNS.id, B1)
            .counting(DNS.id, "fragments")
    };
    let stranger = |name: &str, ip: Ipv4| nobodys(name, from_router() / ip / rest());
    vec![
        case("the first fragment is translated like a whole packet")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 0, true) / head(40_000, 53, 0x1234))
            .leaves(DC, to_dc(B1_MAC) / part4(CLIENT4, backend4(B1), 0, true).ttl(63) / head(40_000, 53, sum))
            .forwarded(DNS.id, B1),
        follows("the last comes before the middle", 2912, false),
        follows("and is followed", 1456, true),
        follows("one that is sent again goes there again", 1456, true),
        stranger(
            "another packet of the client's is another one",
            part4(CLIENT4, VIP4, 1456, false).identification(ID + 1),
        ),
        stranger("the same identification by TCP is another packet", part4(CLIENT4, VIP4, 1456, false).protocol(6)),
        stranger("another client's is another packet", part4(SPECIFIC_CLIENT4, VIP4, 1456, false)),
        case("a hop is taken from later ones, too")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 1456, true).ttl(1) / rest())
            .dropped(DNS.id, DropReason::TtlExceeded),
        case("a later fragment that lies about its length is truncated")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 1456, true).total_length(1000) / rest())
            .dropped(DNS.id, DropReason::Truncated),
    ]
}

fn datagram6() -> Vec<Case> {
    let sum = translated(0x1234, (&VIP6.octets(), 53), (&backend6(B1).octets(), 53));
    let follows = |name: &str, offset, more| {
        case(name)
            .enters(LAN, from_router() / part6(CLIENT6, VIP6, offset, more) / rest())
            .leaves(DC, to_dc(B1_MAC) / part6(CLIENT6, backend6(B1), offset, more).hop_limit(63) / rest())
            .forwarded(DNS.id + ID6, B1 + V6)
            .counting(DNS.id + ID6, "fragments")
    };
    vec![
        case("the first fragment is translated like a whole packet")
            .enters(LAN, from_router() / part6(CLIENT6, VIP6, 0, true) / head(40_000, 53, 0x1234))
            .leaves(DC, to_dc(B1_MAC) / part6(CLIENT6, backend6(B1), 0, true).hop_limit(63) / head(40_000, 53, sum))
            .forwarded(DNS.id + ID6, B1 + V6),
        follows("the last comes before the middle", 2912, false),
        follows("and is followed", 1456, true),
        nobodys("another packet of the client's is another one", {
            let fragment = Extension::Fragment { offset: 1456, more: false, identification: LONG_ID + 1 };
            from_router() / ipv6(CLIENT6, VIP6).extension(fragment).next_header(17) / rest()
        }),
        nobodys(
            "another client's is another packet",
            from_router() / part6(SPECIFIC_CLIENT6, VIP6, 1456, false) / rest(),
        ),
    ]
}

fn reply4() -> Vec<Case> {
    let sum = translated(0x4321, (&backend4(B1).octets(), 53), (&VIP4.octets(), 53));
    vec![
        case("the first fragment of a reply is translated like a whole one")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / part4(backend4(B1), CLIENT4, 0, true) / head(53, 40_000, 0x4321))
            .leaves(LAN, to_lan(ROUTER_MAC) / part4(VIP4, CLIENT4, 0, true).ttl(63) / head(53, 40_000, sum))
            .replied(DNS.id, B1),
        case("the rest of a reply follows")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / part4(backend4(B1), CLIENT4, 1456, false) / rest())
            .leaves(LAN, to_lan(ROUTER_MAC) / part4(VIP4, CLIENT4, 1456, false).ttl(63) / rest())
            .replied(DNS.id, B1)
            .counting(DNS.id, "fragments"),
    ]
}

fn reply6() -> Vec<Case> {
    let sum = translated(0x4321, (&backend6(B1).octets(), 53), (&VIP6.octets(), 53));
    vec![
        case("the first fragment of a reply is translated like a whole one")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / part6(backend6(B1), CLIENT6, 0, true) / head(53, 40_000, 0x4321))
            .leaves(LAN, to_lan(ROUTER_MAC) / part6(VIP6, CLIENT6, 0, true).hop_limit(63) / head(53, 40_000, sum))
            .replied(DNS.id + ID6, B1 + V6),
        case("the rest of a reply follows")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / part6(backend6(B1), CLIENT6, 1456, false) / rest())
            .leaves(LAN, to_lan(ROUTER_MAC) / part6(VIP6, CLIENT6, 1456, false).hop_limit(63) / rest())
            .replied(DNS.id + ID6, B1 + V6)
            .counting(DNS.id + ID6, "fragments"),
    ]
}

fn segment4() -> Vec<Case> {
    let part = |destination, offset, more| part4(CLIENT4, destination, offset, more).protocol(6);
    let sum = translated(0x1234, (&VIP4.octets(), 80), (&backend4(B2).octets(), 8080));
    vec![
        case("the first")
            .enters(LAN, from_router() / part(VIP4, 0, true) / tcp(40_000, 80).checksum(0x1234) / vec![1; 1436])
            .leaves(DC, {
                to_dc(B2_MAC) / part(backend4(B2), 0, true).ttl(63) / tcp(40_000, 8080).checksum(sum) / vec![1; 1436]
            })
            .forwarded(SITE.id, B2),
        case("the last")
            .enters(LAN, from_router() / part(VIP4, 1456, false) / rest())
            .leaves(DC, to_dc(B2_MAC) / part(backend4(B2), 1456, false).ttl(63) / rest())
            .forwarded(SITE.id, B2)
            .counting(SITE.id, "fragments"),
    ]
}

fn tunnel4() -> Vec<Case> {
    vec![
        case("the first one")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 0, true) / head(40_000, 444, 0x1234))
            .leaves(DC, {
                let inner = part4(CLIENT4, VIP4, 0, true).ttl(63) / head(40_000, 444, 0x1234);
                to_dc(B1_MAC) / outer4(T1, 0) / inner
            })
            .forwarded(TUNNEL_UDP.id, T1),
        case("a later one")
            .enters(LAN, from_router() / part4(CLIENT4, VIP4, 1456, false) / rest())
            .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / part4(CLIENT4, VIP4, 1456, false).ttl(63) / rest())
            .forwarded(TUNNEL_UDP.id, T1)
            .counting(TUNNEL_UDP.id, "fragments"),
    ]
}

fn tunnel6(key: &HashKey) -> Vec<Case> {
    let outer = || outer6(T1, 0, hash6(key, (CLIENT6, 40_000), (VIP6, 444)));
    let head = || udp(40_000, 444).length(1472).checksum(0x1234) / vec![1; 1400];
    vec![
        case("the first one")
            .enters(LAN, from_router() / part6(CLIENT6, VIP6, 0, true) / head())
            .leaves(DC, to_dc(B1_MAC) / outer() / part6(CLIENT6, VIP6, 0, true).hop_limit(63) / head())
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6),
        case("a later one, with the first one's flow label outside")
            .enters(LAN, from_router() / part6(CLIENT6, VIP6, 1408, false) / rest())
            .leaves(DC, to_dc(B1_MAC) / outer() / part6(CLIENT6, VIP6, 1408, false).hop_limit(63) / rest())
            .forwarded(TUNNEL_UDP.id + ID6, T1 + V6)
            .counting(TUNNEL_UDP.id + ID6, "fragments"),
    ]
}
