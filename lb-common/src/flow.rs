//! The identity of a flow: its 5-tuple, in the words that are hashed.
//!
//! The same words serve both directions of lookup tables later; keep their order, the ring depends on it.

/// An IPv4 flow as seen from the client: client, VIP, ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow4 {
    pub source: u32,
    pub destination: u32,
    /// Both ports as one word loaded from the first four bytes of the L4 header.
    pub ports: u32,
    pub protocol: u32,
}

/// An IPv6 flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow6 {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub ports: u32,
    pub protocol: u32,
}
