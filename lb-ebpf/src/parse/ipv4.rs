//! IPv4 (RFC 791), with options.

use core::mem::offset_of;

use network_types::ip::Ipv4Hdr;

use lb_ebpf::packet::Packet;

use super::icmp::{self, PROTO_ICMP};
use super::{ERROR, FIRST, IP, Ip, LATER, WHOLE, l4, veiled};
use crate::settings;
use crate::veil::Veil;

/// The more-fragments bit and the fragment offset, in network order.
const MORE_FRAGMENTS: u16 = 0x2000_u16.to_be();
const FRAGMENT_OFFSET: u16 = 0x1fff_u16.to_be();

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet, veil: &mut Veil) -> Option<Ip<'_, u32>> {
    let header = packet.header::<Ipv4Hdr>(IP)?;
    let vihl = header.u8::<{ offset_of!(Ipv4Hdr, vihl) }>();
    let header_length = usize::from(vihl & 0x0f) * 4;
    if vihl >> 4 != 4 || header_length < Ipv4Hdr::LEN {
        return None;
    }
    let fragment = header.u16::<{ offset_of!(Ipv4Hdr, frags) }>();
    let protocol = header.u8::<{ offset_of!(Ipv4Hdr, proto) }>();
    let l4 = IP + header_length;
    let source = header.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>();
    let (piece, protocol, l4, source, id) = if fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0 {
        if l4::balanced(protocol) {
            (WHOLE, protocol, l4, source, 0)
        } else if protocol == PROTO_ICMP && settings::icmp() != 0 {
            let quote = icmp::ipv4(packet, l4)?;
            // What an error quotes it about is the packet that its receiver sent.
            let quoted = packet.header::<Ipv4Hdr>(l4 + icmp::HEADER)?;
            let source = quoted.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>();
            (ERROR, quote.protocol(), quote.l4(), source, l4 as u32)
        } else {
            return None;
        }
    } else if l4::balanced(protocol) {
        let id = header.u16::<{ offset_of!(Ipv4Hdr, id) }>();
        let piece = match fragment & FRAGMENT_OFFSET {
            0 => FIRST,
            _ if settings::fragments() != 0 => LATER,
            _ => return None,
        };
        (piece, protocol, l4, source, u32::from(id))
    } else {
        return None;
    };
    let length = usize::from(u16::from_be(header.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>()));
    let (piece, protocol, l4) = veiled(veil, piece, protocol, l4);
    Some(Ip {
        source,
        destination: header.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(),
        protocol,
        l4,
        ports: piece.ports(packet, l4, length)?,
        length,
        class: header.u8::<{ offset_of!(Ipv4Hdr, tos) }>(),
        hops: header.u8::<{ offset_of!(Ipv4Hdr, ttl) }>(),
        piece,
        id,
        follows: 0,
    })
}
