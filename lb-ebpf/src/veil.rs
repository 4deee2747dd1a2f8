//! Values that the verifier is not to know.
//!
//! It walks every way through the program with everything it knows, and takes two ways for one only if it knows the same.
//! A packet is of one of several kinds, and each kind would be walked to the end with every way of forwarding. A value that
//! went through memory in a way the verifier does not follow is any number to it, so where two kinds meet again it goes on
//! once, and for whatever comes.
//!
//! What it follows is whole words, what is stored at the beginning of one, and zero, wherever it is. So this is the second half
//! of a word.

use core::mem::MaybeUninit;

/// Memory for one number of 32 bits, which is read in parts. It must not be 0.
#[repr(C, align(8))]
pub struct Veil(MaybeUninit<[u32; 2]>);

impl Veil {
    #[inline(always)]
    pub fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    #[inline(always)]
    fn place(&self) -> *const u32 {
        // SAFETY: inside the array.
        unsafe { self.0.as_ptr().cast::<u32>().add(1) }
    }

    #[inline(always)]
    pub fn set(&mut self, value: u32) {
        // SAFETY: of our own, and borrowed mutably.
        unsafe { self.place().cast_mut().write_volatile(value) }
    }

    /// One of the four bytes, in the machine's order.
    #[inline(always)]
    pub fn byte<const INDEX: usize>(&self) -> u8 {
        const { assert!(INDEX < 4) };
        // SAFETY: inside the number, which is initialised: nobody asks who has not set.
        unsafe { self.place().cast::<u8>().add(INDEX).read_volatile() }
    }

    /// One of the two halves, in the machine's order.
    #[inline(always)]
    pub fn half<const INDEX: usize>(&self) -> u16 {
        const { assert!(INDEX < 2) };
        // SAFETY: as above.
        unsafe { self.place().cast::<u16>().add(INDEX).read_volatile() }
    }
}
