//! For backend hosts: takes the outer header off packets that Sluice sent by IP in IP, and hands the inner
//! packet to the host as if it had arrived so. Everything else passes untouched.
//!
//! A host that unwraps whatever anybody sends can be used to smuggle packets past address filters. So a packet
//! is unwrapped only when the *inner* destination is one of the addresses the operator listed (the VIPs).
#![no_std]
#![no_main]

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

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

/// More-fragments bit and fragment offset.
const FRAGMENTED: u16 = 0x3fff_u16.to_be();

#[xdp]
pub fn sluice_decap(ctx: XdpContext) -> u32 {
    let packet = Packet::new(ctx.ctx);
    // Unwrapped or not, the host takes it from here.
    let _ = unwrap(packet);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn unwrap(packet: Packet) -> Option<()> {
    let ethernet = packet.header::<EthHdr>(0)?;
    let ethertype = ethernet.u16::<12>();
    let (outer_length, inner_destination) = match ethertype {
        ETHERTYPE_IPV4 => {
            let outer = packet.header::<Ipv4Hdr>(EthHdr::LEN)?;
            // Sluice writes no options and no fragments; others' tunnels are left to the host.
            if outer.u8::<0>() != 0x45
                || outer.u8::<{ offset_of!(Ipv4Hdr, proto) }>() != PROTO_IPIP
                || outer.u16::<{ offset_of!(Ipv4Hdr, frags) }>() & FRAGMENTED != 0
            {
                return None;
            }
            let inner = packet.header::<Ipv4Hdr>(EthHdr::LEN + Ipv4Hdr::LEN)?;
            (Ipv4Hdr::LEN, [inner.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(), 0, 0, 0])
        }
        ETHERTYPE_IPV6 => {
            const DESTINATION: usize = offset_of!(Ipv6Hdr, dst_addr);
            let outer = packet.header::<Ipv6Hdr>(EthHdr::LEN)?;
            if outer.u8::<{ offset_of!(Ipv6Hdr, next_hdr) }>() != PROTO_IPV6 {
                return None;
            }
            let inner = packet.header::<Ipv6Hdr>(EthHdr::LEN + Ipv6Hdr::LEN)?;
            let destination = [
                inner.u32::<DESTINATION>(),
                inner.u32::<{ DESTINATION + 4 }>(),
                inner.u32::<{ DESTINATION + 8 }>(),
                inner.u32::<{ DESTINATION + 12 }>(),
            ];
            (Ipv6Hdr::LEN, destination)
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
    let macs = [ethernet.u32::<0>(), ethernet.u32::<4>(), ethernet.u32::<8>()];
    if !packet.move_head(outer_length as i32) {
        return None;
    }
    let header = packet.header::<EthHdr>(0)?;
    header.set_u32::<0>(macs[0]);
    header.set_u32::<4>(macs[1]);
    header.set_u32::<8>(macs[2]);
    header.set_u16::<12>(ethertype);
    // SAFETY: per-CPU memory of our own.
    unsafe { (*counters)[0] += 1 };
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
