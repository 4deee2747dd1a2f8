//! For backend hosts: takes the outer header off packets that Sluice sent by IP in IP, and hands the inner
//! packet to the host as if it had arrived so. Everything else passes untouched.
//!
//! A host that unwraps whatever anybody sends can be used to smuggle packets past address filters. So a packet
//! is unwrapped only when the *inner* destination is one of the addresses the operator listed (the VIPs), and
//! the outer one is the host's own.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::addr::words6;
use lb_ebpf::packet::Packet;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Inner destinations that are unwrapped. IPv4 in word 0 with the rest zero. Written by `sluice decap`, read
/// per tunnelled packet. Full: refused by the command.
#[btf_map]
pub static DECAP_VIPS: HashMap<[u32; 4], u32, 4096> = HashMap::new();

/// Packets unwrapped, and tunnelled packets left alone because their inner destination is not listed.
#[btf_map]
pub static DECAP_COUNTERS: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

const PROTO_IPIP: u8 = 4;
const PROTO_IPV6: u8 = 41;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

#[xdp]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.ctx);
    match unwrap(packet) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn unwrap(packet: Packet) -> Option<()> {
    let ethernet: *mut [u8; EthHdr::LEN] = packet.at(0)?;
    // SAFETY: bounds checked by `at`; copied, because moving the head voids the pointer.
    let ethernet = unsafe { *ethernet };
    let (outer, inner_destination) = match u16::from_ne_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => {
            let outer: *mut Ipv4Hdr = packet.at(EthHdr::LEN)?;
            // SAFETY: bounds checked by `at`.
            let outer = unsafe { &*outer };
            // Sluice writes no options and no fragments; others' tunnels are left to the host.
            let fragment = u16::from_be_bytes(outer.frags) & 0x3fff;
            if outer.vihl != 0x45 || outer.proto != PROTO_IPIP || fragment != 0 {
                return None;
            }
            let inner: *mut Ipv4Hdr = packet.at(EthHdr::LEN + Ipv4Hdr::LEN)?;
            // SAFETY: bounds checked by `at`.
            (Ipv4Hdr::LEN, [u32::from_ne_bytes(unsafe { (*inner).dst_addr }), 0, 0, 0])
        }
        ETHERTYPE_IPV6 => {
            let outer: *mut Ipv6Hdr = packet.at(EthHdr::LEN)?;
            // SAFETY: bounds checked by `at`.
            if unsafe { (*outer).next_hdr } != PROTO_IPV6 {
                return None;
            }
            let inner: *mut Ipv6Hdr = packet.at(EthHdr::LEN + Ipv6Hdr::LEN)?;
            // SAFETY: bounds checked by `at`.
            (Ipv6Hdr::LEN, words6(unsafe { (*inner).dst_addr }))
        }
        _ => return None,
    };
    let counters = DECAP_COUNTERS.get_ptr_mut(0)?;
    // SAFETY: hash elements are freed after a grace period.
    if unsafe { DECAP_VIPS.get(inner_destination) }.is_none() {
        // SAFETY: per-CPU memory of our own.
        unsafe { (*counters)[1] += 1 };
        return None;
    }
    if !packet.move_head(outer as i32) {
        return None;
    }
    let header: *mut [u8; EthHdr::LEN] = packet.at(0)?;
    // SAFETY: bounds checked by `at`; per-CPU memory of our own.
    unsafe {
        *header = ethernet;
        (*counters)[0] += 1;
    }
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
