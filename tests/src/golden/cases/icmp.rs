//! ICMP and ICMPv6 for service addresses: errors go to whom they concern, with no more than eight bytes of TCP or UDP in
//! them; echo requests are answered; and who sends what is too big is told.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::counters::DropReason;
use lb_common::hash::HashKey;

use super::super::oracle::hash6;
use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, outer4, outer6, to_dc, to_lan};
use crate::packet::{Icmp, Packet, ethernet, icmp, icmpv6, ipv4, ipv6, raw, tcp, udp};

pub fn cases(key: &HashKey) -> Vec<Case> {
    [errors4(), errors6(key), not_believed(), echo(), too_big()].concat()
}

/// A router on the way.
const HOP4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const HOP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xabc, 0, 0, 0, 0, 9);

/// As much of a packet as an error has to quote, or so many bytes more.
fn quote4(source: Ipv4Addr, destination: Ipv4Addr, l4: impl Into<Packet>, more: usize) -> Packet {
    let mut bytes = (ipv4(source, destination).identification(5) / l4.into()).bytes();
    bytes.truncate(28 + more);
    raw(bytes).into()
}

fn quote6(source: Ipv6Addr, destination: Ipv6Addr, l4: impl Into<Packet>, more: usize) -> Packet {
    let mut bytes = (ipv6(source, destination) / l4.into()).bytes();
    bytes.truncate(48 + more);
    raw(bytes).into()
}

fn frag_needed() -> Icmp {
    icmp(3, 4).rest([0, 0, 5, 0x14])
}

fn too_big6() -> Icmp {
    icmpv6(2, 0).rest([0, 0, 5, 0x14])
}

fn errors4() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, message) in [
        ("unreachable", icmp(3, 1)),
        ("fragmentation needed", frag_needed()),
        ("time exceeded", icmp(11, 0)),
        ("parameter problem", icmp(12, 0).rest([8, 0, 0, 0])),
    ] {
        cases.push(
            case(format!("NAT: {name} goes to the backend, as if about its packet"))
                .enters(
                    LAN,
                    from_router() / ipv4(HOP4, VIP4) / message.clone() / quote4(VIP4, CLIENT4, tcp(443, 40_000), 0),
                )
                .leaves(DC, {
                    let quoted = quote4(backend4(B1), CLIENT4, tcp(443, 40_000), 0);
                    to_dc(B1_MAC) / ipv4(HOP4, backend4(B1)).ttl(63) / message / quoted
                })
                .forwarded(WEB.id, B1)
                .counting(WEB.id, "icmp_errors"),
        );
    }
    let whole = || tcp(80, 40_000);
    let translated = || tcp(8080, 40_000);
    cases.extend([
        case("NAT: the backend's own port is quoted, and all of TCP that is there changes")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / icmp(3, 3) / quote4(VIP4, CLIENT4, whole(), 12))
            .leaves(DC, {
                let quoted = quote4(backend4(B2), CLIENT4, translated(), 12);
                to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B2)).ttl(63) / icmp(3, 3) / quoted
            })
            .forwarded(SITE.id, B2)
            .counting(SITE.id, "icmp_errors"),
        case("NAT: a client's port unreachable about an answer by UDP goes to the backend")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / icmp(3, 3) / quote4(VIP4, CLIENT4, udp(5353, 40_000), 0))
            .leaves(DC, {
                let quoted = quote4(backend4(B3), CLIENT4, udp(53, 40_000), 0);
                to_dc(B2_MAC) / ipv4(CLIENT4, backend4(B3)).ttl(63) / icmp(3, 3) / quoted
            })
            .forwarded(MDNS.id, B3)
            .counting(MDNS.id, "icmp_errors"),
        case("NAT: a UDP checksum of none stays none inside")
            .enters(LAN, {
                from_router() / ipv4(CLIENT4, VIP4) / icmp(3, 3) / quote4(VIP4, CLIENT4, udp(53, 40_000).checksum(0), 0)
            })
            .leaves(DC, {
                let quoted = quote4(backend4(B1), CLIENT4, udp(53, 40_000).checksum(0), 0);
                to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / icmp(3, 3) / quoted
            })
            .forwarded(DNS.id, B1)
            .counting(DNS.id, "icmp_errors"),
        case("NAT: a backend's port unreachable goes to the client, from the VIP and about it")
            .enters(DC, {
                let quoted = quote4(CLIENT4, backend4(B2), tcp(40_000, 8080), 0);
                ethernet(B2_MAC, DC_MAC) / ipv4(backend4(B2), CLIENT4) / icmp(3, 3) / quoted
            })
            .leaves(LAN, {
                let quoted = quote4(CLIENT4, VIP4, tcp(40_000, 80), 0);
                to_lan(ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(63) / icmp(3, 3) / quoted
            })
            .replied(SITE.id, B2)
            .counting(SITE.id, "icmp_errors"),
        case("NAT: an error of a router in front of the backend goes to the client, from that router")
            .enters(DC, {
                let quoted = quote4(CLIENT4, backend4(B1), udp(40_000, 53), 0);
                ethernet(B1_MAC, DC_MAC) / ipv4(HOP4, CLIENT4) / icmp(11, 0) / quoted
            })
            .leaves(LAN, {
                let quoted = quote4(CLIENT4, VIP4, udp(40_000, 53), 0);
                to_lan(ROUTER_MAC) / ipv4(HOP4, CLIENT4).ttl(63) / icmp(11, 0) / quoted
            })
            .replied(DNS.id, B1)
            .counting(DNS.id, "icmp_errors"),
        case("4in4: fragmentation needed goes to the backend as it came")
            .enters(LAN, from_router() / ipv4(HOP4, VIP4) / frag_needed() / quote4(VIP4, CLIENT4, tcp(444, 40_000), 0))
            .leaves(DC, {
                let inner = ipv4(HOP4, VIP4).ttl(63) / frag_needed() / quote4(VIP4, CLIENT4, tcp(444, 40_000), 0);
                to_dc(B1_MAC) / outer4(T1, 0) / inner
            })
            .forwarded(TUNNEL.id, T1)
            .counting(TUNNEL.id, "icmp_errors"),
        case("a hop is taken from errors, too")
            .enters(
                LAN,
                from_router() / ipv4(HOP4, VIP4).ttl(1) / icmp(3, 1) / quote4(VIP4, CLIENT4, tcp(443, 40_000), 0),
            )
            .dropped(WEB.id, DropReason::TtlExceeded),
        case("an error that quotes seven bytes of TCP is truncated")
            .enters(LAN, {
                let mut quoted = (ipv4(VIP4, CLIENT4) / tcp(443, 40_000)).bytes();
                quoted.truncate(27);
                from_router() / ipv4(HOP4, VIP4) / icmp(3, 1) / raw(quoted)
            })
            .dropped(WEB.id, DropReason::Truncated),
    ]);
    cases
}

fn errors6(key: &HashKey) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, message) in [
        ("unreachable", icmpv6(1, 4)),
        ("packet too big", too_big6()),
        ("time exceeded", icmpv6(3, 0)),
        ("parameter problem", icmpv6(4, 1).rest([0, 0, 0, 6])),
    ] {
        cases.push(
            case(format!("NAT over IPv6: {name} goes to the backend, as if about its packet"))
                .enters(
                    LAN,
                    from_router() / ipv6(HOP6, VIP6) / message.clone() / quote6(VIP6, CLIENT6, tcp(443, 40_000), 0),
                )
                .leaves(DC, {
                    let quoted = quote6(backend6(B1), CLIENT6, tcp(443, 40_000), 0);
                    to_dc(B1_MAC) / ipv6(HOP6, backend6(B1)).hop_limit(63) / message / quoted
                })
                .forwarded(WEB.id + ID6, B1 + V6)
                .counting(WEB.id + ID6, "icmp_errors"),
        );
    }
    let outer = || outer6(T1, 0, hash6(key, (CLIENT6, 40_000), (VIP6, 444)));
    cases.extend([
        case("NAT over IPv6: a backend's port unreachable goes to the client, from the VIP and about it")
            .enters(DC, {
                let quoted = quote6(CLIENT6, backend6(B2), tcp(40_000, 8080), 12);
                ethernet(B2_MAC, DC_MAC) / ipv6(backend6(B2), CLIENT6) / icmpv6(1, 4) / quoted
            })
            .leaves(LAN, {
                let quoted = quote6(CLIENT6, VIP6, tcp(40_000, 80), 12);
                to_lan(ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(63) / icmpv6(1, 4) / quoted
            })
            .replied(SITE.id + ID6, B2 + V6)
            .counting(SITE.id + ID6, "icmp_errors"),
        case("NAT over IPv6: an error of a router in front of the backend goes to the client, from that router")
            .enters(DC, {
                let quoted = quote6(CLIENT6, backend6(B1), udp(40_000, 53), 0);
                ethernet(B1_MAC, DC_MAC) / ipv6(HOP6, CLIENT6) / too_big6() / quoted
            })
            .leaves(LAN, {
                let quoted = quote6(CLIENT6, VIP6, udp(40_000, 53), 0);
                to_lan(ROUTER_MAC) / ipv6(HOP6, CLIENT6).hop_limit(63) / too_big6() / quoted
            })
            .replied(DNS.id + ID6, B1 + V6)
            .counting(DNS.id + ID6, "icmp_errors"),
        case("6in6: packet too big goes to the backend as it came, by its flow's way")
            .enters(LAN, from_router() / ipv6(HOP6, VIP6) / too_big6() / quote6(VIP6, CLIENT6, tcp(444, 40_000), 0))
            .leaves(DC, {
                let quoted = quote6(VIP6, CLIENT6, tcp(444, 40_000), 0);
                to_dc(B1_MAC) / outer() / ipv6(HOP6, VIP6).hop_limit(63) / too_big6() / quoted
            })
            .forwarded(TUNNEL.id + ID6, T1 + V6)
            .counting(TUNNEL.id + ID6, "icmp_errors"),
    ]);
    cases
}

/// What is no error, or about nothing of ours.
fn not_believed() -> Vec<Case> {
    vec![
        case("an error about a packet that its receiver did not send is the host's").enters(
            LAN,
            from_router() / ipv4(HOP4, VIP4) / icmp(3, 1) / quote4(SELF_LAN4, CLIENT4, tcp(443, 40_000), 0),
        ),
        case("an ICMPv6 error about a packet that its receiver did not send is the host's").enters(
            LAN,
            from_router() / ipv6(HOP6, VIP6) / too_big6() / quote6(SELF_DC6, CLIENT6, tcp(443, 40_000), 0),
        ),
        case("an error about SSH to the VIP's address is the host's")
            .enters(LAN, from_router() / ipv4(HOP4, VIP4) / icmp(3, 1) / quote4(VIP4, CLIENT4, tcp(22, 40_000), 0)),
        case("a redirect is the host's")
            .enters(LAN, from_router() / ipv4(HOP4, VIP4) / icmp(5, 1) / quote4(VIP4, CLIENT4, tcp(443, 40_000), 0)),
        case("an error about GRE is the host's").enters(LAN, {
            let mut quoted = (ipv4(VIP4, CLIENT4).protocol(47) / raw([7; 20])).bytes();
            quoted.truncate(28);
            from_router() / ipv4(HOP4, VIP4) / icmp(3, 1) / raw(quoted)
        }),
        case("an error about a later fragment is the host's").enters(LAN, {
            let quoted = (ipv4(VIP4, CLIENT4).fragment(1480, false).protocol(6) / raw([7; 20])).bytes();
            from_router() / ipv4(HOP4, VIP4) / icmp(11, 1) / raw(quoted)
        }),
        case("an error that quotes three bytes of TCP is the host's").enters(LAN, {
            let mut quoted = (ipv4(VIP4, CLIENT4) / tcp(443, 40_000)).bytes();
            quoted.truncate(23);
            from_router() / ipv4(HOP4, VIP4) / icmp(3, 1) / raw(quoted)
        }),
        case("an error about a health check of the node's own is the host's").enters(DC, {
            let quoted = quote4(SELF_DC4, backend4(B1), tcp(40_000, 443), 0);
            ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), SELF_DC4) / icmp(3, 3) / quoted
        }),
    ]
}

fn echo() -> Vec<Case> {
    let asks4 = |data: &str| from_router() / ipv4(CLIENT4, VIP4).ttl(9) / icmp(8, 0).rest([0, 1, 0, 2]) / data;
    let tells4 =
        |data: &str| ethernet(LAN_MAC, ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(64) / icmp(0, 0).rest([0, 1, 0, 2]) / data;
    let asks6 =
        |data: &str| from_router() / ipv6(CLIENT6, VIP6).hop_limit(9) / icmpv6(128, 0).rest([0, 1, 0, 2]) / data;
    let tells6 = |data: &str| {
        ethernet(LAN_MAC, ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(64) / icmpv6(129, 0).rest([0, 1, 0, 2]) / data
    };
    let answers = |name: &str, service: u32, asks: Packet, tells: Packet| {
        case(name).enters(LAN, asks).leaves(LAN, tells).answered().counting(service, "flows echoes")
    };
    vec![
        answers("an echo request for the VIP is answered", WEB.id, asks4("ping"), tells4("ping")),
        answers("an echo request without data is answered", WEB.id, asks4(""), tells4("")),
        answers("an echo request of an odd length is answered", WEB.id, asks4("ping!"), tells4("ping!")),
        answers(
            "the answer to an echo request that is nothing but zeroes adds up",
            WEB.id,
            from_router() / ipv4(CLIENT4, VIP4).ttl(9) / icmp(8, 0),
            ethernet(LAN_MAC, ROUTER_MAC) / ipv4(VIP4, CLIENT4).ttl(64) / icmp(0, 0),
        ),
        answers("an ICMPv6 echo request for the VIP is answered", WEB.id + ID6, asks6("ping"), tells6("ping")),
        answers(
            "padding behind an echo request comes back as padding",
            WEB.id,
            asks4("pi").padded(60, 0xee),
            tells4("pi").padded(60, 0xee),
        ),
        case("an echo request for somebody else is not answered")
            .enters(LAN, from_router() / ipv4(CLIENT4, backend4(B1)) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping"),
        case("an echo request for the node itself is the host's")
            .enters(LAN, from_router() / ipv4(CLIENT4, SELF_LAN4) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping"),
        case("an ICMPv6 echo request for the node itself is the host's")
            .enters(LAN, from_router() / ipv6(CLIENT6, SELF_DC6) / icmpv6(128, 0).rest([0, 1, 0, 2]) / "ping"),
        case("an echo request with another code is the host's")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / icmp(8, 1).rest([0, 1, 0, 2]) / "ping"),
        case("an echo reply for the VIP is the host's")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / icmp(0, 0).rest([0, 1, 0, 2]) / "ping"),
        case("an echo request with options is the host's").enters(LAN, {
            let ip = ipv4(CLIENT4, VIP4).options(&[7, 7, 4, 0, 0, 0, 0, 0]);
            from_router() / ip / icmp(8, 0).rest([0, 1, 0, 2]) / "ping"
        }),
        case("a fragment of an echo request is the host's").enters(
            LAN,
            from_router() / ipv4(CLIENT4, VIP4).fragment(0, true) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping",
        ),
        case("an echo request that ends too early is the host's")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4).total_length(90) / icmp(8, 0).rest([0, 1, 0, 2]) / "ping"),
    ]
}

fn too_big() -> Vec<Case> {
    let data = |bytes: usize| vec![0x5a; bytes];
    // What an answer quotes: of IPv4 the header and eight bytes, of IPv6 as much as fits into 1,280 bytes.
    let quote4 = |packet: &Packet| raw(packet.bytes()[14..42].to_vec());
    let quote6 = |packet: &Packet| raw(packet.bytes()[14..14 + 1232].to_vec());
    let tells4 = |mtu: usize, packet: &Packet| {
        let [high, low] = (mtu as u16).to_be_bytes();
        let ip = ipv4(VIP4, CLIENT4).identification(0).dont_fragment().ttl(64);
        ethernet(LAN_MAC, ROUTER_MAC) / ip / icmp(3, 4).rest([0, 0, high, low]) / quote4(packet)
    };
    let tells6 = |mtu: usize, packet: &Packet| {
        let message = icmpv6(2, 0).rest((mtu as u32).to_be_bytes());
        ethernet(LAN_MAC, ROUTER_MAC) / ipv6(VIP6, CLIENT6).hop_limit(64) / message / quote6(packet)
    };
    let tight4 = from_router() / ipv4(CLIENT4, VIP4).dont_fragment() / udp(40_000, 9008) / data(NARROW_MTU - 28 + 1);
    let tight6 = from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9008) / data(NARROW_MTU - 48 + 1);
    let tunnel4 =
        from_router() / ipv4(CLIENT4, VIP4).dont_fragment() / udp(40_000, 9009) / data(NARROW_MTU - 20 - 28 + 1);
    let tunnel6 = from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9009) / data(NARROW_MTU - 40 - 48 + 1);
    let asking4 = from_router() / ipv4(CLIENT4, VIP4).dont_fragment() / udp(40_000, 9007) / data(SLOW_MTU - 28 + 1);
    let asking6 = from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9007) / data(SLOW_MTU - 48 + 1);
    let tagged = from_router().vlan(7) / ipv4(CLIENT4, VIP4).dont_fragment() / udp(40_000, 9008) / data(NARROW_MTU);
    vec![
        case("NAT: who may not be fragmented is told the link's MTU")
            .enters(LAN, tight4.clone())
            .told_too_big(TIGHT.id, tells4(NARROW_MTU, &tight4)),
        case("NAT over IPv6: who sends too much is told the link's MTU")
            .enters(LAN, tight6.clone())
            .told_too_big(TIGHT.id + ID6, tells6(NARROW_MTU, &tight6)),
        case("4in4: who may not be fragmented is told what is left of the link's MTU")
            .enters(LAN, tunnel4.clone())
            .told_too_big(TIGHT_TUNNEL.id, tells4(NARROW_MTU - 20, &tunnel4)),
        case("6in6: who sends too much is told what is left of the link's MTU")
            .enters(LAN, tunnel6.clone())
            .told_too_big(TIGHT_TUNNEL.id + ID6, tells6(NARROW_MTU - 40, &tunnel6)),
        case("the MTU of the kernel's route is told, too")
            .enters(LAN, asking4.clone())
            .told_too_big(ASKING_NARROW.id, tells4(SLOW_MTU, &asking4))
            .counting(ASKING_NARROW.id, "fib_lookups"),
        case("the MTU of the kernel's IPv6 route is told, too")
            .enters(LAN, asking6.clone())
            .told_too_big(ASKING_NARROW.id + ID6, tells6(SLOW_MTU, &asking6))
            .counting(ASKING_NARROW.id + ID6, "fib_lookups"),
        case("who is in a VLAN is told into it").enters(LAN, tagged.clone()).told_too_big(TIGHT.id, {
            let ip = ipv4(VIP4, CLIENT4).identification(0).dont_fragment().ttl(64);
            let [high, low] = (NARROW_MTU as u16).to_be_bytes();
            let quoted = raw(tagged.bytes()[18..46].to_vec());
            ethernet(LAN_MAC, ROUTER_MAC).vlan(7) / ip / icmp(3, 4).rest([0, 0, high, low]) / quoted
        }),
    ]
}
