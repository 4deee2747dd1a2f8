//! Words that other CPUs and the controller change at the same time.
//!
//! The compiler's own atomics stop at load and store for this target, so the instructions are spelled out; kernels have
//! them since 5.12 (on ARM since 5.18). All of them order memory fully.

use core::arch::asm;
use core::ptr::NonNull;

/// An aligned word in a map.
#[derive(Clone, Copy, Debug)]
pub struct Word(NonNull<u64>);

impl Word {
    /// # Safety
    ///
    /// `pointer` is valid for as long as the word is used, aligned to 8, and nobody uses it other than atomically.
    #[inline(always)]
    pub unsafe fn new(pointer: *mut u64) -> Self {
        // SAFETY: a valid pointer is not null.
        Self(unsafe { NonNull::new_unchecked(pointer) })
    }

    #[inline(always)]
    pub fn load(self) -> u64 {
        // SAFETY: as `new` demands. One load, not torn: volatile, of a machine word.
        unsafe { self.0.read_volatile() }
    }

    #[inline(always)]
    pub fn store(self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.write_volatile(value) }
    }

    /// Writes `to` if the word is `from`; whether it was.
    #[inline(always)]
    pub fn swap(self, from: u64, to: u64) -> bool {
        let found: u64;
        // SAFETY: as above.
        unsafe {
            asm!("r0 = cmpxchg_64({pointer} + 0, r0, {to})", inout("r0") from => found,
                 pointer = in(reg) self.0.as_ptr(), to = in(reg) to, options(nostack));
        }
        found == from
    }

    /// Adds, modulo 2^64, and returns what the word was.
    #[inline(always)]
    pub fn add(self, mut by: u64) -> u64 {
        // SAFETY: as above.
        unsafe {
            asm!("{by} = atomic_fetch_add((u64 *)({pointer} + 0), {by})", by = inout(reg) by,
                 pointer = in(reg) self.0.as_ptr(), options(nostack));
        }
        by
    }
}
