//! Flows of services that track them: what is known of each, and what it says (docs/design/flows.md). Rows are steady
//! here: of others the oracle in `lb_tests_rows` knows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::addr::PROTO_TCP;
use lb_common::counters::TrackedCounters;

use super::read::Datagram;
use super::world::{Service, World};

/// Client, VIP, both ports, protocol.
pub type Key = (IpAddr, IpAddr, u16, u16, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Opening,
    Established,
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub service: u32,
    pub backend: u16,
    /// Which of the lives of its id.
    pub life: u16,
    pub phase: Phase,
    pub last: u32,
}

/// What the table holds, and what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    pub flows: BTreeMap<Key, Flow>,
    pub counters: BTreeMap<u32, TrackedCounters>,
    /// By service: a second, and how many flows were let in.
    gates: BTreeMap<u32, (u32, u32)>,
}

/// What became of a packet's flow: for coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Followed,
    Written,
    Replaced,
    /// Nothing was to be written.
    Ended,
    OverQuota,
    OverGate,
    NoBackend,
    Orphan,
}

/// What a TCP packet's flags mean for its flow; a datagram's none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    opens: bool,
    ends: bool,
    resets: bool,
}

impl Signs {
    pub fn of(packet: &Datagram, frame: &[u8]) -> Self {
        let tcp = packet.protocol == PROTO_TCP;
        let flag = |bit: u8| tcp && frame.get(packet.l4 + 13).is_some_and(|flags| flags & bit != 0);
        let resets = flag(0x04);
        Self { opens: !resets && packet.opens(frame), ends: flag(0x01) && !packet.opens(frame) || resets, resets }
    }
}

/// Whose packet it is.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub world: &'a World,
    pub now: u32,
    pub service: &'a Service,
    pub packet: &'a Datagram,
}

impl Asked<'_> {
    /// What became of the flow, and its backend (0 for nobody); `None` for an orphan that is dropped.
    pub fn answer(
        &self,
        signs: Signs,
        owner: u16,
        standing: &BTreeMap<u16, (bool, u16)>,
        flows: &mut Flows,
    ) -> (Told, Option<u16>) {
        let policy = self.world.policy(self.service.id);
        let tcp = self.packet.protocol == PROTO_TCP;
        // A backend that is nowhere is not up, and lives no life.
        let known = |id: u16| match (self.world.backend(id), standing.get(&id)) {
            (None, _) => (false, 0),
            (Some(_), Some(standing)) => *standing,
            (Some(_), None) => (true, 1),
        };
        let Datagram { source, destination, source_port, destination_port, protocol, .. } = *self.packet;
        let key = (source, destination, source_port, destination_port, protocol);
        let found = flows.flows.get(&key).copied();
        let count = flows.counters.entry(self.service.id).or_default();
        count.lookups += 1;

        if let Some(mut flow) = found {
            let opening = tcp && flow.phase == Phase::Opening;
            let timeout = match (tcp, opening) {
                (true, true) => policy.tcp_opening,
                (true, false) => policy.tcp,
                (false, _) => policy.udp,
            };
            let alive = known(flow.backend) == (true, flow.life);
            if self.now - flow.last <= timeout {
                if alive && !(signs.opens && flow.phase == Phase::Closing) {
                    if signs.ends {
                        flow.phase = Phase::Closing;
                    } else if flow.phase == Phase::Opening && !signs.opens {
                        flow.phase = Phase::Established;
                    }
                    flow.last = self.now;
                    flows.flows.insert(key, flow);
                    count.hits += 1;
                    return (Told::Followed, Some(flow.backend));
                }
                if !alive && tcp && !signs.opens && policy.drops_orphans {
                    return (Told::Orphan, None);
                }
            }
        }
        count.fallbacks += u64::from(tcp && !signs.opens);
        if owner == 0 {
            return (Told::NoBackend, Some(0));
        }
        if signs.resets {
            return (Told::Ended, Some(owner));
        }
        let phase = match signs {
            Signs { opens: true, .. } => Phase::Opening,
            Signs { ends: true, .. } => Phase::Closing,
            _ => Phase::Established,
        };
        let (_, life) = known(owner);
        let flow = Flow { service: self.service.id, backend: owner, life, phase, last: self.now };
        if let Some(old) = found {
            count.replaced += u64::from((old.backend, old.life) != (owner, life));
            flows.flows.insert(key, flow);
            return (Told::Replaced, Some(owner));
        }
        let gate = flows.gates.entry(self.service.id).or_default();
        if gate.0 != self.now {
            *gate = (self.now, 0);
        }
        if gate.1 >= policy.new_per_second {
            count.refused_gate += 1;
            return (Told::OverGate, Some(owner));
        }
        gate.1 += 1;
        let theirs =
            |other: &&Flow, at: &Key| other.service == self.service.id && at.1.is_ipv6() == destination.is_ipv6();
        let there = flows.flows.iter().filter(|(at, flow)| theirs(flow, at)).count();
        if there >= policy.quotas[usize::from(destination.is_ipv6())] as usize {
            count.refused_quota += 1;
            return (Told::OverQuota, Some(owner));
        }
        count.written += 1;
        flows.flows.insert(key, flow);
        (Told::Written, Some(owner))
    }
}
