//! What the product is measured against: nothing at all, the least a balancer can do, and the conventional design.
//!
//! Frozen: every figure is a ratio to `reference_lru`, so a change here changes them all without anything having
//! become faster or slower. `cargo xtask bench --rebaseline` is how to change it on purpose.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{LruHashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_xdp_adjust_head};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use lb_tests_ebpf::frame;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A connection; addresses and ports in network order. Aligned, because the compiler writes it in 8-byte pieces and
/// the verifier wants those aligned on the stack.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct Flow {
    pub source: u32,
    pub destination: u32,
    pub ports: u32,
    pub protocol: u32,
}

/// Where its packets go.
#[repr(C)]
#[derive(Debug)]
pub struct Target {
    pub address: u32,
    pub port: u16,
    pub pad: u16,
    /// Destination and source MAC, as they lie in the frame.
    pub macs: [u32; 3],
    pub reserved: u32,
}

/// The connection table of the conventional design, filled by the harness.
#[btf_map]
pub static FLOWS: LruHashMap<Flow, Target, 1_048_576> = LruHashMap::new();

/// Packets that found no entry. Written here; a measurement is void unless it is 0.
#[btf_map]
pub static MISSES: PerCpuArray<u64, 1> = PerCpuArray::new();

/// The cheapest program there is.
#[xdp]
pub fn reference_drop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Sends what it is given: run through the wrapper, what the wrapper itself costs.
#[xdp]
pub fn reference_noop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Makes room for an IPv4 header: what any encapsulation costs before it has written a byte.
#[xdp]
pub fn reference_grow(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the kernel's.
    match unsafe { bpf_xdp_adjust_head(ctx.ctx, -20) } {
        0 => xdp_action::XDP_TX,
        _ => xdp_action::XDP_ABORTED,
    }
}

const IP: usize = 14;
const IP_LENGTH: usize = 20;
const TCP_LENGTH: usize = 20;
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const PROTO_TCP: u8 = 6;
const FRAGMENTED: u16 = 0x3fff_u16.to_be();

/// The conventional design: parse, one lookup in a connection table, destination NAT with the kernel's checksum
/// helper, out. No service lookup, no counters, no clock: a real one costs more.
#[xdp]
pub fn reference_lru(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    let ip = start + IP;
    if ip + IP_LENGTH > end || frame::load16::<12>(start) != ETHERTYPE_IPV4 {
        return xdp_action::XDP_PASS;
    }
    let protocol = frame::load8::<9>(ip);
    if frame::load8::<0>(ip) != 0x45 || frame::load16::<6>(ip) & FRAGMENTED != 0 || protocol != PROTO_TCP {
        return xdp_action::XDP_PASS;
    }
    let tcp = ip + IP_LENGTH;
    if tcp + TCP_LENGTH > end {
        return xdp_action::XDP_PASS;
    }
    let vip = frame::load32::<16>(ip);
    let ports = frame::load32::<0>(tcp);
    let flow = Flow { source: frame::load32::<12>(ip), destination: vip, ports, protocol: u32::from(protocol) };
    // SAFETY: nothing is ever inserted while this runs.
    let Some(target) = (unsafe { FLOWS.get(&flow) }) else {
        if let Some(misses) = MISSES.get_ptr_mut(0) {
            // SAFETY: per-CPU memory; runs on one CPU do not overlap.
            unsafe { *misses += 1 };
        }
        return xdp_action::XDP_DROP;
    };

    let address = difference(vip, target.address);
    let ttl = frame::load16::<8>(ip);
    let less = ttl.wrapping_sub(1);
    let hop = u64::from(!ttl) + u64::from(less);
    frame::store16::<8>(ip, less);
    frame::store32::<16>(ip, target.address);
    frame::store16::<10>(ip, update(frame::load16::<10>(ip), address + hop));
    let translated = ports & 0xffff | u32::from(target.port) << 16;
    frame::store16::<2>(tcp, target.port);
    frame::store16::<16>(tcp, update(frame::load16::<16>(tcp), address + difference(ports, translated)));
    frame::store32::<0>(start, target.macs[0]);
    frame::store32::<4>(start, target.macs[1]);
    frame::store32::<8>(start, target.macs[2]);
    xdp_action::XDP_TX
}

/// What replacing a word adds to a checksum's complement.
#[inline(always)]
fn difference(mut old: u32, mut new: u32) -> u64 {
    // SAFETY: both are locals of 4 bytes.
    let sum = unsafe { bpf_csum_diff(&mut old, 4, &mut new, 4, 0) };
    // Negative only for lengths that are not multiples of 4.
    u64::from(sum as u32)
}

/// RFC 1624, equation 3.
#[inline(always)]
fn update(checksum: u16, difference: u64) -> u16 {
    let mut sum = u64::from(!checksum) + difference;
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
