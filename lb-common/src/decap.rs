//! What the program for backend hosts and the command that loads it agree on.
//!
//! The trap: an IPv6 address whose last twelve bytes are zero looks like an IPv4 address followed by zeroes. Whoever
//! lists one has not listed the other, so a key says which it is.

/// `u16`: the UDP port of GUE, in network order.
pub const GUE_PORT: &str = "SETTING_GUE_PORT";
/// `u16`: the UDP port of VXLAN, in network order.
pub const VXLAN_PORT: &str = "SETTING_VXLAN_PORT";
/// `u16`: the UDP port of Geneve, in network order.
pub const GENEVE_PORT: &str = "SETTING_GENEVE_PORT";
/// `u32`: the network (VNI) of VXLAN and Geneve, or [`ANY_VNI`].
pub const VNI: &str = "SETTING_VNI";

/// The ports that IANA assigned, in host order (draft-ietf-intarea-gue, RFC 7348 §8, RFC 8926 §3.3).
pub const DEFAULT_GUE_PORT: u16 = 6080;
pub const DEFAULT_VXLAN_PORT: u16 = 4789;
pub const DEFAULT_GENEVE_PORT: u16 = 6081;

/// No network is meant. A VNI has 24 bits, so it cannot be one.
pub const ANY_VNI: u32 = u32::MAX;

/// An inner destination. Aligned to 8, as [`crate::addr::Endpoint6`] is.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    /// IPv4 in word 0 with the rest zero.
    pub address: [u32; 4],
    /// 4 or 6.
    pub family: u32,
    pub pad: u32,
}

impl Vip {
    pub const fn v4(address: u32) -> Self {
        Self { address: [address, 0, 0, 0], family: 4, pad: 0 }
    }

    pub const fn v6(address: [u32; 4]) -> Self {
        Self { address, family: 6, pad: 0 }
    }
}
