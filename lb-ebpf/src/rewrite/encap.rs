//! The outer IP header of a tunnel: RFC 2003 for IPv4, RFC 2473 for IPv6. What lies between it and the packet is
//! [`super::shim`]'s.
//!
//! As the tunnel's entry we are a hop: the inner TTL or hop limit loses one (RFC 2003 §3.1), which callers see to.
//! ToS and traffic class are copied, which is what RFC 6040 wants of ECN at the ingress. The outer IPv4 header sets
//! DF — too big is answered for here, not by fragments on the way — and with DF its id may be zero (RFC 6864 §4.1).

use core::mem::offset_of;

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum;
use lb_ebpf::packet::Packet;

const OUTER_TTL: u8 = 64;

/// An outer header. Addresses in network order.
pub struct Outer<A> {
    pub source: A,
    pub destination: A,
    /// ToS or traffic class.
    pub class: u8,
    pub protocol: u8,
    /// Bytes behind this header.
    pub payload: usize,
    /// The flow's, so that routers and receivers spread tunnels by flow.
    pub hash: u32,
}

/// Writes an IPv4 header behind the Ethernet header, which is left unwritten. False when the frame has no room for it.
#[inline(always)]
pub fn ipv4(packet: Packet, outer: &Outer<u32>) -> bool {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    let Some(header) = packet.header::<Ipv4Hdr>(EthHdr::LEN) else { return false };
    let [high, low] = ((outer.payload + Ipv4Hdr::LEN) as u16).to_be_bytes();
    let first = u32::from_ne_bytes([0x45, outer.class, high, low]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([OUTER_TTL, outer.protocol, 0, 0]);
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u16::<8>(third as u16);
    header.set_u16::<CHECK>(csum::ipv4_header([first, second, third, outer.source, outer.destination]));
    header.set_u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(outer.source);
    header.set_u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(outer.destination);
    true
}

/// As [`ipv4`]. The flow label carries the flow's hash (RFC 6438).
#[inline(always)]
pub fn ipv6(packet: Packet, outer: &Outer<[u32; 4]>) -> bool {
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let Some(header) = packet.header::<Ipv6Hdr>(EthHdr::LEN) else { return false };
    let [high, low] = (outer.payload as u16).to_be_bytes();
    header.set_u32::<0>((0x6000_0000 | u32::from(outer.class) << 20 | outer.hash & 0x000f_ffff).to_be());
    header.set_u32::<4>(u32::from_ne_bytes([high, low, outer.protocol, OUTER_TTL]));
    header.set_u32::<SOURCE>(outer.source[0]);
    header.set_u32::<{ SOURCE + 4 }>(outer.source[1]);
    header.set_u32::<{ SOURCE + 8 }>(outer.source[2]);
    header.set_u32::<{ SOURCE + 12 }>(outer.source[3]);
    header.set_u32::<DESTINATION>(outer.destination[0]);
    header.set_u32::<{ DESTINATION + 4 }>(outer.destination[1]);
    header.set_u32::<{ DESTINATION + 8 }>(outer.destination[2]);
    header.set_u32::<{ DESTINATION + 12 }>(outer.destination[3]);
    true
}
