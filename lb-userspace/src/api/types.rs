//! What the admin API says, as types: the server fills them, the command line and scripts read them.
//!
//! Field names are the contract of `-o json`; adding one is fine, renaming one is not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{BackendState, Forward, Protocol, Subject};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    pub config: ConfigStatus,
    pub interfaces: Vec<InterfaceStatus>,
    /// Packets that are for no service, left to the host untouched.
    pub passed: Traffic,
    /// How many of those were later fragments whose first one did not come before them.
    #[serde(default)]
    pub passed_fragments: u64,
    /// How late health checks began, since the daemon started.
    #[serde(default)]
    pub checks_late: Histogram,
    /// How long it took from a check that found a backend dead until the kernel's rings were without it.
    #[serde(default)]
    pub deaths_applied: Histogram,
    /// What hooks were told.
    #[serde(default)]
    pub hooks: Vec<HookStatus>,
    pub services: Vec<ServiceStatus>,
    /// What is not as configured, one sentence each; empty when all is well.
    pub degraded: Vec<String>,
}

/// What became of the events that a hook was to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStatus {
    /// Its program or URL.
    pub hook: String,
    pub done: u64,
    pub failed: u64,
    /// It was too slow for them.
    pub lost: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    pub path: String,
    /// Counts applied configurations since start.
    pub generation: u64,
    /// Seconds since the Unix epoch at which the running configuration was applied.
    pub applied_at: u64,
    /// Why the last reload was refused; `None` when it was not.
    pub last_error: Option<String>,
    /// Seconds until it is rolled back, unless confirmed; `None` when it need not be.
    #[serde(default)]
    pub confirm_in_seconds: Option<u64>,
    /// It came by a rollback.
    #[serde(default)]
    pub rolled_back: bool,
    /// The file is not what runs: it was edited since, or what it says was rolled back.
    #[serde(default)]
    pub file_differs: bool,
    /// How often one could roll back from here.
    #[serde(default)]
    pub rollbacks: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// The kernel's id of the attached program.
    pub program_id: u32,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// At least `min_healthy` backends are up.
    Up,
    /// Some are up, fewer than `min_healthy`; or some look dead and are used.
    Degraded,
    /// None is up.
    Down,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub listen: Vec<String>,
    pub protocols: Vec<Protocol>,
    pub forward: Forward,
    pub scheduler: String,
    pub state: ServiceState,
    /// Traffic should be sent here: what `/readyz` answers by.
    #[serde(default)]
    pub ready: bool,
    /// More backends look dead than `panic_threshold`: the checks are distrusted, and all are kept.
    #[serde(default)]
    pub panic: bool,
    /// Fallback backends are used.
    #[serde(default)]
    pub fallback: bool,
    /// All backends look dead, and all are used (`on_empty: fail-open`).
    #[serde(default)]
    pub fail_open: bool,
    pub rings: Vec<RingStatus>,
    pub forwarded: Traffic,
    pub replies: Traffic,
    pub syns: u64,
    pub fib_lookups: u64,
    /// Later fragments that followed their first one.
    #[serde(default)]
    pub fragments: u64,
    /// ICMP errors that went to whom they concern.
    #[serde(default)]
    pub icmp_errors: u64,
    #[serde(default)]
    pub answers: AnswersStatus,
    /// By reason; only those that happened.
    pub drops: BTreeMap<String, u64>,
    pub flows: FlowsStatus,
    /// `null` where the service tracks no flows.
    #[serde(default)]
    pub tracked: Option<TrackedStatus>,
    /// What became of its health checks.
    #[serde(default)]
    pub checks: ChecksStatus,
    pub backends: Vec<BackendStatus>,
}

/// Health checks of a service since it is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ChecksStatus {
    pub passed: u64,
    pub failed: u64,
    /// This host could not make them.
    pub skipped: u64,
    /// How long those took that were made.
    pub took: Histogram,
    /// How often health took a backend out.
    pub ejections: u64,
}

/// Times, counted in buckets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Upper bound in seconds, and how many were no longer than that.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

/// The flows that are written down: those on rows that have not settled.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// How many there are now.
    pub entries: u64,
    /// Packets whose flow was looked up, and those of them that went where it says.
    pub lookups: u64,
    pub hits: u64,
    /// How often one was written down, by a client's packet or a backend's reply.
    pub written: u64,
    /// How often one that said nothing any more was overwritten.
    pub replaced: u64,
    /// How often one could not be written down: the service has its quota, has written enough in this second, the table is
    /// full, or other CPUs were faster.
    pub refused_quota: u64,
    pub refused_gate: u64,
    pub refused_full: u64,
    pub refused_race: u64,
    /// Packets answered with RST because their backend is down.
    pub resets: u64,
}

/// What Sluice has said itself on a service's behalf.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct AnswersStatus {
    /// To echo requests for its addresses, counted for the first service that has the address.
    pub echoes: u64,
    /// To packets that were too big for their way, whose senders were told.
    pub too_big: u64,
}

/// The flows that are written down whatever their row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TrackedStatus {
    /// By address family: `ipv4`, `ipv6`.
    pub families: BTreeMap<String, TrackedFamily>,
    /// Packets whose flow was looked up, and those of them that went where it says.
    pub lookups: u64,
    pub hits: u64,
    /// Those of them that were in the middle of a connection that nobody knew: they went where the ring says.
    pub fallbacks: u64,
    /// How often one was written down.
    pub written: u64,
    /// How often one that said nothing any more, or something else than its row, was overwritten.
    pub replaced: u64,
    /// How often one could not be written down, as in [`FlowsStatus`].
    pub refused_quota: u64,
    pub refused_gate: u64,
    pub refused_full: u64,
    pub refused_race: u64,
    /// How many the kernel pushed out since the daemon started, as far as sweeps have found out.
    pub evicted: u64,
    /// When some were pushed out last: how long the youngest of them had been silent, at most. `null` when none were,
    /// or nobody can tell.
    pub youngest_evicted_seconds: Option<u32>,
}

/// Tracked flows of an address family.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TrackedFamily {
    /// How many there are now.
    pub entries: u64,
    /// How many there may be.
    pub quota: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RingStatus {
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub protocol: Protocol,
    pub rows: u32,
    /// Of these, how many belong to their owner alone.
    pub rows_steady: u32,
    /// How many changed their owner less than one idle timeout ago: their flows are looked up and written down.
    pub rows_moving: u32,
    /// How many have flows that are not their owner's: only those flows are looked up.
    pub rows_exceptions: u32,
    /// The same on every node with the same backends, weights and key.
    pub fingerprint: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Up,
    Down,
    /// Not checked yet.
    Checking,
    /// The service has no health check.
    Unchecked,
}

impl Health {
    /// Whether a backend in this state may be given flows.
    pub const fn takes_traffic(self) -> bool {
        matches!(self, Self::Up | Self::Unchecked)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Checking => "checking",
            Self::Unchecked => "unchecked",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: String,
    /// The backend's id in the kernel's maps.
    pub id: u16,
    pub address: String,
    pub port: Option<u16>,
    /// The weight in force: the file's, or what its agent made of it.
    pub weight: u32,
    /// As configured, or as its agent asked for, or as an operator overrode it.
    pub state: BackendState,
    /// True when `state` comes from `sluice drain` or `undrain`, not from the file.
    pub overridden: bool,
    /// True when the file has it no more: it gets no new flows, and is here until it has no old ones either.
    pub leaving: bool,
    pub health: Health,
    /// It looks dead and takes traffic all the same: `max_ejected`, panic or `fail-open`.
    #[serde(default)]
    pub kept: bool,
    /// It takes new flows only while the others are too few.
    #[serde(default)]
    pub fallback: bool,
    /// What its agent said that holds; `null` where there is none, or before it said anything.
    #[serde(default)]
    pub agent: Option<String>,
    /// Why health is what it is: the last check's outcome.
    pub reason: Option<String>,
    /// What will make a check fail one day that passes now: a certificate that expires soon.
    #[serde(default)]
    pub warning: Option<String>,
    /// How long the last successful check took.
    pub latency_ms: Option<f64>,
    /// Since when health is what it is, in seconds since the Unix epoch; before the first check, since when it is awaited.
    #[serde(default)]
    pub since: Option<u64>,
    /// When the last check ended, likewise.
    #[serde(default)]
    pub checked: Option<u64>,
    /// What the last check saw that failed, however long ago.
    #[serde(default)]
    pub last_error: Option<String>,
    /// How often its health changed since this daemon checks it.
    #[serde(default)]
    pub transitions: u64,
    /// Share of the ring's rows, 0 to 1: the expected share of new flows.
    pub share: f64,
    pub forwarded: Traffic,
    pub replies: Traffic,
}

/// What happened to backends, oldest first: as much as the daemon keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub events: Vec<Event>,
    /// The number of the newest there is, asked for or not; 0 before the first.
    pub last: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 since the daemon started.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub kind: EventKind,
    pub service: String,
    /// `null`: it is about the service as a whole.
    pub backend: Option<String>,
    /// Where the backend was checked.
    pub address: Option<String>,
    pub from: String,
    pub to: String,
    pub reason: String,
    /// How long the check took that decided; `null` where nobody answered, and where it was no check.
    pub latency_ms: Option<f64>,
    /// What the last check saw that failed.
    pub last_error: Option<String>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A backend's health: `checking`, `up`, `down`.
    Health,
    /// What an operator made of a backend: `active`, `drain`.
    State,
    /// What a backend's agent said.
    Agent,
    /// A backend looks dead and takes traffic all the same, because `max_ejected` are out: `kept`.
    Kept,
    /// A service's checks are distrusted: `on`, `off`.
    Panic,
    /// A service's fallback backends are used: `on`, `off`.
    Fallback,
    /// All backends of a service look dead and are used: `on`, `off`.
    Open,
    /// Whether traffic should be sent to this node for the service: `ready`, `unready`.
    Ready,
}

impl EventKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::State => "state",
            Self::Agent => "agent",
            Self::Kept => "kept",
            Self::Panic => "panic",
            Self::Fallback => "fallback",
            Self::Open => "open",
            Self::Ready => "ready",
        }
    }

    pub const fn subject(self) -> Subject {
        match self {
            Self::Health | Self::State | Self::Agent | Self::Kept => Subject::Backend,
            Self::Panic | Self::Fallback | Self::Open | Self::Ready => Subject::Service,
        }
    }
}

/// Answer to a reload, and to a rollback.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    pub generation: u64,
    /// What changed, one sentence each; empty when nothing did.
    pub changes: Vec<String>,
    /// It is rolled back after this time, unless confirmed.
    #[serde(default)]
    pub confirm_within_seconds: Option<u64>,
}

/// Answer to a confirmation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confirmed {
    pub generation: u64,
}

/// Answer to a plan: what a reload with that file would change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// What it was compared with: the generation that runs.
    pub generation: u64,
    /// What would change, as the reload itself would say it; empty when nothing would.
    pub changes: Vec<String>,
    /// Those that change, by name.
    pub services: Vec<ServicePlan>,
    /// The part of the traffic since the start that was on rows which would move, 0 to 1: at most, because it is not
    /// counted by row. `None` when there was none.
    pub traffic_share: Option<f64>,
    /// Connections that will break; empty when none will.
    pub breaks: Vec<Break>,
    /// What was taken for granted, one sentence each.
    pub assumptions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    Added,
    Removed,
    Changed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServicePlan {
    pub name: String,
    pub change: Change,
    /// Which of its own keys change.
    pub settings: Vec<String>,
    /// Those that change.
    pub backends: Vec<BackendPlan>,
    /// Those that change.
    pub rings: Vec<RingPlan>,
    /// How many of its flows are written down now: those on rows that have not settled. Not its connections; of those
    /// nobody keeps a list.
    pub written_down: u64,
    /// How many of its flows are listed now; `null` where the service does not track them.
    #[serde(default)]
    pub tracked: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendPlan {
    pub name: String,
    pub address: std::net::IpAddr,
    pub port: Option<u16>,
    pub change: Change,
    pub what: Vec<String>,
    /// How many of its flows are listed now; `null` where the service does not track them, or did not have it.
    #[serde(default)]
    pub tracked: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RingPlan {
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub protocol: Protocol,
    pub rows: u32,
    /// 0 for a new ring.
    pub rows_before: u32,
    /// Rows that get another owner. Their connections stay where they are; new ones go to the new owner.
    pub rows_moved: u32,
    /// The same as a part of the ring, 0 to 1: the part of its flows that are on those rows.
    pub share: f64,
}

/// Connections that will break, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// `None`: of no particular service.
    pub service: Option<String>,
    /// Which ones.
    pub connections: String,
    pub why: String,
}

/// A configuration to make a plan for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanRequest {
    /// What it is called in messages.
    pub file: String,
    pub text: String,
}

/// Answer to drain and undrain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainAnswer {
    pub service: String,
    pub backend: String,
    pub state: BackendState,
    /// False when it was in that state already.
    pub changed: bool,
}

/// How far a drain has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    pub service: String,
    pub backend: String,
    /// False when it gets new flows.
    pub draining: bool,
    /// Its flows that showed a packet since its rows moved, and have not ended; `None` before the first count.
    pub flows: Option<u64>,
    /// Seconds until no flow can turn up that was silent all the while.
    pub ruled_out_in_seconds: u32,
    /// There are none, and none can turn up.
    pub done: bool,
}

/// Answer to the request to take a backend's UDP flows away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// How many were written down. They go to other backends from now on.
    pub flows: u64,
}

/// Which flows are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowFilter {
    pub service: Option<String>,
    pub client: Option<std::net::IpAddr>,
    /// By name or address.
    pub backend: Option<String>,
    /// Most flows that are listed.
    pub limit: u64,
}

/// Flows that are written down: those that showed a packet while their row moved, and those that are tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    pub flows: Vec<Flow>,
    /// How many there are, listed or not.
    pub total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Empty for a service that is gone.
    pub service: String,
    pub protocol: Protocol,
    pub client: std::net::SocketAddr,
    pub vip: std::net::SocketAddr,
    /// Its name; `id N` for one that nobody knows any more.
    pub backend: String,
    pub phase: FlowPhase,
    /// Since its last packet.
    pub silent_seconds: u32,
    pub row: FlowRow,
    pub table: FlowTable,
}

/// Which table the flow is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowTable {
    /// The one of rows that are not steady; it may be tracked as well.
    Row,
    /// The one of tracked flows, and no other.
    Tracked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowPhase {
    Opening,
    Established,
    Closing,
}

/// The state of a flow's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowRow {
    /// Its flows are being written down.
    Moving,
    /// Some of its flows are not its owner's.
    Exceptions,
    /// Nobody looks its flows up, unless they are tracked: one that is not is about to be forgotten.
    Steady,
}

/// Every error the API answers with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    pub error: String,
    pub hint: Option<String>,
    /// The exit code the command line should end with.
    pub exit: u8,
}

/// One status with a bit of everything, for the tests of whoever shows one.
#[cfg(test)]
pub(crate) mod fixture {
    use super::Status;

    /// Also the record of the JSON contract: the file is what clients out there were written against.
    pub(crate) const STATUS: &str = include_str!("../../tests/fixtures/status.json");

    pub(crate) fn status() -> Status {
        serde_json::from_str(STATUS).expect("tests/fixtures/status.json is a status")
    }

    #[test]
    fn the_json_contract_has_not_changed() {
        let recorded: serde_json::Value = serde_json::from_str(STATUS).unwrap();
        assert_eq!(serde_json::to_value(status()).unwrap(), recorded);
    }
}
