//! The outer IP header: what it carries, where that is, and whether a router marked congestion on it.
//!
//! Sluice writes no IPv4 options, no extension headers and no fragments. Tunnels that have them are others', and left
//! to the host. (An IPv6 extension header is its own protocol number, of which nobody here knows anything.)

use core::mem::offset_of;

use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_ebpf::packet::Packet;

use crate::ecn;
use crate::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// More-fragments bit and fragment offset.
const FRAGMENTED: u16 = 0x3fff_u16.to_be();

pub struct Outer {
    /// What comes next: the protocol or next header field.
    pub protocol: u8,
    /// Where it starts in the frame.
    pub end: usize,
    /// How long it is, by this header. A total length that is too short for its own header comes out as more than
    /// any length field holds, so it agrees with none.
    pub length: u32,
    pub ecn: u8,
}

#[inline(always)]
pub fn read(packet: Packet) -> Option<Outer> {
    match packet.header::<EthHdr>(0)?.u16::<12>() {
        ETHERTYPE_IPV4 => {
            let ip = packet.header::<Ipv4Hdr>(EthHdr::LEN)?;
            if ip.u8::<0>() != 0x45 || ip.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & FRAGMENTED != 0 {
                return None;
            }
            let total = u16::from_be(ip.u16::<{ offset_of!(Ipv4Hdr, tot_len) }>());
            Some(Outer {
                protocol: ip.u8::<{ offset_of!(Ipv4Hdr, proto) }>(),
                end: EthHdr::LEN + Ipv4Hdr::LEN,
                length: u32::from(total).wrapping_sub(Ipv4Hdr::LEN as u32),
                ecn: ecn::ipv4(&ip),
            })
        }
        ETHERTYPE_IPV6 => {
            let ip = packet.header::<Ipv6Hdr>(EthHdr::LEN)?;
            Some(Outer {
                protocol: ip.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>(),
                end: EthHdr::LEN + Ipv6Hdr::LEN,
                length: u16::from_be(ip.u16::<{ offset_of!(Ipv6Hdr, payload_len) }>()).into(),
                ecn: ecn::ipv6(&ip),
            })
        }
        _ => None,
    }
}
