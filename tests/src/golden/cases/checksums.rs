//! Checksums at their corners. One's complement has two zeroes, UDP has a third meaning for one of them, and an
//! incremental update (RFC 1624) must get all of it right without reading the payload.

use super::super::world::*;
use super::super::{Case, Expect, case};
use super::tunnel::outer4;
use super::{from_router, to_dc};
use crate::packet::{Packet, ipv4, ipv6, tcp, udp};

/// Where the checksum sits in a frame without IP options.
const IPV4_FIELD: usize = 14 + 10;
const UDP4_FIELD: usize = 34 + 6;
const UDP6_FIELD: usize = 54 + 6;
const TCP4_FIELD: usize = 34 + 16;
const TCP6_FIELD: usize = 54 + 16;

fn field(packet: &Packet, at: usize) -> u16 {
    let bytes = packet.bytes();
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Payload words that make `packet(word)`'s checksum come out as zero, before UDP turns it into ffff. With the
/// word at zero the checksum is c, so with c as the word the sum is ffff and its complement zero.
fn word_for_zero(packet: impl Fn(Vec<u8>) -> Packet, at: usize) -> Vec<u8> {
    field(&packet(vec![0, 0]), at).to_be_bytes().to_vec()
}

/// One more than a checksum, in one's complement: a packet that was damaged on its way.
fn damaged(sum: u16) -> u16 {
    sum.checked_add(1).unwrap_or(1)
}

fn udp_in(payload: Vec<u8>) -> Packet {
    from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 5353) / payload
}

fn udp_out(payload: Vec<u8>) -> Packet {
    to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / udp(40_000, 53) / payload
}

fn udp6_in(payload: Vec<u8>) -> Packet {
    from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 5353) / payload
}

fn udp6_out(payload: Vec<u8>) -> Packet {
    to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B3)).hop_limit(63) / udp(40_000, 53) / payload
}

fn tcp_in(payload: Vec<u8>) -> Packet {
    from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80) / payload
}

fn tcp_out(payload: Vec<u8>) -> Packet {
    to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63) / tcp(40_000, 8080) / payload
}

fn tcp6_in(payload: Vec<u8>) -> Packet {
    from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 80) / payload
}

fn tcp6_out(payload: Vec<u8>) -> Packet {
    to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B2)).hop_limit(63) / tcp(40_000, 8080) / payload
}

/// The checksum a case's name speaks of is really there, in the frame that enters.
fn entering_with(case: Case, at: usize, sum: u16) -> Case {
    let there = u16::from_be_bytes([case.frame[at], case.frame[at + 1]]);
    assert_eq!(there, sum, "{}: the input is not at the corner", case.name);
    case
}

/// As [`entering_with`], in the frame that leaves.
fn leaving_with(case: Case, at: usize, sum: u16) -> Case {
    let Expect::Send(_, frame) = &case.expect else { panic!("{}: nothing leaves", case.name) };
    let there = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert_eq!(there, sum, "{}: the output is not at the corner", case.name);
    case
}

pub fn cases() -> Vec<Case> {
    [none(), zeroes(), wrong(), header()].concat()
}

/// UDP without a checksum.
fn none() -> Vec<Case> {
    let head = |destination: u16| udp(40_000, destination).checksum(0);
    vec![
        case("NAT, UDP over IPv4: a checksum of zero means none and stays zero")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / head(5353) / "query")
            .leaves(DC, to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / head(53) / "query")
            .forwarded(MDNS.id, B3),
        case("NAT, UDP over IPv6: a checksum of zero (RFC 6935) stays zero")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / head(5353) / "query")
            .leaves(DC, to_dc(B2_MAC) / ipv6(CLIENT6, backend6(B3)).hop_limit(63) / head(53) / "query")
            .forwarded(MDNS.id + ID6, B3 + V6),
    ]
}

/// What a client sends and a backend gets, by payload, and where that is counted and the checksum sits.
struct Pair {
    name: &'static str,
    enters: fn(Vec<u8>) -> Packet,
    leaves: fn(Vec<u8>) -> Packet,
    service: u32,
    backend: u16,
    at: usize,
}

/// Sums that come out as one of the two zeroes, on either side.
fn zeroes() -> Vec<Case> {
    let (tcp_id, udp_id) = (SITE.id, MDNS.id);
    let tcp4 =
        Pair { name: "TCP over IPv4", enters: tcp_in, leaves: tcp_out, service: tcp_id, backend: B2, at: TCP4_FIELD };
    let udp4 =
        Pair { name: "UDP over IPv4", enters: udp_in, leaves: udp_out, service: udp_id, backend: B3, at: UDP4_FIELD };
    let tcp6 = Pair {
        name: "TCP over IPv6",
        enters: tcp6_in,
        leaves: tcp6_out,
        service: tcp_id + ID6,
        backend: B2 + V6,
        at: TCP6_FIELD,
    };
    let udp6 = Pair {
        name: "UDP over IPv6",
        enters: udp6_in,
        leaves: udp6_out,
        service: udp_id + ID6,
        backend: B3 + V6,
        at: UDP6_FIELD,
    };
    let mut cases = Vec::new();
    for (pair, zero) in [(&tcp4, 0), (&tcp6, 0), (&udp4, 0xffff), (&udp6, 0xffff)] {
        let Pair { name, enters, leaves, service, backend, at } = pair;
        let word = word_for_zero(leaves, *at);
        let row = case(format!("NAT, {name}: a sum that comes out as zero is sent as {zero:04x}"))
            .enters(LAN, enters(word.clone()))
            .leaves(DC, leaves(word))
            .forwarded(*service, *backend);
        cases.push(leaving_with(row, *at, zero));
        let word = word_for_zero(enters, *at);
        let row = case(format!("NAT, {name}: {zero:04x} coming in is a sum like any other"))
            .enters(LAN, enters(word.clone()))
            .leaves(DC, leaves(word))
            .forwarded(*service, *backend);
        cases.push(entering_with(row, *at, zero));
    }
    // The other zero, which no sender computes but some send: it verifies, and must still do so afterwards.
    let word = word_for_zero(tcp_in, TCP4_FIELD);
    cases.push(
        case("NAT, TCP: a checksum of ffff in place of zero still verifies afterwards")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80).checksum(0xffff) / word.clone())
            .leaves(DC, tcp_out(word))
            .forwarded(SITE.id, B2),
    );
    cases
}

/// Damage stays detectable: the receiver must see the error the sender's packet had.
fn wrong() -> Vec<Case> {
    let payload = || b"damaged".to_vec();
    let tcp_sums = (field(&tcp_in(payload()), TCP4_FIELD), field(&tcp_out(payload()), TCP4_FIELD));
    let udp_sums = (field(&udp_in(payload()), UDP4_FIELD), field(&udp_out(payload()), UDP4_FIELD));
    let udp6_sums = (field(&udp6_in(payload()), UDP6_FIELD), field(&udp6_out(payload()), UDP6_FIELD));
    vec![
        case("NAT, TCP: a wrong checksum stays wrong by as much")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 80).checksum(damaged(tcp_sums.0)) / payload(),
            )
            .leaves(
                DC,
                to_dc(B2_MAC)
                    / ipv4(CLIENT4, backend4(B2)).ttl(63)
                    / tcp(40_000, 8080).checksum(damaged(tcp_sums.1))
                    / payload(),
            )
            .forwarded(SITE.id, B2),
        case("NAT, UDP over IPv4: a wrong checksum stays wrong by as much")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 5353).checksum(damaged(udp_sums.0)) / payload(),
            )
            .leaves(
                DC,
                to_dc(B2_MAC)
                    / ipv4(CLIENT4, backend4(B3)).ttl(63)
                    / udp(40_000, 53).checksum(damaged(udp_sums.1))
                    / payload(),
            )
            .forwarded(MDNS.id, B3),
        case("NAT, UDP over IPv6: a wrong checksum stays wrong by as much")
            .enters(
                LAN,
                from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 5353).checksum(damaged(udp6_sums.0)) / payload(),
            )
            .leaves(
                DC,
                to_dc(B2_MAC)
                    / ipv6(CLIENT6, backend6(B3)).hop_limit(63)
                    / udp(40_000, 53).checksum(damaged(udp6_sums.1))
                    / payload(),
            )
            .forwarded(MDNS.id + ID6, B3 + V6),
        case("4in4: a wrong TCP checksum inside is not touched")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444).checksum(0x1234) / payload())
            .leaves(
                DC,
                to_dc(B1_MAC)
                    / outer4(T1, 0)
                    / ipv4(CLIENT4, VIP4).ttl(63)
                    / tcp(40_000, 444).checksum(0x1234)
                    / payload(),
            )
            .forwarded(TUNNEL.id, T1),
    ]
}

/// The IPv4 header's own checksum. `id` is chosen so that it comes out at a corner.
fn header() -> Vec<Case> {
    let input = |id| from_router() / ipv4(CLIENT4, VIP4).identification(id) / udp(40_000, 5353) / "x";
    let output = |id| to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63).identification(id) / udp(40_000, 53) / "x";
    let inner = |id| ipv4(CLIENT4, VIP4).ttl(63).identification(id) / udp(40_000, 444) / "x";
    let tunnel_input = |id| from_router() / ipv4(CLIENT4, VIP4).identification(id) / udp(40_000, 444) / "x";
    // As with payload words: where the checksum without the id is c, an id of c makes it zero.
    let from_zero = field(&input(0), IPV4_FIELD);
    let to_zero = field(&output(0), IPV4_FIELD);
    let inner_to_zero = field(&(from_router() / inner(0)), IPV4_FIELD);
    let damaged_in = damaged(field(&input(7), IPV4_FIELD));
    let damaged_out = damaged(field(&output(7), IPV4_FIELD));
    let forwarded = |name: &str, id| case(name).enters(LAN, input(id)).leaves(DC, output(id)).forwarded(MDNS.id, B3);
    vec![
        entering_with(
            forwarded("NAT: an IPv4 header checksum of zero is a sum like any other", from_zero),
            IPV4_FIELD,
            0,
        ),
        leaving_with(
            forwarded("NAT: an IPv4 header checksum that comes out as zero is sent as zero", to_zero),
            IPV4_FIELD,
            0,
        ),
        leaving_with(
            case("4in4: an inner header checksum that comes out as zero is sent as zero")
                .enters(LAN, tunnel_input(inner_to_zero))
                .leaves(DC, to_dc(B1_MAC) / outer4(T1, 0) / inner(inner_to_zero))
                .forwarded(TUNNEL_UDP.id, T1),
            IPV4_FIELD + 20,
            0,
        ),
        case("NAT: a wrong IPv4 header checksum stays wrong by as much")
            .enters(
                LAN,
                from_router() / ipv4(CLIENT4, VIP4).identification(7).checksum(damaged_in) / udp(40_000, 5353) / "x",
            )
            .leaves(
                DC,
                to_dc(B2_MAC)
                    / ipv4(CLIENT4, backend4(B3)).ttl(63).identification(7).checksum(damaged_out)
                    / udp(40_000, 53)
                    / "x",
            )
            .forwarded(MDNS.id, B3),
    ]
}
