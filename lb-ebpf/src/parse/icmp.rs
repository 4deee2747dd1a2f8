//! ICMP errors (RFC 792, RFC 4443): whose packet they are about.
//!
//! Of the packet that an error quotes, eight bytes of TCP or UDP are all there need be (RFC 792), so nothing further is
//! asked for. An error goes to who sent the packet; one that does not is not believed.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_ebpf::packet::Packet;

use super::extensions::{is_extension, walk};
use super::{IP, LATER, l4};
use crate::settings;

pub const PROTO_ICMP: u8 = 1;
pub const PROTO_ICMPV6: u8 = 58;

/// Bytes in front of what is quoted.
pub const HEADER: usize = 8;

/// Destination unreachable, time exceeded, parameter problem; not a redirect, which is for the host.
const ERRORS4: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ERRORS6: core::ops::RangeInclusive<u8> = 1..=4;

/// Bytes of the quoted TCP or UDP header that have to be there.
pub const QUOTED: usize = 8;

/// The protocol of the quoted packet, and where its ports are.
#[derive(Clone, Copy)]
pub struct Quote(u64);

impl Quote {
    #[inline(always)]
    const fn new(protocol: u8, l4: usize) -> Self {
        Self(protocol as u64 | (l4 as u64) << 8)
    }

    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        self.0 as u8
    }

    /// Offset in the frame. At most 511, and the verifier sees that.
    #[inline(always)]
    pub const fn l4(self) -> usize {
        (self.0 >> 8) as usize & 0x1ff
    }
}

/// What an IPv4 error at `icmp` quotes, if it is one and about a packet with ports.
#[inline(always)]
pub fn ipv4(packet: Packet, icmp: usize) -> Option<Quote> {
    match quote4(packet, icmp) {
        0 => None,
        quote => Some(Quote(quote)),
    }
}

/// As [`ipv4`].
#[inline(always)]
pub fn ipv6(packet: Packet, icmp: usize) -> Option<Quote> {
    match quote6(packet, icmp) {
        0 => None,
        quote => Some(Quote(quote)),
    }
}

#[cold]
#[inline(never)]
fn quote4(packet: Packet, icmp: usize) -> u64 {
    const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();
    let packet = packet.opaque();
    let Some(ip) = packet.header::<Ipv4Hdr>(IP) else { return 0 };
    let sender = ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>();
    let Some(header) = packet.header::<[u8; HEADER]>(icmp) else { return 0 };
    if !ERRORS4.contains(&header.u8::<0>()) {
        return 0;
    }
    let Some(inner) = packet.header::<Ipv4Hdr>(icmp + HEADER) else { return 0 };
    let vihl = inner.u8::<{ offset_of!(Ipv4Hdr, vihl) }>();
    let length = usize::from(vihl & 0x0f) * 4;
    let protocol = inner.u8::<{ offset_of!(Ipv4Hdr, proto) }>();
    if vihl >> 4 != 4
        || length < Ipv4Hdr::LEN
        || inner.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & FRAGMENT_OFFSET != 0
        || inner.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>() != sender
        || !l4::balanced(protocol)
    {
        return 0;
    }
    Quote::new(protocol, icmp + HEADER + length).0
}

#[cold]
#[inline(never)]
fn quote6(packet: Packet, icmp: usize) -> u64 {
    const SOURCE: usize = offset_of!(Ipv6Hdr, src_addr);
    const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
    let packet = packet.opaque();
    let Some(header) = packet.header::<[u8; HEADER]>(icmp) else { return 0 };
    if !ERRORS6.contains(&header.u8::<0>()) {
        return 0;
    }
    let Some(ip) = packet.header::<Ipv6Hdr>(IP) else { return 0 };
    let Some(inner) = packet.header::<Ipv6Hdr>(icmp + HEADER) else { return 0 };
    if inner.u8::<0>() >> 4 != 6
        || inner.u32::<SOURCE>() != ip.u32::<DESTINATION>()
        || inner.u32::<{ SOURCE + 4 }>() != ip.u32::<{ DESTINATION + 4 }>()
        || inner.u32::<{ SOURCE + 8 }>() != ip.u32::<{ DESTINATION + 8 }>()
        || inner.u32::<{ SOURCE + 12 }>() != ip.u32::<{ DESTINATION + 12 }>()
    {
        return 0;
    }
    let next = inner.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>();
    let l4 = icmp + HEADER + Ipv6Hdr::LEN;
    if l4::balanced(next) {
        return Quote::new(next, l4).0;
    }
    if settings::extensions() != 0
        && is_extension(next)
        && let Some(chain) = walk(packet, next, l4)
        && chain.piece() != LATER
    {
        return Quote::new(chain.protocol(), chain.l4()).0;
    }
    0
}
