//! The slow path: what the maps do not know is asked of the kernel's FIB, and counted.

use lb_common::counters::DropReason;
use lb_common::hash::HashKey;

use super::super::oracle::hash6;
use super::super::world::*;
use super::super::{Case, case};
use super::tunnel::{outer4, outer6};
use super::{from_router, to_dc, to_lan};
use crate::packet::{Packet, ethernet, ipv4, ipv6, tcp, udp};

pub fn cases(key: &HashKey) -> Vec<Case> {
    [to_backends(key), to_clients(), refused()].concat()
}

fn to_backends(key: &HashKey) -> Vec<Case> {
    let hash = hash6(key, (CLIENT6, 40_000), (VIP6, 9004));
    let ruled = hash6(key, (RULED_CLIENT6, 40_000), (VIP6, 9004));
    vec![
        case("the kernel's FIB is asked with the client as source, who may have a route of its own")
            .enters(LAN, from_router() / ipv4(RULED_CLIENT4, VIP4) / tcp(40_000, 9003))
            .leaves(DC, to_dc(GATEWAY_MAC) / ipv4(RULED_CLIENT4, backend4(SLOW)).ttl(63) / tcp(40_000, 9003))
            .forwarded(ASKING.id, SLOW)
            .counting(ASKING.id, "fib_lookups"),
        case("the kernel's FIB is asked with the IPv6 client as source, who may have a route of its own")
            .enters(LAN, from_router() / ipv6(RULED_CLIENT6, VIP6) / tcp(40_000, 9003))
            .leaves(DC, to_dc(GATEWAY_MAC) / ipv6(RULED_CLIENT6, backend6(SLOW)).hop_limit(63) / tcp(40_000, 9003))
            .forwarded(ASKING.id + ID6, SLOW + V6)
            .counting(ASKING.id + ID6, "fib_lookups"),
        case("the kernel's FIB is asked with a tunnel's source for what is in it")
            .enters(LAN, from_router() / ipv4(RULED_CLIENT4, VIP4) / udp(40_000, 9004))
            .leaves(DC, to_dc(SLOW_MAC) / outer4(SLOW, 0) / ipv4(RULED_CLIENT4, VIP4).ttl(63) / udp(40_000, 9004))
            .forwarded(ASKING_TUNNEL.id, SLOW)
            .counting(ASKING_TUNNEL.id, "fib_lookups"),
        case("the kernel's FIB is asked with an IPv6 tunnel's source for what is in it")
            .enters(LAN, from_router() / ipv6(RULED_CLIENT6, VIP6) / udp(40_000, 9004))
            .leaves(
                DC,
                to_dc(SLOW_MAC) / outer6(SLOW, 0, ruled) / ipv6(RULED_CLIENT6, VIP6).hop_limit(63) / udp(40_000, 9004),
            )
            .forwarded(ASKING_TUNNEL.id + ID6, SLOW + V6)
            .counting(ASKING_TUNNEL.id + ID6, "fib_lookups"),
        case("a backend without a next hop is reached by the kernel's FIB")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 9003))
            .leaves(DC, to_dc(SLOW_MAC) / ipv4(CLIENT4, backend4(SLOW)).ttl(63) / tcp(40_000, 9003))
            .forwarded(ASKING.id, SLOW)
            .counting(ASKING.id, "fib_lookups"),
        case("an IPv6 backend without a next hop is reached by the kernel's FIB")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 9003))
            .leaves(DC, to_dc(SLOW_MAC) / ipv6(CLIENT6, backend6(SLOW)).hop_limit(63) / tcp(40_000, 9003))
            .forwarded(ASKING.id + ID6, SLOW + V6)
            .counting(ASKING.id + ID6, "fib_lookups"),
        case("a 4in4 tunnel end without a next hop is reached by the kernel's FIB")
            .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 9004))
            .leaves(DC, to_dc(SLOW_MAC) / outer4(SLOW, 0) / ipv4(CLIENT4, VIP4).ttl(63) / udp(40_000, 9004))
            .forwarded(ASKING_TUNNEL.id, SLOW)
            .counting(ASKING_TUNNEL.id, "fib_lookups"),
        case("a 6in6 tunnel end without a next hop is reached by the kernel's FIB")
            .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9004))
            .leaves(DC, to_dc(SLOW_MAC) / outer6(SLOW, 0, hash) / ipv6(CLIENT6, VIP6).hop_limit(63) / udp(40_000, 9004))
            .forwarded(ASKING_TUNNEL.id + ID6, SLOW + V6)
            .counting(ASKING_TUNNEL.id + ID6, "fib_lookups"),
        case("a packet that fills the MTU of the kernel's route is sent")
            .enters(LAN, big4(SLOW_MTU, false))
            .leaves(DC, big4(SLOW_MTU, true))
            .forwarded(ASKING_NARROW.id, SLOW_NARROW)
            .counting(ASKING_NARROW.id, "fib_lookups"),
        case("an IPv6 packet that fills the MTU of the kernel's route is sent")
            .enters(LAN, big6(SLOW_MTU, false))
            .leaves(DC, big6(SLOW_MTU, true))
            .forwarded(ASKING_NARROW.id + ID6, SLOW_NARROW + V6)
            .counting(ASKING_NARROW.id + ID6, "fib_lookups"),
    ]
}

/// A packet of this many bytes for the backend behind the kernel's narrow route, as sent or as forwarded.
fn big4(length: usize, forwarded: bool) -> Packet {
    let data = vec![0x5a; length - 28];
    if forwarded {
        to_dc(GATEWAY_MAC) / ipv4(CLIENT4, backend4(SLOW_NARROW)).ttl(63) / udp(40_000, 9007) / data
    } else {
        from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 9007) / data
    }
}

fn big6(length: usize, forwarded: bool) -> Packet {
    let data = vec![0x5a; length - 48];
    if forwarded {
        to_dc(GATEWAY_MAC) / ipv6(CLIENT6, backend6(SLOW_NARROW)).hop_limit(63) / udp(40_000, 9007) / data
    } else {
        from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 9007) / data
    }
}

fn to_clients() -> Vec<Case> {
    vec![
        case("a reply to a client on the link that the maps do not know goes by the kernel's FIB")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), KERNEL_CLIENT4) / tcp(443, 40_000))
            .leaves(LAN, to_lan(KERNEL_CLIENT_MAC) / ipv4(VIP4, KERNEL_CLIENT4).ttl(63) / tcp(443, 40_000))
            .replied(WEB.id, B1)
            .counting(WEB.id, "fib_lookups"),
        case("a reply to an IPv6 client on the link that the maps do not know goes by the kernel's FIB")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv6(backend6(B1), KERNEL_CLIENT6) / tcp(443, 40_000))
            .leaves(LAN, to_lan(KERNEL_CLIENT_MAC) / ipv6(VIP6, KERNEL_CLIENT6).hop_limit(63) / tcp(443, 40_000))
            .replied(WEB.id + ID6, B1 + V6)
            .counting(WEB.id + ID6, "fib_lookups"),
        case("a reply by a gateway whose MAC the maps do not know yet goes by the kernel's FIB")
            .enters(DC, ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), PENDING_CLIENT4) / tcp(443, 40_000))
            .leaves(LAN, to_lan(ROUTER_MAC) / ipv4(VIP4, PENDING_CLIENT4).ttl(63) / tcp(443, 40_000))
            .replied(WEB.id, B1)
            .counting(WEB.id, "fib_lookups"),
    ]
}

fn refused() -> Vec<Case> {
    let reply4 = |client| ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), client) / tcp(443, 40_000);
    let reply6 = |client| ethernet(B1_MAC, DC_MAC) / ipv6(backend6(B1), client) / tcp(443, 40_000);
    let ask4 = |port| from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, port);
    let ask6 = |port| from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, port);
    [
        ("a backend whose MAC nobody knows is no_neighbour", LAN, ask4(9005), WAITING.id, DropReason::NoNeighbour),
        (
            "an IPv6 backend whose MAC nobody knows is no_neighbour",
            LAN,
            ask6(9005),
            WAITING.id + ID6,
            DropReason::NoNeighbour,
        ),
        ("a backend the kernel has no way to is no_route", LAN, ask4(9006), CUT_OFF.id, DropReason::NoRoute),
        (
            "an IPv6 backend the kernel has no way to is no_route",
            LAN,
            ask6(9006),
            CUT_OFF.id + ID6,
            DropReason::NoRoute,
        ),
        (
            "where the kernel does not forward, it answers nothing: forwarding_disabled",
            OFF_MAP,
            ask4(9003),
            ASKING.id,
            DropReason::ForwardingDisabled,
        ),
        (
            "where the kernel does not forward IPv6, it answers nothing: forwarding_disabled",
            OFF_MAP,
            ask6(9003),
            ASKING.id + ID6,
            DropReason::ForwardingDisabled,
        ),
        (
            "a client on the link whose MAC nobody knows is no_neighbour",
            DC,
            reply4(SILENT_CLIENT4),
            WEB.id,
            DropReason::NoNeighbour,
        ),
        (
            "an IPv6 client on the link whose MAC nobody knows is no_neighbour",
            DC,
            reply6(SILENT_CLIENT6),
            { WEB.id + ID6 },
            DropReason::NoNeighbour,
        ),
        ("a client the kernel has no way to is no_route", DC, reply4(FORBIDDEN_CLIENT4), WEB.id, DropReason::NoRoute),
        (
            "an IPv6 client the kernel has no way to is no_route",
            DC,
            reply6(FORBIDDEN_CLIENT6),
            WEB.id + ID6,
            DropReason::NoRoute,
        ),
        (
            "one byte more than the MTU of the kernel's route is too_big",
            LAN,
            big4(SLOW_MTU + 1, false),
            { ASKING_NARROW.id },
            DropReason::TooBig,
        ),
    ]
    .map(|(name, ingress, packet, service, reason)| {
        case(name).enters(ingress, packet).dropped(service, reason).counting(service, "fib_lookups")
    })
    .to_vec()
}
