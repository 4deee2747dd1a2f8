//! IPv6 (RFC 8200). Extension headers are [`super::extensions`]'.

use core::mem::offset_of;

use network_types::ip::Ipv6Hdr;

use lb_ebpf::packet::Packet;

use super::extensions::{is_extension, walk};
use super::icmp::{self, PROTO_ICMPV6};
use super::{ERROR, IP, Ip, LATER, WHOLE, l4, veiled};
use crate::settings;
use crate::veil::Veil;

/// Offset in the frame of what follows the header.
const L4: usize = IP + Ipv6Hdr::LEN;

/// The four words of an address that starts `OFFSET` bytes into the header.
macro_rules! address {
    ($header:expr, $field:ident) => {
        [
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 4 }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 8 }>(),
            $header.u32::<{ offset_of!(Ipv6Hdr, $field) + 12 }>(),
        ]
    };
}
pub(crate) use address;

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet, veil: &mut Veil) -> Option<Ip<'_, [u32; 4]>> {
    let header = packet.header::<Ipv6Hdr>(IP)?;
    // Version, traffic class, flow label.
    let first_word = u32::from_be(header.u32::<{ offset_of!(Ipv6Hdr, vcf) }>());
    let next = header.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>();
    if first_word >> 28 != 6 {
        return None;
    }
    let (piece, protocol, l4, id) = if l4::balanced(next) {
        (WHOLE, next, L4, 0)
    } else if is_extension(next) && settings::extensions() != 0 {
        let chain = walk(packet, next, L4)?;
        (chain.piece(), chain.protocol(), chain.l4(), chain.id())
    } else if next == PROTO_ICMPV6 && settings::icmp() != 0 {
        let quote = icmp::ipv6(packet, L4)?;
        (ERROR, quote.protocol(), quote.l4(), L4 as u32)
    } else {
        return None;
    };
    if piece == LATER && settings::fragments() == 0 {
        return None;
    }
    let source = if piece == ERROR && settings::icmp() != 0 {
        // What an error quotes is the packet that its receiver sent.
        let quoted = packet.header::<Ipv6Hdr>(L4 + icmp::HEADER)?;
        address!(quoted, dst_addr)
    } else {
        address!(header, src_addr)
    };
    let length = Ipv6Hdr::LEN + usize::from(u16::from_be(header.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()));
    let (piece, protocol, l4) = veiled(veil, piece, protocol, l4);
    Some(Ip {
        source,
        destination: address!(header, dst_addr),
        protocol,
        l4,
        ports: piece.ports(packet, l4, length)?,
        length,
        class: (first_word >> 20) as u8,
        hops: header.u8::<{ offset_of!(Ipv6Hdr, hop_limit) }>(),
        piece,
        id,
        follows: 0,
    })
}
