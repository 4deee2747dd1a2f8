//! Frames cut short, at every byte there is. Until the ports are there nobody knows the packet is a service's,
//! and it passes; from then on it is the service's, and truncated. Never is anything written.

use lb_common::counters::DropReason;

use super::super::world::*;
use super::super::{Sweep, case};
use super::from_router;
use crate::packet::{Packet, ethernet, ipv4, ipv6, tcp, udp};

/// The shortest frame that the kernel runs.
const ETHERNET: usize = 14;

/// Every length from an Ethernet header to one byte less than the whole.
fn every_cut(name: &str, ingress: u32, packet: &Packet, ports_end: usize, service: u32) -> Sweep {
    let whole = packet.bytes();
    let cases = (ETHERNET..whole.len())
        .map(|length| {
            let name = format!("{name}, cut after {length} of {} bytes", whole.len());
            let case = case(name).enters_as_bytes(ingress, whole[..length].to_vec());
            if length < ports_end { case } else { case.dropped(service, DropReason::Truncated) }
        })
        .collect();
    Sweep { name: format!("{name}: cut at any byte, it passes or is truncated"), cases }
}

pub fn sweeps() -> Vec<Sweep> {
    let (v4, v6) = (ETHERNET + 20 + 4, ETHERNET + 40 + 4);
    let options = ipv4(CLIENT4, VIP4).options(&[0x94, 4, 0, 0, 1, 1, 1, 0]);
    vec![
        every_cut(
            "NAT, TCP over IPv4",
            LAN,
            &(from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 443) / "hi"),
            v4,
            WEB.id,
        ),
        every_cut(
            "NAT, UDP over IPv4",
            LAN,
            &(from_router() / ipv4(CLIENT4, VIP4) / udp(40_000, 53) / "hi"),
            v4,
            DNS.id,
        ),
        every_cut(
            "NAT, TCP over IPv6",
            LAN,
            &(from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 443) / "hi"),
            v6,
            WEB.id + ID6,
        ),
        every_cut(
            "NAT, UDP over IPv6",
            LAN,
            &(from_router() / ipv6(CLIENT6, VIP6) / udp(40_000, 53) / "hi"),
            v6,
            DNS.id + ID6,
        ),
        every_cut("4in4", LAN, &(from_router() / ipv4(CLIENT4, VIP4) / tcp(40_000, 444) / "hi"), v4, TUNNEL.id),
        every_cut("6in6", LAN, &(from_router() / ipv6(CLIENT6, VIP6) / tcp(40_000, 444) / "hi"), v6, TUNNEL.id + ID6),
        every_cut("NAT with IPv4 options", LAN, &(from_router() / options / tcp(40_000, 443)), v4 + 8, WEB.id),
        every_cut(
            "a reply over IPv4",
            DC,
            &(ethernet(B1_MAC, DC_MAC) / ipv4(backend4(B1), CLIENT4) / tcp(443, 40_000) / "hi"),
            v4,
            WEB.id,
        ),
        every_cut(
            "a reply over IPv6",
            DC,
            &(ethernet(B1_MAC, DC_MAC) / ipv6(backend6(B1), CLIENT6) / udp(53, 40_000) / "hi"),
            v6,
            DNS.id + ID6,
        ),
    ]
}
