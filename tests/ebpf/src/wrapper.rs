//! Makes every run of `BPF_PROG_TEST_RUN` a new packet: undoes what the last run did to the frame, writes the
//! headers of the next flow, and tail-calls the program under test.
//!
//! With `repeat = N` the kernel runs a program N times on one buffer and never resets it. A program that
//! encapsulates or translates would find its own output from the second run on, take another path, and be measured
//! there.
//!
//! Frozen, as `reference.rs` is: its cost is part of every figure.
//!
//! Flows are numbered by a counter times an odd constant, masked: every flow of a power of two once per cycle, in
//! an order no prefetcher follows. A flow's number goes into the client's address (low 16 bits) and port (low 4
//! bits), and its complement into fields that nobody looks at (the IPv4 id; the TCP sequence number or the first
//! bytes of a UDP payload), so that every packet's checksums are right without being computed.
//!
//! The words are written where the fields are, four bytes each: a load that spans two stores still in flight waits
//! for both to reach the cache, which no real packet makes anyone do.
#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{PerCpuArray, ProgramArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use lb_tests_ebpf::frame;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The program under test, in slot 0. Written by the harness.
#[btf_map]
pub static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// Packets made by this CPU so far: the number of the next one. Written here.
#[btf_map]
pub static NEXT: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Ethernet header (14 bytes and 2 of padding), then what follows it: 64 bytes, an IPv6 header and 24 more.
const TEMPLATE_WORDS: usize = 4 + 16;
const TEMPLATE_END: usize = 14 + 64;

/// Odd, so that multiplying by it permutes any power of two of flows; 2^32 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b1;

macro_rules! setting {
    ($(#[$doc:meta])* $reader:ident: $type:ty = $symbol:ident) => {
        #[unsafe(no_mangle)]
        static $symbol: $type = 0;

        $(#[$doc])*
        #[inline(always)]
        fn $reader() -> $type {
            // SAFETY: a static of our own. Volatile, because the loader overrides it.
            unsafe { core::ptr::read_volatile(&$symbol) }
        }
    };
}

setting!(
    /// Bytes in the frame as it comes in; at least [`TEMPLATE_END`].
    frame_length: u64 = FRAME_LENGTH
);
setting!(
    /// Number of flows less one.
    flow_mask: u64 = FLOW_MASK
);
setting!(
    /// Where the client's address ends: its last 4 bytes.
    client_offset: u64 = CLIENT_OFFSET
);
setting!(
    /// What is there in the template; the last 16 bits are 0.
    client_word: u32 = CLIENT_WORD
);
setting!(
    /// Where the L4 header begins: its ports.
    ports_offset: u64 = PORTS_OFFSET
);
setting!(
    /// What is there in the template; the last 4 bits of the source port are 0.
    ports_word: u32 = PORTS_WORD
);
setting!(
    /// 4 bytes covered by the L4 checksum that nobody looks at.
    complement_offset: u64 = COMPLEMENT_OFFSET
);
setting!(
    /// The IPv4 id; 0 for IPv6, which has no header checksum to keep.
    id_offset: u64 = ID_OFFSET
);

#[unsafe(no_mangle)]
static TEMPLATE: [u32; TEMPLATE_WORDS] = [0; TEMPLATE_WORDS];

#[inline(always)]
fn template<const WORD: usize>() -> u32 {
    // SAFETY: a static of our own. Volatile, because the loader overrides it.
    unsafe { core::ptr::read_volatile(&TEMPLATE[WORD]) }
}

#[xdp]
pub fn wrapper(ctx: XdpContext) -> u32 {
    let Some(next) = NEXT.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: per-CPU memory; runs on one CPU do not overlap.
    let number = unsafe {
        let number = *next;
        *next = number + 1;
        number
    };

    let grown = (ctx.data_end() - ctx.data()) as i64 - frame_length() as i64;
    if grown != 0 {
        // SAFETY: the context is the kernel's.
        let failed = unsafe { bpf_xdp_adjust_head(ctx.ctx, grown as i32) };
        if failed != 0 {
            return xdp_action::XDP_ABORTED;
        }
    }
    let start = ctx.data();
    if start + TEMPLATE_END > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }

    frame::store32::<0>(start, template::<0>());
    frame::store32::<4>(start, template::<1>());
    frame::store32::<8>(start, template::<2>());
    frame::store16::<12>(start, template::<3>() as u16);
    frame::store32::<14>(start, template::<4>());
    frame::store32::<18>(start, template::<5>());
    frame::store32::<22>(start, template::<6>());
    frame::store32::<26>(start, template::<7>());
    frame::store32::<30>(start, template::<8>());
    frame::store32::<34>(start, template::<9>());
    frame::store32::<38>(start, template::<10>());
    frame::store32::<42>(start, template::<11>());
    frame::store32::<46>(start, template::<12>());
    frame::store32::<50>(start, template::<13>());
    frame::store32::<54>(start, template::<14>());
    frame::store32::<58>(start, template::<15>());
    frame::store32::<62>(start, template::<16>());
    frame::store32::<66>(start, template::<17>());
    frame::store32::<70>(start, template::<18>());
    frame::store32::<74>(start, template::<19>());

    // In the byte order of the frame, as loaded: the last 16 bits of an address are the upper half of its word.
    let flow = number.wrapping_mul(SPREAD) & flow_mask();
    let client = flow & 0xffff;
    let ports = u64::from(ports_word()) | (flow >> 16 & 0xf) << 8;
    frame::store32::<0>(start + client_offset() as usize, client_word() | (client << 16) as u32);
    frame::store32::<0>(start + ports_offset() as usize, ports as u32);
    frame::store32::<0>(start + complement_offset() as usize, !(client | ports << 16) as u32);
    if id_offset() != 0 {
        frame::store16::<0>(start + id_offset() as usize, !client as u16);
    }

    // SAFETY: nothing of this program is needed any more.
    unsafe { UNDER_TEST.tail_call(&ctx, 0) };
    // Nobody is in the slot.
    xdp_action::XDP_ABORTED
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
