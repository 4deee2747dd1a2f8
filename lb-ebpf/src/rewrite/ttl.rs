//! One hop less to live (RFC 791 §3.2, RFC 8200 §3). Callers have refused packets that had one or none left.

use core::mem::offset_of;

use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::Delta;
use lb_ebpf::packet::Header;

/// Takes one from the TTL and adds what that does to the header checksum.
#[inline(always)]
pub fn ipv4(header: &Header<Ipv4Hdr>, delta: Delta) -> Delta {
    const TTL: usize = offset_of!(Ipv4Hdr, ttl);
    // The TTL is the first byte of its checksum word.
    let before = header.u16::<TTL>();
    let [ttl, protocol] = before.to_ne_bytes();
    let after = u16::from_ne_bytes([ttl.wrapping_sub(1), protocol]);
    header.set_u16::<TTL>(after);
    delta.word16(before, after)
}

/// Takes one from the hop limit; IPv6 headers have no checksum.
#[inline(always)]
pub fn ipv6(header: &Header<Ipv6Hdr>) {
    const HOP_LIMIT: usize = offset_of!(Ipv6Hdr, hop_limit);
    header.set_u8::<HOP_LIMIT>(header.u8::<HOP_LIMIT>().wrapping_sub(1));
}
