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

/// The frame's EtherType, in network order.
#[inline(always)]
pub fn ethertype(packet: Packet) -> Option<u16> {
    Some(packet.header::<EthHdr>(0)?.u16::<{ offset_of!(EthHdr, ether_type) }>())
}
