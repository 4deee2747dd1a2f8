//! The only place, besides `icmp`, where bytes of a packet change.

pub mod encap;
pub mod mac;
pub mod nat;
pub mod reset;
pub mod shim;
pub mod ttl;
pub mod udp;
