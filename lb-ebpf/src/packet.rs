//! The packet as a window of bytes, and the only place where its bounds are checked.
//!
//! The verifier's rule: a pointer into the packet may be used only after *that very pointer plus size* was
//! compared with `data_end`. So [`Packet::at`] computes the pointer once, compares it, and hands that one out;
//! computing it again from the same offset would be a different pointer to the verifier.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_adjust_head;

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
    pub fn len(self) -> usize {
        self.end() - self.start()
    }

    /// The interface the frame came in on.
    #[inline(always)]
    pub fn ingress(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.md).ingress_ifindex }
    }

    /// A pointer to a `T` at `offset`, if the frame holds all of it. `T` must have no alignment of its own
    /// (headers are arrays of bytes): nothing in a frame is aligned.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() == 1) };
        let pointer = self.start() + offset;
        if pointer + size_of::<T>() > self.end() {
            return None;
        }
        Some(pointer as *mut T)
    }

    /// Moves the start of the frame: negative makes room in front. Every pointer taken before is void.
    #[inline(always)]
    pub fn move_head(self, by: i32) -> bool {
        // SAFETY: the context is the one the kernel passed.
        unsafe { bpf_xdp_adjust_head(self.md, by) == 0 }
    }

    /// The raw context, for helpers that want it.
    #[inline(always)]
    pub fn context(self) -> *mut xdp_md {
        self.md
    }
}
