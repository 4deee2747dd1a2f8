//! One hop less to live (RFC 791 §3.2, RFC 8200 §3). Callers have refused packets that had one or none left.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::Delta;
use lb_ebpf::packet::{Header, Packet};

use crate::parse::IP;

/// The word of the checksum that the TTL is the first byte of, when it is 1 and the other byte 0.
const ONE: u16 = u16::from_ne_bytes([1, 0]);

/// Takes one from the TTL and adds what that does to the header checksum: the same whatever the TTL was.
#[inline(always)]
pub fn less4(header: &Header<Ipv4Hdr>, delta: Delta) -> Delta {
    const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    header.set_u8::<TTL>(header.u8::<TTL>().wrapping_sub(1));
    delta.word16(ONE, 0)
}

/// Takes one from the hop limit; IPv6 headers have no checksum.
#[inline(always)]
pub fn less6(header: &Header<Ipv6Hdr>) {
    const HOP_LIMIT: usize = offset_of!(Ipv6Hdr, hop_limit);
    header.set_u8::<HOP_LIMIT>(header.u8::<HOP_LIMIT>().wrapping_sub(1));
}

/// Takes one from the TTL of a packet of which nothing else changes.
#[inline(always)]
pub fn ipv4(packet: Packet) -> bool {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    let Some(header) = packet.header::<Ipv4Hdr>(IP) else { return false };
    let delta = less4(&header, Delta::new());
    header.set_u16::<CHECK>(delta.apply(header.u16::<CHECK>()));
    true
}

/// As [`ipv4`].
#[inline(always)]
pub fn ipv6(packet: Packet) -> bool {
    let Some(header) = packet.header::<Ipv6Hdr>(IP) else { return false };
    less6(&header);
    true
}
