//! Runs every target's checks and tells of every change of verdict.
//!
//! One task keeps the times of all targets in a heap and sleeps until the next is due; each check in flight is a
//! task of its own, so a slow backend delays no other and an idle target costs no task. A target has at most one
//! check in flight: its next time is set when a check ends.
//!
//! The trap is a result that comes too late: a check of a target that was meanwhile removed or changed must not
//! be counted. Every run has a number, and a result counts only while its target still waits for that number.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::probe::Probe;
use super::schedule::{Random, Schedule};
use super::state::{Change, Machine, Outcome, Pace};
use super::stats::{Counts, Times};
use crate::api::types::Health;
use crate::model::HealthCheck;

/// At most one line per this time about checks that this host could not make: they tend to come by the thousand.
const SKIPPED_LOG_PACE: Duration = Duration::from_secs(10);

/// A backend as one service sees it. The same backend in two services is two targets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub service: String,
    pub backend: String,
}

/// What to check, where, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub key: Key,
    /// Where checks go that name no address or port of their own.
    pub address: SocketAddr,
    pub check: HealthCheck,
}

impl Target {
    /// Whether `self` checks the backend that `old` checked: the address is the same, and the port too unless it
    /// is the checks' own.
    fn is_same_backend_as(&self, old: &Self) -> bool {
        let own_port = [self, old].iter().any(|target| target.check.checks.iter().all(|check| check.port.is_some()));
        self.address.ip() == old.address.ip() && (own_port || self.address.port() == old.address.port())
    }
}

/// Sent on every change of verdict, the first one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub key: Key,
    pub address: SocketAddr,
    pub from: Health,
    pub up: bool,
    /// What the check that decided saw.
    pub reason: String,
    /// How long that check took; `None` when nobody answered.
    pub latency: Option<Duration>,
    /// What the last check saw that failed, this one or an earlier one.
    pub last_error: Option<String>,
    pub at: Instant,
}

/// A target's health now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Never [`Health::Unchecked`].
    pub health: Health,
    /// The last check's outcome.
    pub reason: Option<String>,
    /// What the last successful check saw coming.
    pub warning: Option<String>,
    /// How long the last successful check took.
    pub latency: Option<Duration>,
    /// When this health began.
    pub since: Instant,
    /// When the last result came.
    pub checked: Option<Instant>,
    /// What the last check saw that failed.
    pub last_error: Option<String>,
    /// How often its health changed since it is checked here.
    pub transitions: u64,
}

pub(super) type MakeCheck = dyn Fn(Arc<Target>) -> BoxFuture<'static, Outcome> + Send + Sync;

/// All health checks of the process. Dropping it ends them.
pub struct Checker {
    shared: Arc<Shared>,
    timer: AbortHandle,
}

impl fmt::Debug for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("targets", &self.shared.lock().targets.len()).finish_non_exhaustive()
    }
}

struct Shared {
    table: Mutex<Table>,
    /// Something is due earlier than the timer sleeps for.
    wake: Notify,
    transitions: mpsc::UnboundedSender<Transition>,
    probe: Box<MakeCheck>,
}

#[derive(Default)]
struct Table {
    targets: HashMap<Key, Entry>,
    /// Earliest first. An entry whose number its target no longer waits for is stale and skipped.
    due: BinaryHeap<Reverse<(Instant, u64, Key)>>,
    /// The last number given to a run.
    runs: u64,
    random: Random,
    skipped_logged: Option<Instant>,
    /// Verdicts of before a restart, for targets that are new to us.
    assumed: HashMap<Key, bool>,
    /// Of each service.
    counts: HashMap<String, Counts>,
    /// How late checks began.
    late: Times,
}

struct Entry {
    target: Arc<Target>,
    machine: Machine,
    schedule: Schedule,
    /// The run it waits for, due or in flight.
    run: u64,
    in_flight: Option<AbortHandle>,
}

impl Checker {
    /// Starts checking on the current tokio runtime; nothing is checked until [`Self::set_targets`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(transitions: mpsc::UnboundedSender<Transition>) -> Self {
        let probe = Arc::new(Probe::default());
        Self::with_probe(transitions, move |target| {
            let probe = Arc::clone(&probe);
            Box::pin(async move { probe.check(target.address, &target.check).await })
        })
    }

    pub(super) fn with_probe(
        transitions: mpsc::UnboundedSender<Transition>,
        probe: impl Fn(Arc<Target>) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
    ) -> Self {
        let (table, wake) = (Mutex::default(), Notify::new());
        let shared = Arc::new(Shared { table, wake, transitions, probe: Box::new(probe) });
        let timer = tokio::spawn(keep_time(Arc::clone(&shared))).abort_handle();
        Self { shared, timer }
    }

    /// The next [`Self::set_targets`] begins with these verdicts where it has no better ones. No transition is sent for
    /// them.
    pub fn assume(&mut self, verdicts: impl IntoIterator<Item = (Key, bool)>) {
        self.shared.lock().assumed = verdicts.into_iter().collect();
    }

    /// Checks exactly these targets from now on. Of two with the same key the later one counts.
    ///
    /// An unchanged target keeps its state and its times. With another check, the same backend keeps its verdict
    /// until the new check decides, beginning at once. A backend at another address is another backend. After
    /// the return no transition of a removed target is sent.
    pub fn set_targets(&mut self, targets: Vec<Target>) {
        let mut table = self.shared.lock();
        let table = &mut *table;
        let now = now();
        let kept: HashSet<&Key> = targets.iter().map(|t| &t.key).collect();
        table.targets.retain(|key, entry| {
            let keep = kept.contains(key);
            if !keep {
                entry.abort();
            }
            keep
        });
        for target in targets {
            let old = table.targets.get(&target.key);
            if old.is_some_and(|old| *old.target == target) {
                continue;
            }
            let HealthCheck { interval, jitter, rise, fall, .. } = target.check;
            let machine = match old {
                Some(old) if target.is_same_backend_as(&old.target) => {
                    let mut machine = old.machine.clone();
                    machine.check_changed(rise, fall);
                    machine
                }
                Some(_) => Machine::new(rise, fall, now),
                None => match table.assumed.get(&target.key) {
                    Some(up) => Machine::assumed(rise, fall, *up, now),
                    None => Machine::new(rise, fall, now),
                },
            };
            let (schedule, first) = Schedule::start(interval, jitter, now, table.random.unit());
            let run = table.new_run(first, &target.key);
            let entry = Entry { target: Arc::new(target), machine, schedule, run, in_flight: None };
            if let Some(mut old) = table.targets.insert(entry.target.key.clone(), entry) {
                old.abort();
            }
        }
        table.assumed.clear();
        let services: HashSet<&str> = table.targets.keys().map(|key| key.service.as_str()).collect();
        table.counts.retain(|service, _| services.contains(service.as_str()));
        // Stale times would otherwise pile up under many reloads with long intervals.
        let targets = &table.targets;
        table.due.retain(|Reverse((_, run, key))| targets.get(key).is_some_and(|entry| entry.run == *run));
        self.shared.wake.notify_one();
    }

    /// The target's health now; `None` for a target that is not checked.
    pub fn snapshot(&self, key: &Key) -> Option<Snapshot> {
        let table = self.shared.lock();
        let machine = &table.targets.get(key)?.machine;
        Some(Snapshot {
            health: machine.verdict().into(),
            reason: machine.reason(),
            warning: machine.warning().map(str::to_owned),
            latency: machine.latency(),
            since: machine.since(),
            checked: machine.checked(),
            last_error: machine.last_error().map(str::to_owned),
            transitions: machine.changes(),
        })
    }

    /// What became of a service's checks.
    pub fn counts(&self, service: &str) -> Counts {
        self.shared.lock().counts.get(service).cloned().unwrap_or_default()
    }

    /// How late checks began: what they waited for since they were due.
    pub fn late(&self) -> Times {
        self.shared.lock().late.clone()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.timer.abort();
        let mut table = self.shared.lock();
        for (_, mut entry) in table.targets.drain() {
            entry.abort();
        }
    }
}

impl Entry {
    fn abort(&mut self) {
        if let Some(check) = self.in_flight.take() {
            check.abort();
        }
    }
}

impl Table {
    fn new_run(&mut self, due: Instant, key: &Key) -> u64 {
        self.runs += 1;
        self.due.push(Reverse((due, self.runs, key.clone())));
        self.runs
    }
}

/// tokio's clock, which tests can stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing that holds the lock leaves the table half changed, so a panic elsewhere does not taint it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts every check that is due; says when the next one is.
    fn start_due(self: &Arc<Self>) -> Option<Instant> {
        let mut table = self.lock();
        let table = &mut *table;
        let now = now();
        while let Some(Reverse((due, ..))) = table.due.peek() {
            if *due > now {
                return Some(*due);
            }
            let Some(Reverse((due, run, key))) = table.due.pop() else { break };
            let Some(entry) = table.targets.get_mut(&key).filter(|entry| entry.run == run) else { continue };
            table.late.add(now.saturating_duration_since(due));
            let (shared, target) = (Arc::clone(self), Arc::clone(&entry.target));
            let check = tokio::spawn(async move {
                let began = self::now();
                let outcome = (shared.probe)(Arc::clone(&target)).await;
                shared.finish(&target, run, began, outcome);
            });
            entry.in_flight = Some(check.abort_handle());
        }
        None
    }

    /// Counts a result and sets the target's next time.
    fn finish(&self, target: &Target, run: u64, began: Instant, outcome: Outcome) {
        let mut table = self.lock();
        let table = &mut *table;
        let now = now();
        let Some(entry) = table.targets.get_mut(&target.key).filter(|entry| entry.run == run) else { return };
        entry.in_flight = None;
        let took = now.saturating_duration_since(began);
        match table.counts.get_mut(&target.key.service) {
            Some(counts) => counts.add(&outcome, took),
            None => table.counts.entry(target.key.service.clone()).or_default().add(&outcome, took),
        }
        if let Outcome::Skipped { reason } = &outcome
            && table.skipped_logged.is_none_or(|at| now.duration_since(at) >= SKIPPED_LOG_PACE)
        {
            table.skipped_logged = Some(now);
            let Key { service, backend } = &target.key;
            tracing::warn!(service, backend, reason, "health checks cannot run on this host");
        }
        let warned = entry.machine.warning().map(str::to_owned);
        let change = entry.machine.observe(outcome, now);
        // Once for each text, which has the days that are left in it.
        if let Some(warning) = entry.machine.warning()
            && warned.as_deref() != Some(warning)
        {
            let Key { service, backend } = &target.key;
            tracing::warn!(service, backend, warning, "backend is up, with a warning");
        }
        if let Some(change) = change {
            self.tell(target, change);
        }
        let check = &target.check;
        let interval = match entry.machine.pace() {
            Pace::Steady => check.interval,
            Pace::Changing => check.fast_interval,
            Pace::Down => check.down_interval,
        };
        let due = entry.schedule.next(interval, now, table.random.signed());
        let earlier = table.due.peek().is_none_or(|Reverse((first, ..))| due < *first);
        let run = table.new_run(due, &target.key);
        if let Some(entry) = table.targets.get_mut(&target.key) {
            entry.run = run;
        }
        if earlier {
            self.wake.notify_one();
        }
    }

    fn tell(&self, target: &Target, change: Change) {
        let Key { service, backend } = &target.key;
        let Change { from, up, reason, latency, last_error, at } = change;
        let from = Health::from(from);
        // Of several checks the reason names the one that decided.
        let address = match target.check.checks.as_slice() {
            [only] => only.endpoint(target.address),
            _ => target.address,
        };
        let latency_ms = latency.map(|l| l.as_secs_f64() * 1e3);
        let was = from.name();
        if up {
            tracing::info!(service, backend, %address, was, reason, latency_ms, last_error, "backend is up");
        } else {
            tracing::warn!(service, backend, %address, was, reason, latency_ms, "backend is down");
        }
        // Nobody listens any more only while the process is stopping.
        let _ = self.transitions.send(Transition {
            key: target.key.clone(),
            address,
            from,
            up,
            reason,
            latency,
            last_error,
            at,
        });
    }
}

async fn keep_time(shared: Arc<Shared>) {
    loop {
        match shared.start_due() {
            Some(due) => tokio::select! {
                () = tokio::time::sleep_until(due.into()) => {}
                () = shared.wake.notified() => {}
            },
            None => shared.wake.notified().await,
        }
    }
}
