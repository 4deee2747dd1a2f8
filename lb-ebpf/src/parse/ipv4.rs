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
    let piece = match (fragment & FRAGMENT_OFFSET, fragment & MORE_FRAGMENTS) {
        (0, 0) => WHOLE,
        (0, _) => FIRST,
        _ if settings::fragments() != 0 => LATER,
        _ => return None,
    };
    let protocol = header.u8::<{ offset_of!(Ipv4Hdr, proto) }>();
    let (piece, protocol, l4) = if l4::balanced(protocol) {
        (piece, protocol, IP + header_length)
    } else if settings::icmp() != 0 && protocol == PROTO_ICMP && piece == WHOLE {
        let quote = icmp::ipv4(packet, IP + header_length)?;
        (ERROR, quote.protocol(), quote.l4())
    } else {
        return None;
    };
    // What an error quotes it about is the packet that its receiver sent.
    let (source, id) = match piece {
        WHOLE => (header.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(), 0),
        ERROR => {
            let quoted = packet.header::<Ipv4Hdr>(IP + header_length + icmp::HEADER)?;
            (quoted.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(), (IP + header_length) as u32)
        }
        _ => {
            (header.u32::<{ offset_of!(Ipv4Hdr, src_addr) }>(), u32::from(header.u16::<{ offset_of!(Ipv4Hdr, id) }>()))
        }
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
