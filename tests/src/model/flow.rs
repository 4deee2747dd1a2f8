//! A flow: what it is known by, what its packets mean for it, and what may be written down of it
//! (docs/design/rows.md, docs/design/flows.md).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use lb_common::addr::PROTO_TCP;
use lb_common::hash::HashKey;

use super::read::Datagram;
use super::world::{Policy, World};
use crate::golden::oracle;

/// Client, VIP, both ports, protocol.
pub type Key = (IpAddr, IpAddr, u16, u16, u8);

/// Of a packet from a client.
pub fn key(packet: &Datagram) -> Key {
    (packet.source, packet.destination, packet.source_port, packet.destination_port, packet.protocol)
}

/// A flow's keyed hash: both addresses, and both ports unless the client alone counts, as they lie in the packet.
pub fn hash(world: &World, flow: &Key, by_client: bool) -> u32 {
    let key = HashKey(world.settings.hash_key);
    let (source, destination, from, to, _) = *flow;
    let (from, to) = if by_client { (0, 0) } else { (from, to) };
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => oracle::hash4(&key, (s, from), (d, to)),
        (IpAddr::V6(s), IpAddr::V6(d)) => oracle::hash6(&key, (s, from), (d, to)),
        _ => unreachable!("one packet has one family"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    Opening,
    Established,
    Closing,
}

/// What is written down of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub backend: u16,
    /// Which of the lives of its id.
    pub life: u16,
    pub phase: Phase,
    /// The second of its last packet.
    pub last: u32,
}

impl Flow {
    /// Silent for longer than its timeout, strictly.
    pub fn is_expired(&self, tcp: bool, policy: &Policy, now: u32) -> bool {
        let timeout = match (tcp, self.phase) {
            (true, Phase::Opening) => policy.tcp_opening,
            (true, _) => policy.tcp,
            (false, _) => policy.udp,
        };
        i64::from(now) - i64::from(self.last) > i64::from(timeout)
    }

    /// After a packet of it.
    pub fn touched(self, signs: Signs, now: u32) -> Self {
        let phase = match self.phase {
            _ if signs.ends => Phase::Closing,
            Phase::Opening if !signs.opens => Phase::Established,
            phase => phase,
        };
        Self { phase, last: now, ..self }
    }
}

/// What a TCP packet's flags mean for its flow; a datagram's none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    pub opens: bool,
    /// By FIN or RST.
    pub ends: bool,
    pub resets: bool,
}

impl Signs {
    pub fn of(packet: &Datagram, frame: &[u8]) -> Self {
        let tcp = packet.protocol == PROTO_TCP;
        let flag = |bit: u8| tcp && frame.get(packet.l4 + 13).is_some_and(|flags| flags & bit != 0);
        let resets = flag(0x04);
        Self { opens: !resets && packet.opens(frame), ends: flag(0x01) && !packet.opens(frame) || resets, resets }
    }

    /// The phase of a flow that is met first with such a packet.
    pub fn first(self) -> Phase {
        match self {
            Self { opens: true, .. } => Phase::Opening,
            Self { ends: true, .. } => Phase::Closing,
            _ => Phase::Established,
        }
    }
}

/// Backends that are not what the world says, by id: whether they are up, and which of their lives it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing(pub BTreeMap<u16, (bool, u16)>);

impl Standing {
    /// Whether a backend is up, and its life. One that is nowhere is not, and lives none.
    pub fn of(&self, world: &World, id: u16) -> (bool, u16) {
        match (world.backend(id), self.0.get(&id)) {
            (None, _) => (false, 0),
            (Some(_), Some(standing)) => *standing,
            (Some(_), None) => (true, 1),
        }
    }
}

/// A packet of a client's, and what is the case when it comes.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub world: &'a World,
    pub standing: &'a Standing,
    pub policy: Policy,
    pub now: u32,
    /// The service's id.
    pub service: u32,
    pub flow: Key,
    pub signs: Signs,
}

impl<'a> Asked<'a> {
    pub fn of(world: &'a World, standing: &'a Standing, now: u64, service: u32, flow: Key, signs: Signs) -> Self {
        Self { world, standing, policy: world.policy(service), now: now as u32, service, flow, signs }
    }

    pub fn tcp(&self) -> bool {
        self.flow.4 == PROTO_TCP
    }

    pub fn is_up(&self, backend: u16) -> bool {
        self.standing.of(self.world, backend).0
    }

    /// The flow's backend is up, in the life that is written down.
    pub fn is_alive(&self, flow: &Flow) -> bool {
        self.standing.of(self.world, flow.backend) == (true, flow.life)
    }

    pub fn is_expired(&self, flow: &Flow) -> bool {
        flow.is_expired(self.tcp(), &self.policy, self.now)
    }

    /// In the middle of a connection.
    pub fn is_midway(&self) -> bool {
        self.tcp() && !self.signs.opens
    }

    /// The flow as it is met now, a backend's in its present life.
    pub fn met(&self, backend: u16) -> Flow {
        let (_, life) = self.standing.of(self.world, backend);
        Flow { backend, life, phase: self.signs.first(), last: self.now }
    }
}

/// Where a flow's packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// To a backend, 0 being nobody.
    To(u16),
    /// Its backend is down, and it is not to go to another one.
    Orphan,
}

/// The entries a service may write in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    pub second: u32,
    pub passed: u32,
}

impl Gate {
    pub fn pass(&mut self, now: u32, most: u32) -> bool {
        let passed = if self.second == now { self.passed } else { 0 };
        if passed >= most {
            return false;
        }
        *self = Self { second: now, passed: passed + 1 };
        true
    }
}
