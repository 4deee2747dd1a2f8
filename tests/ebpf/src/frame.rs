//! Bytes of the frame, read and written by exactly one instruction each.
//!
//! The product has the same in `lb-ebpf/src/packet.rs`. This copy is frozen with the programs that use it: were it
//! shared, an improvement there would make the reference faster too, and be invisible.

use core::arch::asm;

macro_rules! access {
    ($load:ident, $store:ident, $type:ty, $load_asm:literal, $store_asm:literal) => {
        /// The caller has compared `base + OFFSET` and its size with the end of the frame; the verifier insists.
        #[inline(always)]
        pub fn $load<const OFFSET: usize>(base: usize) -> $type {
            let value: u64;
            // SAFETY: inside the frame, see above. Not `pure`: the frame is written to.
            unsafe {
                asm!($load_asm, value = lateout(reg) value, base = in(reg) base, offset = const OFFSET,
                     options(nostack, readonly));
            }
            value as $type
        }

        /// As the load.
        #[inline(always)]
        pub fn $store<const OFFSET: usize>(base: usize, value: $type) {
            // SAFETY: inside the frame, see above; no reference into a frame exists.
            unsafe {
                asm!($store_asm, value = in(reg) u64::from(value), base = in(reg) base, offset = const OFFSET,
                     options(nostack));
            }
        }
    };
}

access!(load8, store8, u8, "{value} = *(u8 *)({base} + {offset})", "*(u8 *)({base} + {offset}) = {value}");
access!(load16, store16, u16, "{value} = *(u16 *)({base} + {offset})", "*(u16 *)({base} + {offset}) = {value}");
access!(load32, store32, u32, "{value} = *(u32 *)({base} + {offset})", "*(u32 *)({base} + {offset}) = {value}");
