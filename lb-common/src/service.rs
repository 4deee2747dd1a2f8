//! What the program knows of a service: the value behind a VIP endpoint, and behind a backend endpoint for
//! replies.

/// How packets reach the backend.
pub const FORWARD_NAT: u8 = 1;
/// IP in IP: 4in4 or 6in6 (RFC 2003, RFC 2473).
pub const FORWARD_IPIP: u8 = 2;

/// Value of `services4` and `services6`. The map's key is the VIP endpoint in the packet's destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Index into `service_counters`; 0 is never a service.
    pub id: u32,
    /// Slot in the outer ring map of `class`.
    pub ring: u32,
    /// Which outer ring map: an index into [`crate::ring::CLASSES`].
    pub class: u8,
    /// One of the `FORWARD_*` constants.
    pub forward: u8,
    pub flags: u16,
    pub reserved: u32,
}

/// Value of `reverse4`: what a NAT backend's reply is translated back to. The key is the backend endpoint in
/// the packet's source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reverse4 {
    pub vip: u32,
    pub port: u16,
    pub backend: u16,
    pub service: u32,
    pub reserved: u32,
}

/// Value of `reverse6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reverse6 {
    pub vip: [u32; 4],
    pub port: u16,
    pub backend: u16,
    pub service: u32,
}
