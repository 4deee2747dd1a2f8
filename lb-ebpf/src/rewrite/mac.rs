//! The Ethernet header of the way out.

use network_types::eth::EthHdr;

use lb_common::route::NextHop;
use lb_ebpf::packet::Packet;

/// Writes both MAC addresses and the EtherType. False when the frame has no room for them.
#[inline(always)]
pub fn write(packet: Packet, next_hop: &NextHop, ethertype: u16) -> bool {
    let Some(header) = packet.header::<EthHdr>(0) else { return false };
    let [first, second, third] = next_hop.mac_words();
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u32::<8>(third);
    header.set_u16::<12>(ethertype);
    true
}
