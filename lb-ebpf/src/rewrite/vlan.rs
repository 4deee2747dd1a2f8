//! VLAN tags: back to those a frame came with, and those of the way out.

use network_types::eth::EthHdr;

use lb_common::route::{NextHop, SERVICE_TAG, UNTAGGED};
use lb_ebpf::packet::Packet;

use crate::maps::FRONT;
use crate::parse::eth::{ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, TAG};
use crate::settings;

/// Moves the start of the frame back to where it was before [`crate::parse::eth`] moved it past so many bytes of tags.
/// False: the kernel refuses, which it has no reason to.
#[inline(always)]
pub fn step_back(packet: Packet, tags: u8) -> bool {
    tags == 0 || settings::vlan() == 0 || back(packet, tags)
}

#[cold]
#[inline(never)]
fn back(packet: Packet, tags: u8) -> bool {
    let packet = packet.opaque();
    let Some(front) = FRONT.get_ptr_mut(0) else { return false };
    if !packet.move_head(-i32::from(tags)) {
        return false;
    }
    let Some(header) = packet.header::<EthHdr>(0) else { return false };
    // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
    let [first, second] = unsafe { *front };
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    true
}

/// Writes an Ethernet header with the next hop's tags, of which there is one at least. False when the frame has no room.
#[cold]
#[inline(never)]
pub fn write(packet: Packet, next_hop: &NextHop, ethertype: u16) -> bool {
    let packet = packet.opaque();
    const TYPE: usize = 12;
    const ONE: usize = EthHdr::LEN + TAG;
    const TWO: usize = ONE + TAG;
    let [first, second, third] = next_hop.mac_words();
    let [outer, inner] = next_hop.tags;
    if inner == UNTAGGED {
        if !packet.move_head(-(TAG as i32)) {
            return false;
        }
        let Some(header) = packet.header::<[u8; ONE]>(0) else { return false };
        header.set_u32::<0>(first);
        header.set_u32::<4>(second);
        header.set_u32::<8>(third);
        header.set_u16::<TYPE>(kind(outer));
        header.set_u16::<{ TYPE + 2 }>(vlan(outer));
        header.set_u16::<{ TYPE + 4 }>(ethertype);
        return true;
    }
    if !packet.move_head(-(2 * TAG as i32)) {
        return false;
    }
    let Some(header) = packet.header::<[u8; TWO]>(0) else { return false };
    header.set_u32::<0>(first);
    header.set_u32::<4>(second);
    header.set_u32::<8>(third);
    header.set_u16::<TYPE>(kind(outer));
    header.set_u16::<{ TYPE + 2 }>(vlan(outer));
    header.set_u16::<{ TYPE + 4 }>(kind(inner));
    header.set_u16::<{ TYPE + 6 }>(vlan(inner));
    header.set_u16::<{ TYPE + 8 }>(ethertype);
    true
}

/// The EtherType that says a tag follows.
#[inline(always)]
const fn kind(tag: u16) -> u16 {
    if tag & SERVICE_TAG != 0 { ETHERTYPE_SERVICE_VLAN } else { ETHERTYPE_VLAN }
}

/// Priority 0, not eligible to be dropped first, and the VLAN.
#[inline(always)]
const fn vlan(tag: u16) -> u16 {
    (tag & 0x0fff).to_be()
}
