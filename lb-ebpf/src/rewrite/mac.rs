//! The Ethernet header of the way out.

use network_types::eth::EthHdr;

use lb_common::counters::DropReason;
use lb_common::route::{NextHop, UNTAGGED};
use lb_ebpf::packet::Packet;

use super::vlan;
use crate::settings;

/// Writes both MAC addresses, the VLAN tags if there are any, and the EtherType.
#[inline(always)]
pub fn write(packet: Packet, next_hop: &NextHop, ethertype: u16) -> Result<(), DropReason> {
    if next_hop.tags[0] != UNTAGGED && settings::vlan() != 0 {
        return if vlan::write(packet, next_hop, ethertype) { Ok(()) } else { Err(DropReason::NoHeadroom) };
    }
    let Some(header) = packet.header::<EthHdr>(0) else { return Err(DropReason::Internal) };
    let [first, second, third] = next_hop.mac_words();
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u32::<8>(third);
    header.set_u16::<12>(ethertype);
    Ok(())
}

/// The frame goes back to who sent it.
#[inline(always)]
pub fn swap(packet: Packet) -> bool {
    let Some(header) = packet.header::<EthHdr>(0) else { return false };
    let destination = [header.u16::<0>(), header.u16::<2>(), header.u16::<4>()];
    header.set_u16::<0>(header.u16::<6>());
    header.set_u16::<2>(header.u16::<8>());
    header.set_u16::<4>(header.u16::<10>());
    header.set_u16::<6>(destination[0]);
    header.set_u16::<8>(destination[1]);
    header.set_u16::<10>(destination[2]);
    true
}
