//! Load-time constants: the loader sets them in the program's read-only data before it is verified, so the
//! verifier prunes what a config does not use.
//!
//! Named once here; the program declares a static of each name, the loader overrides it by name.

/// `u8`: some service or backend is IPv4.
pub const IPV4: &str = "SETTING_IPV4";
/// `u8`: some service or backend is IPv6.
pub const IPV6: &str = "SETTING_IPV6";
/// `u8`: some service forwards by NAT, so replies are looked for.
pub const NAT: &str = "SETTING_NAT";
/// `u8`: some service forwards by IP in IP.
pub const IPIP: &str = "SETTING_IPIP";
/// `u8`: some service forwards by changing MAC addresses.
pub const DSR_L2: &str = "SETTING_DSR_L2";
/// `u8`: some service forwards by GRE.
pub const GRE: &str = "SETTING_GRE";
/// `u8`: some service forwards by GUE.
pub const GUE: &str = "SETTING_GUE";
/// `u8`: some service forwards by VXLAN or Geneve.
pub const OVERLAY: &str = "SETTING_OVERLAY";
/// `u8`: some packets are tunnelled through the other address family.
pub const CROSSING: &str = "SETTING_CROSSING";
/// `u8`: frames with VLAN tags are looked into, and next hops may have tags.
pub const VLAN: &str = "SETTING_VLAN";
/// `u8`: IPv6 extension headers are stepped over.
pub const EXTENSIONS: &str = "SETTING_EXTENSIONS";
/// `u8`: later fragments follow their first one.
pub const FRAGMENTS: &str = "SETTING_FRAGMENTS";
/// `u8`: ICMP errors about a service's packets go to the backend they concern.
pub const ICMP: &str = "SETTING_ICMP";
/// `u8`: echo requests for service addresses are answered.
pub const ECHO: &str = "SETTING_ECHO";
/// `u8`: senders of packets that are too big are told.
pub const TOO_BIG: &str = "SETTING_TOO_BIG";
/// `u8`: the MSS of TCP connections of some service is lowered to what its way takes.
pub const CLAMP: &str = "SETTING_CLAMP";
/// `u8`: flows of some service are tracked.
pub const TRACKING: &str = "SETTING_TRACKING";
/// `u8`: some service listens on a prefix or on a range of ports.
pub const WILDCARDS: &str = "SETTING_WILDCARDS";
/// `u8`: log every decision through aya-log. For debugging in a lab, never in service.
pub const LOG: &str = "SETTING_LOG";
/// `u8`: time comes from the `clock` map, which a test owns, not from the kernel.
pub const TEST_CLOCK: &str = "SETTING_TEST_CLOCK";
/// `[u64; 12]`: the expanded hash key.
pub const HASH_KEY: &str = "SETTING_HASH_KEY";
/// `u32`: host bits of the IPv4 tunnel source that vary with the flow, as a mask in network order; 0 for none.
pub const TUNNEL_SOURCE_MASK4: &str = "SETTING_TUNNEL_SOURCE_MASK4";
/// `u32`: the same for the last word of the IPv6 tunnel source.
pub const TUNNEL_SOURCE_MASK6: &str = "SETTING_TUNNEL_SOURCE_MASK6";
