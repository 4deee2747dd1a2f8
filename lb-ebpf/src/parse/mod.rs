//! Headers to values, once. Nothing here decides; a packet that cannot be a service's is `None`.

pub mod ipv4;
pub mod ipv6;
pub mod l4;

use core::mem::offset_of;

use network_types::eth::EthHdr;

use lb_ebpf::packet::Packet;

/// Where the IP header starts: no VLAN tags are looked into.
pub const IP: usize = EthHdr::LEN;

/// EtherTypes as loaded from the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// An IP packet that carries TCP or UDP ports. Addresses and ports in network order.
pub struct Ip<A> {
    pub source: A,
    pub destination: A,
    pub protocol: u8,
    /// Offset of the L4 header in the frame.
    pub l4: usize,
    pub ports: l4::Ports,
    /// Header and payload, without Ethernet padding.
    pub length: usize,
    /// IPv4's ToS, IPv6's traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// The first fragment of several; later ones have no ports and are not parsed.
    pub fragmented: bool,
}

impl<A> Ip<A> {
    /// The whole packet is in the frame, and the packet holds its whole L4 header. Checked only once the packet
    /// is known to be for a service: anyone else's odd packets are none of our business.
    #[inline(always)]
    pub fn complete(&self, packet: Packet) -> bool {
        IP + self.length <= packet.len() && self.length >= self.l4 - IP + l4::header_length(self.protocol)
    }
}

/// The frame's EtherType, in network order.
#[inline(always)]
pub fn ethertype(packet: Packet) -> Option<u16> {
    Some(packet.header::<EthHdr>(0)?.u16::<{ offset_of!(EthHdr, ether_type) }>())
}
