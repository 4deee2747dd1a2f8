//! What the program tells the controller through the `events` ring buffer.

/// The program needed a neighbour the kernel has not resolved; the controller asks the kernel to.
pub const EVENT_WANT_NEIGHBOUR: u32 = 1;

#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub kind: u32,
    /// 4 or 6.
    pub family: u32,
    pub ifindex: u32,
    pub reserved: u32,
    /// The next hop; IPv4 in word 0.
    pub addr: [u32; 4],
}
