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

/// Bits of [`ports_key`] before the port: an entry of `ports` is this long and as much of the port as a range has in common.
pub const PORTS_KEY_BITS: u32 = 48;

/// Key of `ports`: group of VIP prefixes, protocol, and port in network order, in that order in memory, because a trie
/// compares from the first byte on. Its value is a service's id.
///
/// A packet that is for no exact endpoint is looked up in two steps: the longest prefix of its destination gives a group,
/// and group and port give the service. A group is never changed while a prefix names it, so that the two steps cannot
/// meet halves of two configurations.
#[inline(always)]
pub const fn ports_key(group: u32, protocol: u8, port: u16) -> u64 {
    let ([a, b, c, d], [e, f]) = (group.to_ne_bytes(), port.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, protocol, 0, e, f])
}

/// What [`ports_key`] was made of.
pub const fn from_ports_key(key: u64) -> (u32, u8, u16) {
    let [a, b, c, d, protocol, _, e, f] = key.to_ne_bytes();
    (u32::from_ne_bytes([a, b, c, d]), protocol, u16::from_ne_bytes([e, f]))
}

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
/// the packet's source, or [`crate::addr::Endpoint4::any_port`]; then `port` is 0, and the packet keeps its own.
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

    /// A trie compares bytes from the first one on, so the port's upper byte must come before its lower one, and last.
    #[test]
    fn ports_that_begin_alike_have_keys_that_begin_alike() {
        let bytes = |port: u16| ports_key(0x0102_0304, 17, port.to_be()).to_ne_bytes();
        assert_eq!(bytes(0x1f90)[4..], [17, 0, 0x1f, 0x90]);
        assert_eq!(bytes(0x1f90)[..4], 0x0102_0304_u32.to_ne_bytes());
        assert_eq!(bytes(0x1f90)[..PORTS_KEY_BITS as usize / 8], bytes(0x2f91)[..PORTS_KEY_BITS as usize / 8]);
        assert_eq!(from_ports_key(ports_key(9, 6, 443)), (9, 6, 443));
    }

    #[test]
    fn the_ring_before_is_none_or_the_one_that_was_packed() {
        assert_eq!(Service::default().before(), None);
        for (class, slot) in [(0, 0), (4, 0), (2, 7), (3, 262_139), (1, (1 << 24) - 2)] {
            let service = Service { before: Service::pack_before(class, slot), ..Service::default() };
            assert_eq!(service.before(), Some((class, slot)));
        }
    }
}
