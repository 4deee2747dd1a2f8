//! What packets leave behind: counters, events, and the budget events are paid from.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use lb_common::counters::{BackendCounters, DropReason, ServiceCounters};

use super::flow::{self, Standing};
use super::fragments::Fragments;
use super::rows::Rows;
use super::tracked::Tracked;
use super::world::World;
use crate::progrun::Counts;

/// Events of one CPU in one second (ARCHITECTURE.md, "A packet's way").
const EVENTS_PER_SECOND: u64 = 64;

/// Errors that one CPU sends in one second.
const ERRORS_PER_SECOND: u64 = 1000;

/// The line of counters for packets of no service.
const NOBODY: u32 = 0;

/// A neighbour the controller should have resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub interface: u32,
    pub address: IpAddr,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    services: BTreeMap<u32, ServiceCounters>,
    backends: BTreeMap<u16, BackendCounters>,
    /// Rows that are not steady, and flows that are written down for them.
    pub rows: Rows,
    /// Flows of tracked services.
    pub tracked: Tracked,
    pub standing: Standing,
    pub fragments: Fragments,
    /// Sent and not yet read, oldest first.
    pub events: VecDeque<Wanted>,
    /// At a backend host: packets taken out of their tunnels, and those in it for others.
    pub unwrapped: u64,
    pub unlisted: u64,
    /// For events.
    budget: Budget,
    /// The same for errors that are sent.
    told: Budget,
}

/// The second it is for, and what was spent of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budget(u64, u64);

impl Budget {
    fn spend(&mut self, now: u64, most: u64) -> bool {
        let Self(second, spent) = *self;
        let spent = if second == now { spent } else { 0 };
        let may = spent < most;
        *self = Self(now, spent + u64::from(may));
        may
    }
}

impl State {
    /// Before the first packet.
    pub fn of(world: &World) -> Self {
        Self { rows: Rows::of(world, |flow| flow::hash(world, flow, false)), ..Self::default() }
    }

    fn service(&mut self, id: u32) -> &mut ServiceCounters {
        self.services.entry(id).or_default()
    }

    /// The host gets it: the whole frame counts.
    pub fn passed(&mut self, bytes: usize) {
        let line = self.service(NOBODY);
        line.packets += 1;
        line.bytes += bytes as u64;
    }

    /// A client's packet is on its way: the IP packet counts, as it came.
    pub fn forwarded(&mut self, service: u32, backend: u16, bytes: usize, opens: bool) {
        let line = self.service(service);
        line.packets += 1;
        line.bytes += bytes as u64;
        line.syns += u64::from(opens);
        let line = self.backends.entry(backend).or_default();
        line.packets += 1;
        line.bytes += bytes as u64;
    }

    /// A backend's reply is on its way.
    pub fn replied(&mut self, service: u32, backend: u16, bytes: usize) {
        let line = self.service(service);
        line.reply_packets += 1;
        line.reply_bytes += bytes as u64;
        let line = self.backends.entry(backend).or_default();
        line.reply_packets += 1;
        line.reply_bytes += bytes as u64;
    }

    pub fn dropped(&mut self, service: u32, reason: DropReason) {
        self.service(service).drops[reason as usize] += 1;
    }

    /// An error about a service's packet is on its way.
    pub fn icmp_error(&mut self, service: u32) {
        self.service(service).icmp_errors += 1;
    }

    /// Takes one of the errors that may be sent in this second.
    pub fn may_tell(&mut self, now: u64) -> bool {
        self.told.spend(now, ERRORS_PER_SECOND)
    }

    /// A later fragment found its first one, or, for nobody, did not.
    pub fn fragment(&mut self, service: u32) {
        self.service(service).fragments += 1;
    }

    pub fn asked(&mut self, service: u32) {
        self.service(service).fib_lookups += 1;
    }

    /// Tells the controller of a missing neighbour if the budget allows, and whether it did.
    pub fn want(&mut self, wanted: Wanted, now: u64) -> bool {
        let told = self.budget.spend(now, EVENTS_PER_SECOND);
        if told {
            self.events.push_back(wanted);
        }
        told
    }

    /// All counters that are not zero.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (id, line) in &self.services {
            counts.service(*id, line);
        }
        for (id, line) in &self.rows.counters {
            counts.flows(*id, line);
        }
        for (id, line) in &self.tracked.counters {
            counts.tracked(*id, line);
        }
        for (id, line) in &self.backends {
            counts.backend(u32::from(*id), line);
        }
        counts.add("decap unwrapped".to_owned(), self.unwrapped);
        counts.add("decap unlisted".to_owned(), self.unlisted);
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_for_a_second_and_starts_anew_with_the_next() {
        let mut state = State::default();
        let wanted = Wanted { interface: 1, address: [10, 0, 0, 1].into() };
        let told = |state: &mut State, now| (0..100).filter(|_| state.want(wanted, now)).count();
        assert_eq!(told(&mut state, 5), 64);
        assert_eq!(told(&mut state, 5), 0);
        assert_eq!(told(&mut state, 6), 64);
        assert_eq!(state.events.len(), 128);
    }
}
