//! How a packet's way through the program ends early.

use lb_common::counters::DropReason;

/// Why the way ends before the packet was forwarded.
#[derive(Clone, Copy)]
pub enum Stop {
    /// Not for a service: the host gets it byte for byte as it came.
    Pass,
    /// For a service (by id), but it cannot be forwarded.
    Drop(u32, DropReason),
    /// As that, because it is too big for its way; [`crate::forward::excess`] says by how much.
    TooBig(u32),
    /// From its IP header on, the frame has become an answer to whoever sent it.
    Answer,
}
