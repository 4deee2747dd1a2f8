//! The Ethernet header of the way out.

use network_types::eth::EthHdr;

use lb_common::route::NextHop;
use lb_ebpf::packet::Packet;

/// Writes both MAC addresses and the EtherType. False when the frame has no room for them.
#[inline(always)]
pub fn write(packet: Packet, next_hop: &NextHop, ethertype: u16) -> bool {
    let Some(header) = packet.at::<[u8; EthHdr::LEN]>(0) else { return false };
    let [a, b, c, d, e, f] = next_hop.destination_mac;
    let [g, h, i, j, k, l] = next_hop.source_mac;
    let [m, n] = ethertype.to_ne_bytes();
    // SAFETY: bounds checked by `at`.
    unsafe { *header = [a, b, c, d, e, f, g, h, i, j, k, l, m, n] };
    true
}
