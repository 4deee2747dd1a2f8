//! When the flows that are written down are walked over, and what the controller learns from it.
//!
//! A sweep is worked off a batch at a time between other things, so that a backend's death never waits for one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lb_common::rows::MARGIN;
use tracing::{debug, error};

use crate::dataplane::clock;
use crate::dataplane::sweep::{Sweep, Swept};
use crate::model::Protocol;
use crate::rows::sweep::Watch;

use super::controller::Controller;
use super::desired::BuiltRing;

/// At least this between the beginnings of two sweeps …
const SHORTEST: Duration = Duration::from_secs(1);
/// … and at most this while there is something to sweep.
const LONGEST: Duration = Duration::from_secs(10);

/// Where sweeping stands.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    under_way: Option<Sweep>,
    began: Option<Instant>,
    /// Backends whose flows are counted, by id.
    watched: BTreeMap<u16, Watched>,
}

/// How long a backend is watched without anybody asking.
const FORGOTTEN: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
struct Watched {
    began: u32,
    asked: Instant,
    /// Flows that were silent for longer count as gone; `None`: only those that have expired.
    idle: Option<u32>,
    /// How many there were when last counted.
    flows: Option<u64>,
    /// Since when no flow can turn up that nobody has seen.
    ruled_out: Option<Instant>,
    /// A count that began after that found none.
    done: bool,
}

/// What is left of a backend that gets no new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Flows that are written down and its; `None` before the first count.
    pub flows: Option<u64>,
    /// Seconds until no flow can turn up that nobody has seen.
    pub unseen: u32,
    /// Neither are there any, nor can there be.
    pub done: bool,
}

impl Controller {
    /// A sweep has been begun and not ended.
    pub fn is_sweeping(&self) -> bool {
        self.sweeps.under_way.is_some()
    }

    /// Begins a sweep if one is due. To be called every second or so.
    pub fn tick(&mut self) {
        self.sweeps.watched.retain(|_, watched| watched.asked.elapsed() < FORGOTTEN);
        if self.rings.values().any(BuiltRing::waits) {
            self.refresh("first checks were waited for");
        }
        let now = Instant::now();
        if self.safety.is_due(now) {
            self.refresh("it has been quiet");
        }
        if self.readiness.is_due(now) {
            self.update_readiness();
        }
        let due = self.sweeps.began.is_none_or(|began| began.elapsed() >= self.pace());
        let wanted = !self.sweeps.watched.is_empty()
            || self.dataplane.wants_sweep()
            || self.ids.wait_for_scan()
            || !self.leaving.is_empty();
        if due && wanted && !self.is_sweeping() {
            self.sweeps.began = Some(Instant::now());
            self.sweeps.under_way = Some(self.dataplane.begin_sweep(self.watches()));
        }
    }

    /// What is left of a backend that gets no new flows. Who asks again within some seconds gets new counts; the first
    /// answer knows none yet. `idle`: flows that are silent for so many seconds count as gone.
    pub fn remains(&mut self, backend: u16, idle: Option<u32>) -> Remains {
        let now = clock::seconds();
        if !self.sweeps.watched.contains_key(&backend) {
            // Now, and not when the next sweep is due.
            self.sweeps.began = None;
        }
        let until = self.dataplane.settled_until(backend).map_or(now, |until| until.max(now));
        let watched = self.sweeps.watched.entry(backend).or_insert_with(|| Watched {
            began: now,
            asked: Instant::now(),
            idle,
            flows: None,
            ruled_out: None,
            done: false,
        });
        watched.asked = Instant::now();
        // With two who wait, the more patient one is right for both.
        watched.idle = watched.idle.zip(idle).map(|(one, other)| one.max(other));
        // Who has not been seen since the watch began was silent all the while.
        let unseen = match watched.idle {
            Some(idle) => until.min(watched.began + idle + MARGIN).saturating_sub(now),
            None => until - now,
        };
        if unseen > 0 {
            (watched.ruled_out, watched.done) = (None, false);
        } else {
            watched.ruled_out.get_or_insert_with(Instant::now);
        }
        Remains { flows: watched.flows, unseen, done: watched.done }
    }

    /// An eighth of the shortest timeout: rows come to rest soon after they may.
    fn pace(&self) -> Duration {
        if !self.sweeps.watched.is_empty() {
            return SHORTEST;
        }
        let timeouts = self.model.services.iter().flat_map(|s| {
            s.protocols.iter().map(|protocol| match protocol {
                Protocol::Tcp => s.timeouts.tcp_established,
                Protocol::Udp => s.timeouts.udp,
            })
        });
        timeouts.min().map_or(LONGEST, |shortest| (shortest / 8).clamp(SHORTEST, LONGEST))
    }

    /// Backends whose flows are counted.
    fn watches(&self) -> Vec<Watch> {
        let now = clock::seconds();
        let since = |watched: &Watched| watched.idle.map_or(0, |idle| now.saturating_sub(idle));
        let watched = self.sweeps.watched.iter();
        watched.map(|(backend, watched)| Watch { backend: *backend, since: since(watched), flows: 0 }).collect()
    }

    /// The next batch of the sweep under way.
    pub fn sweep_on(&mut self) {
        let Some(mut sweep) = self.sweeps.under_way.take() else { return };
        match self.dataplane.continue_sweep(&mut sweep) {
            Ok(true) => self.sweeps.under_way = Some(sweep),
            Ok(false) => {
                let swept = self.dataplane.end_sweep(sweep);
                self.swept(&swept);
            }
            Err(e) => error!("cannot walk over the flows that are written down: {e}"),
        }
    }

    fn swept(&mut self, swept: &Swept) {
        for watch in &swept.findings.watches {
            if let Some(watched) = self.sweeps.watched.get_mut(&watch.backend) {
                watched.flows = Some(watch.flows);
                // An earlier one may have passed a flow before it was written down.
                watched.done = watch.flows == 0 && watched.ruled_out.is_some_and(|since| swept.began > since);
            }
        }
        let (rows, tracked) = swept.total();
        debug!("swept: {rows} flows are written down, {tracked} are tracked");
        self.ids.scanned(swept.began, |service| swept.entries(service) > 0, |backend| !swept.is_unnamed(backend));
        let Self { leaving, model, ids, .. } = self;
        let gone = leaving.scanned(swept.began, |name, backend| {
            let service = model.services.iter().find(|s| s.name == name);
            service.and_then(|s| ids.backend(s, backend)).is_some_and(|id| !swept.is_unnamed(id))
        });
        let migrated = self.dataplane.migrated();
        self.ids.forget_before(&migrated);
        if !gone.is_empty() {
            self.left(&gone);
        } else if !migrated.is_empty() || self.dataplane.may_lower() {
            self.refresh("rows came to rest");
        }
    }
}
