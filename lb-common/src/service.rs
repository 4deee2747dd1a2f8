//! What the program knows of a service: the value behind a VIP endpoint, and behind a backend endpoint for
//! replies.

/// How packets reach the backend.
pub const FORWARD_NAT: u8 = 1;
/// IP in IP, of either family in either (RFC 2003, RFC 2473, RFC 4213).
pub const FORWARD_IPIP: u8 = 2;
/// Only MAC addresses and the TTL change: the backend is on the link and has the VIP.
pub const FORWARD_DSR_L2: u8 = 3;
/// GRE (RFC 2784).
pub const FORWARD_GRE: u8 = 4;
/// Generic UDP encapsulation, variant 1: the packet follows the UDP header (draft-ietf-intarea-gue §3.2).
pub const FORWARD_GUE: u8 = 5;
/// GUE, variant 0: with a header of its own.
pub const FORWARD_GUE0: u8 = 6;
/// VXLAN (RFC 7348).
pub const FORWARD_VXLAN: u8 = 7;
/// Geneve (RFC 8926).
pub const FORWARD_GENEVE: u8 = 8;

/// Flag: the row is chosen by the addresses alone, so that a client stays with one backend whatever its ports.
pub const AFFINITY_SOURCE: u16 = 1;
/// Flag: [`Service::before`] names a ring, and its rows were chosen by the addresses alone.
pub const BEFORE_SOURCE: u16 = 2;
/// Flag: every flow is written down, whatever its row (see [`crate::tracked`]).
pub const TRACKED: u16 = 4;

/// Flag: the MSS of TCP connections is lowered to what the way to the backend takes.
pub const CLAMP: u16 = 8;

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
    /// `AFFINITY_*`, `BEFORE_*`, [`TRACKED`] and [`CLAMP`].
    pub flags: u16,
    /// The ring that this one takes the place of, as long as rows refer to it ([`crate::rows::BEFORE`]): class in the
    /// upper 8 bits, slot in the others, plus one; 0 for none.
    pub before: u32,
}

impl Service {
    /// As [`Self::before`] holds it.
    #[inline(always)]
    pub const fn pack_before(class: u8, slot: u32) -> u32 {
        (class as u32) << 24 | (slot + 1)
    }

    /// Class and slot of the ring before, if there is one.
    #[inline(always)]
    pub const fn before(&self) -> Option<(u8, u32)> {
        match self.before & 0x00ff_ffff {
            0 => None,
            slot => Some(((self.before >> 24) as u8, slot - 1)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_before_is_none_or_the_one_that_was_packed() {
        assert_eq!(Service::default().before(), None);
        for (class, slot) in [(0, 0), (4, 0), (2, 7), (3, 262_139), (1, (1 << 24) - 2)] {
            let service = Service { before: Service::pack_before(class, slot), ..Service::default() };
            assert_eq!(service.before(), Some((class, slot)));
        }
    }
}
