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
    pub reserved: u32,
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

/// Key of `neighbours6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour6 {
    pub ifindex: u32,
    pub addr: [u32; 4],
}
