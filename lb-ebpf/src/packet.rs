//! The packet as a window of bytes, and the only place where its bounds are checked.
//!
//! The verifier's rule: a pointer into the packet may be used only after *that very pointer plus size* was
//! compared with `data_end`. So [`Packet::at`] computes the pointer once, compares it, and hands that one out;
//! computing it again from the same offset would be a different pointer to the verifier.
//!
//! Nothing in a frame is aligned: Ethernet's 14 bytes see to that. The machine does not mind, the compiler does —
//! told the truth it reads byte by byte, told that it may misalign it also misaligns its own stack, which the
//! verifier forbids. So a [`Header`] is read and written by the very instruction that is meant.

use core::arch::asm;
use core::marker::PhantomData;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail};

/// The frame under decision.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    md: *mut xdp_md,
}

impl Packet {
    #[inline(always)]
    pub fn new(md: *mut xdp_md) -> Self {
        Self { md }
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the kernel passes a valid context; the verifier checks the access.
        unsafe { (*self.md).data as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.md).data_end as usize }
    }

    /// Bytes in the frame, Ethernet header and padding included.
    #[inline(always)]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(self) -> usize {
        self.end() - self.start()
    }

    /// The interface the frame came in on.
    #[inline(always)]
    pub fn ingress(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.md).ingress_ifindex }
    }

    /// The header `T` at `offset`, if the frame holds all of it.
    #[inline(always)]
    pub fn header<T>(self, offset: usize) -> Option<Header<T>> {
        let pointer = self.start() + offset;
        if pointer + size_of::<T>() > self.end() {
            return None;
        }
        Some(Header { pointer, layout: PhantomData })
    }

    /// Moves the start of the frame: negative makes room in front. Every pointer taken before is void.
    #[inline(always)]
    pub fn move_head(self, by: i32) -> bool {
        // SAFETY: the context is the one the kernel passed.
        unsafe { bpf_xdp_adjust_head(self.md, by) == 0 }
    }

    /// Cuts the frame off after `length` bytes. Every pointer taken before is void.
    #[inline(always)]
    pub fn cut(self, length: usize) -> bool {
        let mut now = self.len();
        // The difference of two pointers, before the compiler makes it one of two 32-bit halves of them.
        // SAFETY: changes nothing.
        unsafe { asm!("{0} = {0}", inout(reg) now, options(nomem, nostack, preserves_flags)) };
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(self.md, length as i32 - now as i32) == 0 }
    }

    /// The same to whoever runs it, and unknown to the compiler. In functions of their own that only read, it would pass
    /// the two pointers in place of the context, as the 32-bit numbers they look like, and the verifier refuses that. An
    /// instruction, because without one its line information may be another's, and the kernel refuses that.
    #[inline(always)]
    #[must_use]
    pub fn opaque(self) -> Self {
        let mut md = self.md;
        // SAFETY: changes nothing.
        unsafe { asm!("{0} = {0}", inout(reg) md, options(nostack, preserves_flags)) };
        Self { md }
    }

    /// The raw context, for helpers that want it.
    #[inline(always)]
    pub fn context(self) -> *mut xdp_md {
        self.md
    }
}

/// A header inside the frame, bounds checked, laid out as `T`. Void once the head was moved.
///
/// Offsets are constants within `T`, checked when compiled; values are as they lie in the frame (network order).
#[derive(Debug)]
pub struct Header<T> {
    pointer: usize,
    layout: PhantomData<T>,
}

macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $load_asm:literal, $store_asm:literal) => {
        #[inline(always)]
        pub fn $load<const OFFSET: usize>(&self) -> $type {
            const { assert!(OFFSET + size_of::<$type>() <= size_of::<T>()) };
            let value: u64;
            // SAFETY: reads inside the header, whose bounds were checked. Not `pure`: the frame is written to.
            unsafe {
                asm!($load_asm, value = lateout(reg) value, pointer = in(reg) self.pointer, offset = const OFFSET,
                     options(nostack, readonly));
            }
            value as $type
        }

        #[inline(always)]
        pub fn $store<const OFFSET: usize>(&self, value: $type) {
            const { assert!(OFFSET + size_of::<$type>() <= size_of::<T>()) };
            // SAFETY: writes inside the header, whose bounds were checked; no reference into a frame exists.
            unsafe {
                asm!($store_asm, value = in(reg) u64::from(value), pointer = in(reg) self.pointer,
                     offset = const OFFSET, options(nostack));
            }
        }
    };
}

impl<T> Header<T> {
    access!(u8, set_u8, u8, "{value} = *(u8 *)({pointer} + {offset})", "*(u8 *)({pointer} + {offset}) = {value}");
    access!(u16, set_u16, u16, "{value} = *(u16 *)({pointer} + {offset})", "*(u16 *)({pointer} + {offset}) = {value}");
    access!(u32, set_u32, u32, "{value} = *(u32 *)({pointer} + {offset})", "*(u32 *)({pointer} + {offset}) = {value}");
}
