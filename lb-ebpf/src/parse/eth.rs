//! Ethernet, with up to two VLAN tags (IEEE 802.1Q, 802.1ad).
//!
//! Tags are not stepped over by offsets that vary, which every header behind them would pay for. The start of the frame
//! is moved past them instead: what is then in front of the IP header ends in its EtherType like any Ethernet header, and
//! the addresses in there are none, which nobody reads. [`crate::rewrite::vlan`] moves the start back.

use core::mem::offset_of;

use network_types::eth::EthHdr;

use lb_ebpf::packet::Packet;

use crate::maps::FRONT;
use crate::settings;

/// Where the IP header starts.
pub const IP: usize = EthHdr::LEN;

/// EtherTypes as loaded from the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// A customer's tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100_u16.to_be();
/// A service provider's.
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8_u16.to_be();

/// Bytes of a tag.
pub const TAG: usize = 4;

/// The frame's EtherType, in network order, and how many bytes of tags its start was moved past.
#[inline(always)]
pub fn ethertype(packet: Packet) -> Option<(u16, u8)> {
    let ethertype = outer(packet)?;
    if !is_tag(ethertype) || settings::vlan() == 0 {
        return Some((ethertype, 0));
    }
    let tags = step_over(packet);
    Some((outer(packet)?, tags as u8))
}

#[inline(always)]
fn outer(packet: Packet) -> Option<u16> {
    Some(packet.header::<EthHdr>(0)?.u16::<{ offset_of!(EthHdr, ether_type) }>())
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// Moves the start of the frame past its tags, if there are no more than two and IP is behind them. Remembers the bytes
/// at the start, because the kernel moves a driver's metadata along, over them.
#[cold]
#[inline(never)]
fn step_over(packet: Packet) -> usize {
    let packet = packet.opaque();
    const AFTER_ONE: usize = offset_of!(EthHdr, ether_type) + TAG;
    const AFTER_TWO: usize = AFTER_ONE + TAG;
    let Some(header) = packet.header::<[u8; AFTER_ONE + 2]>(0) else { return 0 };
    let (ethertype, tags) = match header.u16::<AFTER_ONE>() {
        another if is_tag(another) => {
            let Some(header) = packet.header::<[u8; AFTER_TWO + 2]>(0) else { return 0 };
            (header.u16::<AFTER_TWO>(), 2 * TAG)
        }
        ethertype => (ethertype, TAG),
    };
    if ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6 {
        return 0;
    }
    let Some(front) = FRONT.get_ptr_mut(0) else { return 0 };
    // SAFETY: per-CPU memory of our own, and XDP is not preempted by XDP on the same CPU.
    unsafe { *front = [header.u32::<0>(), header.u32::<4>()] };
    if packet.move_head(tags as i32) { tags } else { 0 }
}
