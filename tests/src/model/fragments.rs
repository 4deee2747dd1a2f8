//! What first fragments told about the others of their packets, for as long as a receiver waits for those.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Family;
use super::read::Datagram;

/// Linux waits this long (`ipfrag_time`).
const SECONDS: u64 = 30;

/// What a first fragment was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Who got it; 0 for a reply.
    pub backend: u16,
    second: u64,
}

/// What all fragments of a packet have in common: IPv4's protocol is part of it (RFC 791 §3.2), IPv6's is not (RFC 8200
/// §4.5).
type Key = (IpAddr, IpAddr, u32, Option<u8>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragments(BTreeMap<Key, First>);

fn key(packet: &Datagram) -> Key {
    let protocol = (packet.family == Family::V4).then_some(packet.protocol);
    (packet.source, packet.destination, packet.identification, protocol)
}

impl Fragments {
    pub fn teach(&mut self, packet: &Datagram, backend: u16, second: u64) {
        let Datagram { protocol, source_port, destination_port, .. } = *packet;
        self.0.insert(key(packet), First { protocol, source_port, destination_port, backend, second });
    }

    pub fn find(&self, packet: &Datagram, now: u64) -> Option<First> {
        self.0.get(&key(packet)).filter(|first| now < first.second + SECONDS).copied()
    }
}
