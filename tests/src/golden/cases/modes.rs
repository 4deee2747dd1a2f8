//! Ways of forwarding beside NAT and plain IP in IP: L2 DSR, tunnels with something between their headers, and tunnels
//! through the other address family. What is sent is written from the RFCs; the builders add up every checksum.

use lb_common::addr::{PROTO_TCP, PROTO_UDP};
use lb_common::counters::DropReason;
use lb_common::hash::HashKey;
use lb_common::service::{
    FORWARD_DSR_L2, FORWARD_GENEVE, FORWARD_GRE, FORWARD_GUE, FORWARD_GUE0, FORWARD_IPIP, FORWARD_VXLAN,
};

use super::super::oracle::{hash4, hash6};
use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, outer4, outer6, to_dc};
use crate::packet::{Packet, ethernet, icmpv6, ipv4, ipv6, raw, tcp, udp};

/// Protocols that each mode's service listens for.
pub const PROTOCOLS: [u8; 2] = [PROTO_TCP, PROTO_UDP];

/// What IPv6 backends' ids are more than their IPv4 twins'. `V6` is a family here.
const V6_IDS: u16 = super::super::world::V6;

/// A service of the golden world for each, at ports of its own, for TCP and UDP.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    pub name: &'static str,
    pub id: u32,
    pub port: u16,
    pub forward: u8,
    /// The backend is of the other address family.
    pub crosses: bool,
}

const fn mode(name: &'static str, id: u32, forward: u8, crosses: bool) -> Mode {
    Mode { name, id, port: 9100 + id as u16, forward, crosses }
}

pub const MODES: [Mode; 12] = [
    mode("L2 DSR", 21, FORWARD_DSR_L2, false),
    mode("GRE", 22, FORWARD_GRE, false),
    mode("GUE variant 1", 23, FORWARD_GUE, false),
    mode("GUE variant 0", 24, FORWARD_GUE0, false),
    mode("VXLAN", 25, FORWARD_VXLAN, false),
    mode("Geneve", 26, FORWARD_GENEVE, false),
    mode("IP in IP", 27, FORWARD_IPIP, true),
    mode("GRE", 28, FORWARD_GRE, true),
    mode("GUE variant 1", 29, FORWARD_GUE, true),
    mode("GUE variant 0", 41, FORWARD_GUE0, true),
    mode("VXLAN", 42, FORWARD_VXLAN, true),
    mode("Geneve", 43, FORWARD_GENEVE, true),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

use Family::{V4, V6};

impl Family {
    const fn other(self) -> Self {
        match self {
            V4 => V6,
            V6 => V4,
        }
    }

    const fn ethertype(self) -> [u8; 2] {
        match self {
            V4 => [0x08, 0x00],
            V6 => [0x86, 0xdd],
        }
    }

    /// As what another header carries.
    const fn protocol(self) -> u8 {
        match self {
            V4 => 4,
            V6 => 41,
        }
    }

    const fn header(self) -> usize {
        match self {
            V4 => 20,
            V6 => 40,
        }
    }
}

/// What a client sends.
#[derive(Clone)]
struct Sent {
    family: Family,
    class: u8,
    hops: u8,
    options: Vec<u8>,
    transport: Packet,
}

impl Sent {
    fn new(family: Family, transport: impl Into<Packet>) -> Self {
        Self { family, class: 0, hops: 64, options: Vec::new(), transport: transport.into() }
    }

    /// With this TTL or hop limit.
    fn packet(&self, hops: u8) -> Packet {
        let transport = self.transport.clone();
        match self.family {
            V4 => ipv4(CLIENT4, VIP4).ttl(hops).tos(self.class).options(&self.options) / transport,
            V6 => ipv6(CLIENT6, VIP6).hop_limit(hops).traffic_class(self.class) / transport,
        }
    }
}

impl Mode {
    fn outer_family(self, inner: Family) -> Family {
        if self.crosses { inner.other() } else { inner }
    }

    fn service(self, family: Family) -> u32 {
        if family == V4 { self.id } else { self.id + ID6 }
    }

    fn backend(self, inner: Family) -> u16 {
        if self.outer_family(inner) == V4 { WIRE } else { WIRE + V6_IDS }
    }

    fn title(self, inner: Family) -> String {
        let name = self.name;
        match (inner, self.outer_family(inner)) {
            (V4, V4) => format!("{name}, IPv4"),
            (V6, V6) => format!("{name}, IPv6"),
            (V4, V6) => format!("{name}, IPv4 in IPv6"),
            (V6, V4) => format!("{name}, IPv6 in IPv4"),
        }
    }

    /// Protocol of the outer header, whether UDP is next, and what follows.
    fn shim(self, inner: Family) -> (u8, bool, Vec<u8>) {
        // RFC 7348 §5, RFC 8926 §3.4: 24 bits, and a reserved byte.
        const NETWORK: [u8; 4] = [0x01, 0x02, 0x03, 0];
        let ethernet = || [&INNER_MAC.0[..], &[0x02, b's', b'l', b'u', b'i', b'c'], &inner.ethertype()].concat();
        match self.forward {
            FORWARD_IPIP => (inner.protocol(), false, Vec::new()),
            // RFC 2784 §2.1: no checksum, version 0.
            FORWARD_GRE => (47, false, [[0, 0], inner.ethertype()].concat()),
            FORWARD_GUE => (PROTO_UDP, true, Vec::new()),
            FORWARD_GUE0 => (PROTO_UDP, true, vec![0, inner.protocol(), 0, 0]),
            FORWARD_VXLAN => (PROTO_UDP, true, [&[0x08, 0, 0, 0], &NETWORK[..], &ethernet()].concat()),
            FORWARD_GENEVE => (PROTO_UDP, true, [&[0, 0, 0x65, 0x58], &NETWORK[..], &ethernet()].concat()),
            other => unreachable!("{other} is no tunnel"),
        }
    }

    /// Bytes that it adds.
    fn adds(self, inner: Family) -> usize {
        if self.forward == FORWARD_DSR_L2 {
            return 0;
        }
        let (_, is_udp, rest) = self.shim(inner);
        self.outer_family(inner).header() + if is_udp { 8 } else { 0 } + rest.len()
    }

    /// What leaves for the backend.
    fn becomes(self, sent: &Sent, key: &HashKey, client_port: u16, outer_sum: Option<u16>) -> Packet {
        let inner = sent.packet(sent.hops - 1);
        if self.forward == FORWARD_DSR_L2 {
            return to_dc(B1_MAC) / inner;
        }
        let hash = match sent.family {
            V4 => hash4(key, (CLIENT4, client_port), (VIP4, self.port)),
            V6 => hash6(key, (CLIENT6, client_port), (VIP6, self.port)),
        };
        let (protocol, is_udp, rest) = self.shim(sent.family);
        let outer = self.outer_family(sent.family);
        let mut packet = match outer {
            V4 => to_dc(B1_MAC) / outer4(WIRE, sent.class).protocol(protocol),
            V6 => to_dc(B1_MAC) / outer6(WIRE, sent.class, hash).next_header(protocol),
        };
        if is_udp {
            let mut header = udp(0xc000 | (hash & 0x3fff) as u16, TUNNEL_PORT);
            // RFC 7348 §5, RFC 8926 §3.3: none over IPv4.
            header.checksum = outer_sum.or((outer == V4).then_some(0));
            packet = packet / header;
        }
        if !rest.is_empty() {
            packet = packet / raw(rest);
        }
        packet / inner
    }
}

pub fn cases(key: &HashKey) -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in MODES {
        for family in [V4, V6] {
            let (service, backend, title) = (mode.service(family), mode.backend(family), mode.title(family));
            let sends = |what: &str, sent: &Sent, port: u16| {
                case(format!("{title}: {what}"))
                    .enters(LAN, from_router() / sent.packet(sent.hops))
                    .leaves(DC, mode.becomes(sent, key, port, None))
                    .forwarded(service, backend)
            };
            let over_tcp = Sent::new(family, tcp(40_000, mode.port) / "hello");
            let over_udp = Sent::new(family, udp(40_000, mode.port) / "hello");
            cases.push(sends("TCP arrives as it was sent", &over_tcp, 40_000));
            cases.push(sends("UDP arrives as it was sent", &over_udp, 40_000));
            let odd = Sent::new(family, udp(40_001, mode.port) / "an odd number of bytes.");
            cases.push(sends("another flow, and an odd number of bytes", &odd, 40_001));
            let syn = Sent::new(family, tcp(40_000, mode.port).syn());
            cases.push(sends("a SYN is counted", &syn, 40_000).counting(service, "syns"));
            let marked = Sent { class: 0xff, ..over_tcp.clone() };
            cases.push(sends("all of DSCP and ECN is copied to the outer header", &marked, 40_000));
            let tired = Sent { hops: 2, ..over_udp.clone() };
            cases.push(sends("a TTL or hop limit of 2 is the last that is forwarded", &tired, 40_000));
            cases.push(
                case(format!("{title}: a TTL or hop limit of 1 is ttl_exceeded"))
                    .enters(LAN, from_router() / over_udp.packet(1))
                    .dropped(service, DropReason::TtlExceeded),
            );
            if family == V4 {
                let optional = Sent { options: vec![0x94, 4, 0, 0], ..over_tcp.clone() };
                cases.push(sends("IPv4 options travel with the packet", &optional, 40_000));
            }

            let room = 1500 - mode.adds(family) - family.header() - 8;
            let full = Sent::new(family, udp(40_000, mode.port) / vec![0x5a; room]);
            cases.push(sends("a packet that fills the link's MTU is sent", &full, 40_000));
            let beyond = Sent::new(family, udp(40_000, mode.port) / vec![0x5a; room + 1]);
            let beyond = from_router() / beyond.packet(64);
            let too_big =
                case(format!("{title}: a packet that is a byte longer than the link's MTU allows is too_big"))
                    .enters(LAN, beyond.clone());
            cases.push(match family {
                V4 => too_big.dropped(service, DropReason::TooBig),
                // Nobody fragments IPv6 on the way, so its sender is told (RFC 8200 §5).
                V6 => {
                    let mtu = (1500 - mode.adds(family)) as u32;
                    let quoted = raw(beyond.bytes()[14..14 + 1232].to_vec());
                    let message = icmpv6(2, 0).rest(mtu.to_be_bytes()) / quoted;
                    let ip = ipv6(VIP6, CLIENT6).hop_limit(64);
                    too_big.told_too_big(service, ethernet(LAN_MAC, ROUTER_MAC) / ip / message)
                }
            });
            if mode.forward != FORWARD_DSR_L2 {
                cases.push(
                    case(format!("{title}: a driver without room for the outer header is no_headroom"))
                        .enters(LAN, from_router() / over_tcp.packet(64))
                        .behind_metadata(204)
                        .dropped(service, DropReason::NoHeadroom),
                );
            }
        }
        // Only IPv4 allows it (RFC 8200 §8.1).
        let unsummed = Sent::new(V4, udp(40_000, mode.port).checksum(0) / "hello");
        let sum = (mode.forward != FORWARD_DSR_L2 && mode.shim(V4).1).then_some(0);
        cases.push(
            case(format!("{}: UDP without a checksum stays so, and the outer UDP has none either", mode.title(V4)))
                .enters(LAN, from_router() / unsummed.packet(64))
                .leaves(DC, mode.becomes(&unsummed, key, 40_000, sum))
                .forwarded(mode.service(V4), mode.backend(V4)),
        );
    }
    cases.extend(corners(key));
    cases
}

/// Computed outer checksums: one that comes out as zero is sent as 0xffff (RFC 768), and a wrong one inside leaves the
/// outer one as it would be with a right one, so that it does not fit either, and the receiver notices.
fn corners(key: &HashKey) -> Vec<Case> {
    let mode = MODES.into_iter().find(|m| m.forward == FORWARD_GUE && m.crosses).expect("GUE through the other family");
    let mut cases = Vec::new();
    // The inner checksum takes out what a payload adds, so it is the client's port that goes through all values.
    let zero = (1..=u16::MAX).find_map(|port| {
        let sent = Sent::new(V4, udp(port, mode.port) / "hello");
        let packet = mode.becomes(&sent, key, port, None).bytes();
        // Ethernet, IPv6, and the place of the checksum in UDP.
        (packet[14 + 40 + 6..][..2] == [0xff, 0xff]).then_some((port, sent))
    });
    let (port, sent) = zero.expect("a flow whose outer checksum comes out as zero");
    cases.push(
        case(format!("{}: an outer checksum that comes out as zero is sent as 0xffff", mode.title(V4)))
            .enters(LAN, from_router() / sent.packet(64))
            .leaves(DC, mode.becomes(&sent, key, port, None))
            .forwarded(mode.service(V4), mode.backend(V4)),
    );

    let right = Sent::new(V4, udp(40_000, mode.port) / "hello");
    let bytes = right.packet(64).bytes();
    let inner_sum = u16::from_be_bytes([bytes[26], bytes[27]]);
    let wrong = Sent::new(V4, udp(40_000, mode.port).checksum(inner_sum ^ 0x0100) / "hello");
    let outer = mode.becomes(&right, key, 40_000, None).bytes();
    let outer_sum = u16::from_be_bytes([outer[60], outer[61]]);
    cases.push(
        case(format!("{}: a wrong checksum inside leaves the outer one as if it were right", mode.title(V4)))
            .enters(LAN, from_router() / wrong.packet(64))
            .leaves(DC, mode.becomes(&wrong, key, 40_000, Some(outer_sum)))
            .forwarded(mode.service(V4), mode.backend(V4)),
    );
    cases
}
