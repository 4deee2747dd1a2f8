//! IPv6 (RFC 8200), without extension headers: a packet that has any carries no ports we can see.

use network_types::ip::Ipv6Hdr;

use lb_common::addr::words6;
use lb_ebpf::packet::Packet;

use super::{IP, l4};

/// Offset of the L4 header in the frame.
pub const L4: usize = IP + Ipv6Hdr::LEN;

/// An IPv6 packet whose payload is TCP or UDP. Addresses and ports in network order.
pub struct Ipv6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub protocol: u8,
    pub ports: l4::Ports,
    /// Header and payload, without Ethernet padding.
    pub length: usize,
    /// Version, traffic class and flow label as loaded.
    pub first_word: [u8; 4],
    pub hop_limit: u8,
}

/// `None`: no ports to look a service up by.
#[inline(always)]
pub fn parse(packet: Packet) -> Option<Ipv6> {
    let header: *mut Ipv6Hdr = packet.at(IP)?;
    // SAFETY: bounds checked by `at`; the fields are bytes.
    let header = unsafe { &*header };
    if header.vcf[0] >> 4 != 6 || !l4::balanced(header.next_hdr) {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes(header.payload_len));
    if payload < l4::PORTS {
        return None;
    }
    Some(Ipv6 {
        source: words6(header.src_addr),
        destination: words6(header.dst_addr),
        protocol: header.next_hdr,
        ports: l4::ports(packet, L4)?,
        length: Ipv6Hdr::LEN + payload,
        first_word: header.vcf,
        hop_limit: header.hop_limit,
    })
}

impl Ipv6 {
    /// As [`super::ipv4::Ipv4::complete`].
    #[inline(always)]
    pub fn complete(&self, packet: Packet) -> bool {
        IP + self.length <= packet.len() && self.length >= Ipv6Hdr::LEN + l4::header_length(self.protocol)
    }
}
