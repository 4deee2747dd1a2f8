//! Where a packet goes after it was rewritten: next hops, and routes for replies to clients.

/// Value of the `next_hops` array. Entries never change while something refers to them: a new MAC address is
/// a new entry, and the references are moved one word at a time. Index 0 is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NextHop {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// The interface's MTU: the largest IP packet it takes.
    pub mtu: u32,
    pub ifindex: u32,
    /// VLAN tags that frames to this hop have, the outer one first; without one, the first is [`UNTAGGED`]. Each as
    /// [`tag`] makes it.
    pub tags: [u16; 2],
}

/// No VLAN tag.
pub const UNTAGGED: u16 = 0;
/// There is a tag, and the lower twelve bits are its VLAN.
pub const TAGGED: u16 = 0x8000;
/// The tag is a service tag (IEEE 802.1ad), not a customer's (802.1Q).
pub const SERVICE_TAG: u16 = 0x4000;

/// A VLAN tag as [`NextHop::tags`] holds it.
#[inline(always)]
pub const fn tag(vlan: u16, service: bool) -> u16 {
    TAGGED | if service { SERVICE_TAG } else { 0 } | (vlan & 0x0fff)
}

impl NextHop {
    /// The first twelve bytes of an Ethernet header towards this hop, as three words.
    #[inline(always)]
    pub const fn mac_words(&self) -> [u32; 3] {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (self.destination_mac, self.source_mac);
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])]
    }
}

/// Value of `vlans`: what an interface that is a VLAN stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vlan {
    /// The interface that its frames leave by.
    pub ifindex: u32,
    /// As [`NextHop::tags`].
    pub tags: [u16; 2],
}

/// The route has a gateway: `next_hop` is its index.
pub const ROUTE_GATEWAY: u32 = 1;
/// The destination is a neighbour on `ifindex`: look it up there.
pub const ROUTE_ON_LINK: u32 = 2;
/// Anything the controller does not mirror: ask `bpf_fib_lookup`.
pub const ROUTE_ASK_KERNEL: u32 = 3;

/// Value of the longest-prefix tries `routes4` and `routes6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub kind: u32,
    /// For [`ROUTE_GATEWAY`]: index into `next_hops`, 0 while the gateway's MAC is not known.
    pub next_hop: u32,
    /// For [`ROUTE_ON_LINK`]: the interface.
    pub ifindex: u32,
    pub reserved: u32,
}

/// Key of `neighbours4`: the same address may be a neighbour on two links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour4 {
    pub ifindex: u32,
    pub addr: u32,
}

/// Key of `neighbours6`. Aligned to 8 for the same reason as [`crate::addr::Endpoint6`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour6 {
    pub addr: [u32; 4],
    pub ifindex: u32,
    pub pad: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_header_begins_with_the_destination() {
        let hop =
            NextHop { destination_mac: [1, 2, 3, 4, 5, 6], source_mac: [7, 8, 9, 10, 11, 12], ..NextHop::default() };
        let bytes = hop.mac_words().map(u32::to_ne_bytes);
        assert_eq!(bytes, [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]);
    }

    #[test]
    fn a_tag_says_that_it_is_there_of_which_kind_and_which_vlan() {
        assert_eq!(tag(0, false), 0x8000);
        assert_eq!(tag(100, false), 0x8064);
        assert_eq!(tag(0xffff, true), 0xcfff);
    }
}
