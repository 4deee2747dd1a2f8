//! The only place, besides `icmp`, where bytes of a packet change.

pub mod encap;
pub mod icmp;
pub mod mac;
pub mod mss;
pub mod nat;
pub mod reset;
pub mod shim;
pub mod ttl;
pub mod udp;
pub mod vlan;
