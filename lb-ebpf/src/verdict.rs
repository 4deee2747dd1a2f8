//! How a packet's way through the program ends early.
//!
//! One word, not an enum: the compiler builds an enum of several shapes from its halves in memory and reads it back whole, which
//! the processor waits for.

use lb_common::counters::DropReason;

/// Why the way ends before the packet was forwarded: what becomes of it, the reason of a drop, and above them the service's
/// id.
#[derive(Clone, Copy)]
pub struct Stop(u64);

/// What becomes of a packet that is not forwarded.
pub const PASS: u8 = 0;
pub const DROP: u8 = 1;
pub const TOO_BIG: u8 = 2;
pub const ANSWER: u8 = 3;

impl Stop {
    /// Not for a service: the host gets it byte for byte as it came.
    pub const PASS: Self = Self(PASS as u64);
    /// From its IP header on, the frame has become an answer to whoever sent it.
    pub const ANSWER: Self = Self(ANSWER as u64);

    /// For a service (by id), but it cannot be forwarded.
    #[inline(always)]
    pub const fn drop(service: u32, reason: DropReason) -> Self {
        Self(DROP as u64 | (reason as u64) << 8 | (service as u64) << 32)
    }

    /// As that, because it is too big for its way; [`crate::forward::excess`] says by how much.
    #[inline(always)]
    pub const fn too_big(service: u32) -> Self {
        Self(TOO_BIG as u64 | (DropReason::TooBig as u64) << 8 | (service as u64) << 32)
    }

    #[inline(always)]
    pub const fn what(self) -> u8 {
        self.0 as u8
    }

    /// A [`DropReason`], as a number.
    #[inline(always)]
    pub const fn reason(self) -> u32 {
        (self.0 >> 8) as u8 as u32
    }

    #[inline(always)]
    pub const fn service(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
