//! For backend hosts: takes off what Sluice wrapped around a packet, and hands the inner packet to the host as if it
//! had arrived so. Everything else passes untouched.
//!
//! A host that unwraps whatever anybody sends can be used to smuggle packets past address filters. So a packet
//! is unwrapped only when the *inner* destination is one of the addresses the operator listed (the VIPs).
#![no_std]
#![no_main]

mod ecn;
mod outer;
mod settings;
mod tunnel;

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::decap::Vip;
use lb_ebpf::packet::Packet;

use tunnel::{Family, Inner};

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Inner destinations that are unwrapped. Written by `sluice decap`, read per tunnelled packet. Full: refused by
/// the command.
#[btf_map]
pub static DECAP_VIPS: HashMap<Vip, u32, 4096> = HashMap::new();

/// Packets unwrapped, and tunnelled packets left alone because their inner destination is not listed.
#[btf_map]
pub static DECAP_COUNTERS: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

#[xdp]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.ctx);
    // Unwrapped or not, the host takes it from here.
    let _ = unwrap(packet);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn unwrap(packet: Packet) -> Option<()> {
    let outer = outer::read(packet)?;
    let inner = tunnel::find(packet, &outer)?;
    let destination = destination(packet, inner)?;
    let counters = DECAP_COUNTERS.get_ptr_mut(0)?;
    // SAFETY: hash elements are freed after a grace period.
    if unsafe { DECAP_VIPS.get(destination) }.is_none() {
        // SAFETY: per-CPU memory of our own.
        unsafe { (*counters)[1] += 1 };
        return None;
    }
    ecn::carry(packet, inner, outer.ecn)?;
    strip(packet, inner)?;
    // SAFETY: per-CPU memory of our own.
    unsafe { (*counters)[0] += 1 };
    Some(())
}

/// Where the inner packet wants to go.
#[inline(always)]
fn destination(packet: Packet, inner: Inner) -> Option<Vip> {
    Some(match inner.family {
        Family::V4 => {
            let ip = packet.header::<Ipv4Hdr>(inner.at)?;
            Vip::v4(ip.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>())
        }
        Family::V6 => {
            const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
            let ip = packet.header::<Ipv6Hdr>(inner.at)?;
            Vip::v6([
                ip.u32::<DESTINATION>(),
                ip.u32::<{ DESTINATION + 4 }>(),
                ip.u32::<{ DESTINATION + 8 }>(),
                ip.u32::<{ DESTINATION + 12 }>(),
            ])
        }
    })
}

/// Everything in front of the inner packet goes, but for the outer frame's MAC addresses: they are this host's. An
/// inner Ethernet header's need not be anybody's.
#[inline(always)]
fn strip(packet: Packet, inner: Inner) -> Option<()> {
    let before = packet.header::<EthHdr>(0)?;
    let macs = [before.u32::<0>(), before.u32::<4>(), before.u32::<8>()];
    if !packet.move_head((inner.at - EthHdr::LEN) as i32) {
        return None;
    }
    let after = packet.header::<EthHdr>(0)?;
    after.set_u32::<0>(macs[0]);
    after.set_u32::<4>(macs[1]);
    after.set_u32::<8>(macs[2]);
    after.set_u16::<12>(match inner.family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    });
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
