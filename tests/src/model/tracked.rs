//! Flows of services that track them: what is known of each, and what it says (docs/design/flows.md).

use std::collections::BTreeMap;

use lb_common::counters::TrackedCounters;

use super::flow::{Asked, Flow, Gate, Goes, Key, Phase};
use super::world::Orphans;

/// What the table holds, and what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Each with its service.
    pub flows: BTreeMap<Key, (u32, Flow)>,
    pub counters: BTreeMap<u32, TrackedCounters>,
    /// How many there are, by service, of IPv4 and of IPv6: nobody is ever removed.
    there: BTreeMap<u32, [u64; 2]>,
    /// By service.
    pub gates: BTreeMap<u32, Gate>,
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
    /// A row that is not steady had decided, and it was noted.
    Noted,
    /// That was known already.
    Known,
}

impl Tracked {
    /// What becomes of a flow whose row says by itself that it is the owner's.
    pub fn answer(&mut self, asked: &Asked<'_>, owner: u16) -> (Told, Goes) {
        let found = self.find(asked);
        let count = self.counters.entry(asked.service).or_default();
        count.lookups += 1;
        if let Some(flow) = found
            && !asked.is_expired(&flow)
        {
            let alive = asked.is_alive(&flow);
            if alive && !(asked.signs.opens && flow.phase == Phase::Closing) {
                count.hits += 1;
                self.flows.insert(asked.flow, (asked.service, flow.touched(asked.signs, asked.now)));
                return (Told::Followed, Goes::To(flow.backend));
            }
            if !alive && asked.is_midway() && asked.policy.orphans != Orphans::Reselect {
                return (Told::Orphan, Goes::Orphan);
            }
        }
        count.fallbacks += u64::from(asked.is_midway());
        let told = if owner == 0 {
            Told::NoBackend
        } else if asked.signs.resets {
            Told::Ended
        } else {
            self.write(asked, asked.met(owner))
        };
        (told, Goes::To(owner))
    }

    /// Notes what a row that is not steady has decided.
    pub fn note(&mut self, asked: &Asked<'_>, backend: u16) -> Told {
        let met = asked.met(backend);
        let found = self.find(asked);
        let goes_on = |flow: &Flow| {
            (flow.backend, flow.life) == (met.backend, met.life)
                && !asked.is_expired(flow)
                && !(asked.signs.opens && flow.phase == Phase::Closing)
        };
        let flow = match found.filter(goes_on) {
            Some(flow) => flow.touched(asked.signs, asked.now),
            None if found.is_none() && asked.signs.resets => return Told::Ended,
            None => met,
        };
        if found == Some(flow) {
            return Told::Known;
        }
        match self.write(asked, flow) {
            Told::Written | Told::Replaced => Told::Noted,
            refused => refused,
        }
    }

    /// Whose a flow is that is the owner's by its row, and of which something was heard that is none of its packets.
    pub fn peek(&self, asked: &Asked<'_>, owner: u16) -> u16 {
        self.find(asked).filter(|flow| asked.is_alive(flow)).map_or(owner, |flow| flow.backend)
    }

    fn find(&self, asked: &Asked<'_>) -> Option<Flow> {
        self.flows.get(&asked.flow).map(|(_, flow)| *flow)
    }

    /// Over what was there, or past the gate and into the quota.
    fn write(&mut self, asked: &Asked<'_>, flow: Flow) -> Told {
        let Asked { service, policy, .. } = *asked;
        let found = self.find(asked);
        let count = self.counters.entry(service).or_default();
        if let Some(old) = found {
            count.replaced += u64::from((old.backend, old.life) != (flow.backend, flow.life));
            self.flows.insert(asked.flow, (service, flow));
            return Told::Replaced;
        }
        if !self.gates.entry(service).or_default().pass(asked.now, policy.new_per_second) {
            count.refused_gate += 1;
            return Told::OverGate;
        }
        let family = usize::from(asked.flow.1.is_ipv6());
        let there = &mut self.there.entry(service).or_default()[family];
        if *there >= u64::from(policy.quotas[family]) {
            count.refused_quota += 1;
            return Told::OverQuota;
        }
        *there += 1;
        count.written += 1;
        self.flows.insert(asked.flow, (service, flow));
        Told::Written
    }

    /// How many flows of a service there are, of IPv4 and of IPv6.
    pub fn of(&self, service: u32) -> [u64; 2] {
        self.there.get(&service).copied().unwrap_or_default()
    }
}
