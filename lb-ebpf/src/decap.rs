//! For backend hosts: takes the outer header off packets that Sluice sent by IP in IP, and hands the inner
//! packet to the host as if it had arrived so. Everything else passes untouched.
//!
//! A host that unwraps whatever anybody sends can be used to smuggle packets past address filters. So a packet
//! is unwrapped only when the *inner* destination is one of the addresses the operator listed (the VIPs).
//!
//! Sluice copies the ECN field outwards, so a router on the way may mark congestion on the outer header. That mark
//! is moved inside before the outer header goes (RFC 6040 §4.2); losing it would hide congestion from the sender.
#![no_std]
#![no_main]

use core::mem::offset_of;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use lb_common::csum::Delta;
use lb_ebpf::packet::{Header, Packet};

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

/// Offset of ToS in an IPv4 header.
const TOS: usize = offset_of!(Ipv4Hdr, tos);
/// Offset, in an IPv6 header, of the byte whose upper half is the lower half of the traffic class.
const CLASS_LOW: usize = 1;

/// The ECN field of ToS and traffic class (RFC 3168 §5).
const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

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
    let (outer_length, inner_destination, outer_ecn) = match ethertype {
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
            let destination = [inner.u32::<{ offset_of!(Ipv4Hdr, dst_addr) }>(), 0, 0, 0];
            (Ipv4Hdr::LEN, destination, outer.u8::<TOS>() & ECN)
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
            (Ipv6Hdr::LEN, destination, outer.u8::<CLASS_LOW>() >> 4 & ECN)
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
    let marked = if ethertype == ETHERTYPE_IPV4 {
        mark4(&packet.header::<Ipv4Hdr>(EthHdr::LEN + Ipv4Hdr::LEN)?, outer_ecn)
    } else {
        mark6(&packet.header::<Ipv6Hdr>(EthHdr::LEN + Ipv6Hdr::LEN)?, outer_ecn)
    };
    if !marked {
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

/// The inner ECN field once the outer header is gone (RFC 6040 §4.2, figure 4). `None`: congestion was marked on a
/// packet whose sender does not know ECN. Sluice sends none such, so it is left to the host.
#[inline(always)]
fn ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[inline(always)]
fn mark4(inner: &Header<Ipv4Hdr>, outer_ecn: u8) -> bool {
    const CHECK: usize = offset_of!(Ipv4Hdr, check);
    // Version, header length and ToS: one word of the checksum.
    let before = inner.u16::<0>();
    let [version, tos] = before.to_ne_bytes();
    let Some(ecn) = ecn(tos & ECN, outer_ecn) else { return false };
    let after = u16::from_ne_bytes([version, tos & !ECN | ecn]);
    if after != before {
        inner.set_u16::<0>(after);
        inner.set_u16::<CHECK>(Delta::new().word16(before, after).apply(inner.u16::<CHECK>()));
    }
    true
}

#[inline(always)]
fn mark6(inner: &Header<Ipv6Hdr>, outer_ecn: u8) -> bool {
    let before = inner.u8::<CLASS_LOW>();
    let Some(ecn) = ecn(before >> 4 & ECN, outer_ecn) else { return false };
    inner.set_u8::<CLASS_LOW>(before & !(ECN << 4) | ecn << 4);
    true
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
