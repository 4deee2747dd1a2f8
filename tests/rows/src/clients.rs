//! The oracle: every flow remembers the backend it lives at, and complains when it is sent elsewhere.
//!
//! It knows nothing of rows and entries. A flow lives where its first packet went. It may go elsewhere when its
//! backend is down, gone, or another one by now; when it was silent for longer than its timeout; and nowhere else.

use lb_common::flow::Life;
use lb_common::ring::{KIND_MOVING, Row};
use lb_common::rows::{BEFORE, Decision, Sign};

use crate::cpu::{self, Other};
use crate::step::{Cpu, Sends};
use crate::world::{BACKENDS, Health, LATE, TCP_FLOWS, World};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum State {
    #[default]
    Closed,
    Opening,
    Established,
    HalfClosed,
}

/// The client's end of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Client {
    state: State,
    home: Option<Life>,
    /// Milliseconds.
    pub last: u64,
    /// Has nothing to lose: it was sent to a backend that was down, or had been silent too long.
    pub lost: bool,
    /// There was a flow before.
    lived: bool,
}

impl Client {
    pub fn is_opening(&self) -> bool {
        self.state == State::Opening
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    pub const fn home(&self) -> Option<Life> {
        self.home
    }

    /// What is the same for clients that will behave the same.
    pub fn essence(&self, now: u64) -> (u8, u32, u64, bool, bool) {
        let since = if self.is_closed() { 0 } else { (now - self.last).min(60_000) };
        let home = if self.is_closed() { 0 } else { self.home.map_or(0, |life| life.0) };
        (self.state as u8, home, since, self.lost, self.lived)
    }
}

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A flow left a backend that lives.
    Moved { flow: usize },
    /// A packet of a flow whose backend lives was told that there is none.
    Abandoned { flow: usize },
    /// A packet reached another service.
    Misdelivered { flow: usize },
    /// The controller does not get its change done.
    Stuck,
    /// An entry count is wrong.
    Miscounted,
}

impl World {
    fn violate(&mut self, violation: Violation) {
        self.tell(|_| format!("*** {violation:?}"));
        self.violations.push(violation);
    }

    pub fn complain(&mut self, violation: Violation) {
        self.violate(violation);
    }

    /// The sign that a client's packet bears, if it would send one now.
    fn sign(&self, flow: usize, sends: Sends) -> Option<Sign> {
        use State::{Closed, Established, HalfClosed, Opening};
        let Client { state, last, lived, .. } = self.clients[flow];
        if flow >= TCP_FLOWS {
            return matches!(sends, Sends::Middle).then_some(Sign::Middle);
        }
        match (sends, state) {
            (Sends::Open, Closed) => Some(Sign::Opens),
            // A second SYN later than that is a limit that is told, not a promise.
            (Sends::Again, Opening) if self.now - last <= 4000 => Some(Sign::Opens),
            (Sends::Middle, Opening | Established | HalfClosed) => Some(Sign::Middle),
            (Sends::Finish, Established) => Some(Sign::Finishes),
            (Sends::Reset, Established | HalfClosed) => Some(Sign::Resets),
            (Sends::StrayMiddle, Closed) if lived => Some(Sign::Middle),
            (Sends::StrayFinish, Closed) if lived => Some(Sign::Finishes),
            (Sends::StrayReset, Closed) if lived => Some(Sign::Resets),
            _ => None,
        }
    }

    pub fn would_send(&self, flow: usize, sends: Sends) -> bool {
        self.sign(flow, sends).is_some()
    }

    pub fn packet(&mut self, flow: usize, sends: Sends, cpu: Cpu) {
        let Some(sign) = self.sign(flow, sends) else { return };
        let row = self.story.as_ref().map(|_| self.describe_row(flow, cpu.old));
        let (decision, _) = cpu::packet(self, flow, sign, cpu, None);
        self.tell_packet(flow, sends, row, decision);
        self.arrived(flow, sends, decision);
    }

    pub fn race(&mut self, flow: usize, (first, second): (Sends, Sends), at: u8, cpus: (Cpu, Cpu)) {
        let Some(sign) = self.sign(flow, first) else { return };
        // What the client sends second is what it would send after the first.
        let then = match (first, second) {
            (Sends::Open | Sends::Again, Sends::Again) => Sign::Opens,
            (_, Sends::Middle) => Sign::Middle,
            (Sends::Middle, Sends::Finish) if flow < TCP_FLOWS => Sign::Finishes,
            _ => return,
        };
        let row =
            self.story.as_ref().map(|_| (self.describe_row(flow, cpus.0.old), self.describe_row(flow, cpus.1.old)));
        let was_lost = !self.clients[flow].is_closed() && (self.clients[flow].lost || self.is_silent(flow));
        let (one, two) = cpu::packet(self, flow, sign, cpus.0, Some(Other { sign: then, cpu: cpus.1, at }));
        let (one_row, two_row) = row.unzip();
        self.tell_packet(flow, first, one_row, one);
        self.arrived(flow, first, one);
        if let Some(two) = two {
            self.tell_packet(flow, second, two_row, two);
            // The first may have ended it. What it was excused from, the second is, too: nobody had seen the first.
            if !self.clients[flow].is_closed() {
                self.clients[flow].lost |= was_lost;
                self.arrived(flow, second, two);
            }
        }
    }

    pub fn reply(&mut self, flow: usize, cpu: Cpu) {
        let Client { state, home, .. } = self.clients[flow];
        // A backend knows of the flow what the client knows: a flow that was moved by force is not its own.
        let Some(home) = home.filter(|home| state != State::Closed && self.is_alive(*home)) else { return };
        if self.clients[flow].lost || self.is_silent(flow) {
            return;
        }
        self.tally.proved += 1;
        cpu::reply(self, flow, home.backend(), cpu);
        self.tell(|world| format!("flow {flow}: its backend answers; {}", world.describe_entry(flow)));
    }

    pub fn end(&mut self, flow: usize) {
        self.clients[flow].state = State::Closed;
    }

    fn tell_packet(&mut self, flow: usize, sends: Sends, row: Option<String>, decision: Decision) {
        self.tell(|world| {
            let to = match decision {
                Decision::Backend(id) => Self::name(id),
                Decision::NoBackend => "nobody".to_owned(),
                Decision::Orphan => "an orphan".to_owned(),
            };
            format!("flow {flow} {sends:?}: {} -> {to}; {}", row.unwrap_or_default(), world.describe_entry(flow))
        });
    }

    /// A packet got somewhere.
    fn arrived(&mut self, flow: usize, sends: Sends, decision: Decision) {
        if let Decision::Backend(id) = decision {
            let there = self.backends.get(usize::from(id)).filter(|_| usize::from(id) <= BACKENDS);
            if there.is_none_or(|backend| backend.elsewhere || backend.health == Health::Free) {
                self.violate(Violation::Misdelivered { flow });
            }
        }
        if matches!(sends, Sends::StrayMiddle | Sends::StrayFinish | Sends::StrayReset) {
            return;
        }
        let was = self.clients[flow].state;
        let kept = if was == State::Closed {
            self.clients[flow].lived = true;
            self.live_at(flow, decision);
            true
        } else {
            match self.check(flow, decision) {
                Some(kept) => kept,
                // Nobody heard of it.
                None => return,
            }
        };
        self.clients[flow].last = self.now;
        self.clients[flow].state = match (was, sends) {
            _ if !kept || self.clients[flow].home.is_none() => State::Closed,
            (State::Closed, _) if flow < TCP_FLOWS => State::Opening,
            (State::Closed, _) => State::Established,
            (_, Sends::Reset) => State::Closed,
            (_, Sends::Finish) => State::HalfClosed,
            (State::Opening, Sends::Middle) => State::Established,
            (state, _) => state,
        };
    }

    /// One of two arrays has no backend for the flow, and drops what does not find it written down. A packet that is
    /// dropped is sent once more, when there is one array again.
    fn had_nobody(&self, flow: usize) -> bool {
        let ring = &self.rings[Self::ring_of(flow)];
        ring.is_double() && [false, true].iter().any(|old| self.row_of(flow, *old).owner() == 0)
    }

    /// The flow was refused in this swap, by one array or the other, and its row came to its end in it: the other array had
    /// no time to hear of that. Among the limits, too.
    fn ended_in_swap(&self, flow: usize) -> bool {
        let row = self.row_of(flow, false);
        let is_over = row.kind() == KIND_MOVING && !row.is_moving(self.its_second());
        is_over && self.is_swapping() && self.refused_flows[flow] > 0 && self.refused_flows[flow] + 1000 > self.now
    }

    /// The flow's row refers to the ring before, and that to nobody who is up. Having been refused it is the owner's, and the
    /// next owner's: docs/design/rows.md says so among the limits.
    fn had_nobody_before(&self, flow: usize) -> bool {
        [false, true].into_iter().any(|old| {
            let row = self.row_of(flow, old);
            let before = self.rings[Self::ring_of(flow)].before_on(old).map(|before| before.row(flow));
            let is_gone =
                |row: Row| !self.is_up(row.owner()) || row.kind() == KIND_MOVING && !self.is_up(row.settled());
            row.kind() == KIND_MOVING && row.settled() == BEFORE && before.is_some_and(is_gone)
        })
    }

    fn live_at(&mut self, flow: usize, decision: Decision) {
        let home = cpu::life(self, decision);
        self.clients[flow].home = home;
        self.clients[flow].lost = home.is_none_or(|home| !self.is_alive(home));
    }

    /// Holds a packet against the flow's home. A TCP flow that is elsewhere is over; a UDP flow lives on there. `None` if
    /// the packet got nowhere.
    fn check(&mut self, flow: usize, decision: Decision) -> Option<bool> {
        let Client { home, last, lost, .. } = self.clients[flow];
        let alive = home.filter(|home| self.is_alive(*home));
        let to = cpu::life(self, decision);
        let (Some(home), false) = (alive, lost || self.is_silent(flow)) else {
            self.tally.excused += 1;
            self.live_at(flow, decision);
            return Some(to == home || flow >= TCP_FLOWS);
        };
        self.tally.checked += 1;
        if to == Some(home) {
            return Some(true);
        }
        // Its backend was down since its last packet, and the service was refusing: then a row's unwritten flows are
        // given to its owner for good, because some of them were sent there. Rule 4 says so.
        let backend = self.backends[usize::from(home.backend())];
        let was_away = backend.went_down > 0 && backend.went_down + LATE >= last;
        let lately = |then: u64| then + 60_000 > self.now;
        if was_away && self.last_refusal > 0 && lately(self.last_refusal) {
            self.tally.flapped += 1;
        } else if self.refused_flows[flow] > 0 && lately(self.refused_flows[flow]) && self.had_nobody_before(flow) {
            self.tally.migrated_away += 1;
        } else if self.ended_in_swap(flow) {
            self.tally.ended_in_swap += 1;
        } else if was_away && self.killed_in_swap.is_some_and(lately) {
            self.tally.killed += 1;
        } else if self.died_in_swap.is_some_and(lately) {
            self.tally.died_in_swap += 1;
        } else if to.is_some_and(|to| !self.is_alive(to)) {
            self.tally.into_the_dead += 1;
            return None;
        } else if decision == Decision::NoBackend && self.had_nobody(flow) {
            self.tally.too_early += 1;
            return None;
        } else if to.is_none() {
            self.violate(Violation::Abandoned { flow });
        } else {
            self.violate(Violation::Moved { flow });
        }
        self.live_at(flow, decision);
        Some(flow >= TCP_FLOWS)
    }
}
