//! The controller's state as the admin API shows it.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_common::counters::{BackendCounters, DropReason, FlowCounters, ServiceCounters, TrackedCounters};

use crate::api::types::{
    AnswersStatus, BackendStatus, ChecksStatus, ConfigStatus, FlowsStatus, Health, InterfaceStatus, RingStatus,
    ServiceState, ServiceStatus, Status, TrackedFamily, TrackedStatus, Traffic,
};
use crate::dataplane::Mode;
use crate::health::Key;
use crate::model::{Backend, Scheduler, Service};

use super::controller::Controller;
use super::desired::{Family, rings_of};
use super::journal::unix_ms;

pub(super) fn build(c: &Controller) -> Status {
    let mut degraded = c.problems.clone();
    let services: Vec<ServiceStatus> = c.model.services.iter().map(|s| service(c, s, &mut degraded)).collect();
    let program_id = c.dataplane.program_id();
    let mut interfaces = Vec::new();
    for configured in &c.model.node.interfaces {
        match c.dataplane.attached().find(|a| a.name == configured.name) {
            Some(attached) => {
                if let (Mode::Generic, Some(why)) = (attached.mode, &attached.fallback) {
                    degraded.push(format!("{}: XDP runs in generic mode: {why}", attached.name));
                }
                interfaces.push(InterfaceStatus {
                    name: attached.name.clone(),
                    ifindex: attached.ifindex,
                    xdp_mode: attached.mode.name().to_owned(),
                    program_id,
                });
            }
            None => degraded.push(format!("{}: the interface is gone", configured.name)),
        }
    }
    if let Some(error) = &c.last_error {
        // Diagnostics begin with a sentence that says only that there are some.
        let first = error.lines().find(|line| line.contains(": error: ")).or(error.lines().next()).unwrap_or_default();
        degraded.push(format!("the last reload was refused: {first}"));
    }
    let file_differs = c.history.differs_from(&c.path);
    if file_differs && c.history.is_rolled_back() {
        degraded.push(format!(
            "the configuration was rolled back: {} is not what runs, and the next reload or start applies it",
            c.path.display()
        ));
    }
    let host = counters(c.dataplane.service_counters(0), &mut degraded);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: c.started.elapsed().as_secs(),
        config: ConfigStatus {
            path: c.path.display().to_string(),
            generation: c.generation,
            applied_at: c.applied_at,
            last_error: c.last_error.clone(),
            confirm_in_seconds: c.confirm_by.map(|by| by.saturating_duration_since(Instant::now()).as_secs()),
            rolled_back: c.history.is_rolled_back(),
            file_differs,
            rollbacks: c.history.depth(),
        },
        interfaces,
        passed: Traffic { packets: host.packets, bytes: host.bytes },
        passed_fragments: host.fragments,
        checks_late: c.checker.late().histogram(),
        deaths_applied: c.deaths_applied.histogram(),
        hooks: c.hooks.status(),
        services,
        degraded,
    }
}

/// Counters that cannot be read are a problem to tell, not a reason to tell nothing.
fn counters<C: Default>(read: Result<C, crate::dataplane::DataplaneError>, degraded: &mut Vec<String>) -> C {
    read.unwrap_or_else(|e| {
        degraded.push(e.to_string());
        C::default()
    })
}

fn service(c: &Controller, service: &Service, degraded: &mut Vec<String>) -> ServiceStatus {
    let id = c.ids.service(&service.name).unwrap_or(0);
    let count: ServiceCounters = counters(c.dataplane.service_counters(id), degraded);
    let mut backends: Vec<BackendStatus> = service.backends.iter().map(|b| backend(c, service, b, degraded)).collect();
    let unusual = c.safety.unusual(&service.name);
    let healthy = backends.iter().filter(|b| matches!(b.health, Health::Up | Health::Unchecked)).count();
    backends.extend(c.leaving.of(service).map(|b| BackendStatus { leaving: true, ..backend(c, service, b, degraded) }));
    let state = match healthy {
        0 if !unusual.panic && !unusual.open => ServiceState::Down,
        n if n < (service.min_healthy as usize).max(1) => ServiceState::Degraded,
        _ => ServiceState::Up,
    };
    for backend in backends.iter().filter(|b| b.kept && !unusual.panic && !unusual.open) {
        degraded
            .push(format!("service {}: {} looks dead and is kept: max_ejected are out", service.name, backend.name));
    }
    let sentences = [
        (
            unusual.panic,
            "PANIC: more backends look dead than panic_threshold; the checks are distrusted, and all are kept",
        ),
        (unusual.open, "every backend looks dead, and all are used (on_empty: fail-open)"),
        (unusual.fallback, "fallback backends are used: too few of the others are up"),
    ];
    for (_, sentence) in sentences.iter().filter(|(is, _)| *is) {
        degraded.push(format!("service {}: {sentence}", service.name));
    }
    match state {
        ServiceState::Up => {}
        ServiceState::Degraded => degraded.push(format!(
            "service {}: {healthy} backends up, fewer than min_healthy {}",
            service.name, service.min_healthy
        )),
        ServiceState::Down => degraded.push(format!("service {}: no backend is up", service.name)),
    }
    let rings = rings_of(&c.rings, &service.name);
    let drops: BTreeMap<String, u64> = DropReason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), count.drops[*reason as usize]))
        .filter(|(_, n)| *n > 0)
        .collect();
    ServiceStatus {
        name: service.name.clone(),
        listen: service.listen.iter().map(ToString::to_string).collect(),
        protocols: service.protocols.clone(),
        forward: service.forward,
        scheduler: match service.scheduler {
            Scheduler::Maglev => "maglev".to_owned(),
        },
        state,
        ready: c.readiness.is_ready(&service.name),
        panic: unusual.panic,
        fallback: unusual.fallback,
        fail_open: unusual.open,
        rings: rings
            .map(|(key, ring)| {
                let kinds = c.dataplane.row_kinds(key.id(id));
                RingStatus {
                    family: key.family.name().to_owned(),
                    protocol: key.protocol,
                    rows: ring.len(),
                    rows_steady: kinds.steady,
                    rows_moving: kinds.moving,
                    rows_exceptions: kinds.exceptions,
                    fingerprint: ring.fingerprint.map_or_else(|| "empty".to_owned(), |f| f.to_string()),
                }
            })
            .collect(),
        forwarded: Traffic { packets: count.packets, bytes: count.bytes },
        replies: Traffic { packets: count.reply_packets, bytes: count.reply_bytes },
        syns: count.syns,
        fib_lookups: count.fib_lookups,
        fragments: count.fragments,
        icmp_errors: count.icmp_errors,
        answers: answers(c, id, degraded),
        drops,
        flows: flows(c, id, degraded),
        tracked: tracked(c, service, id, degraded),
        checks: checks(c, service),
        backends,
    }
}

fn checks(c: &Controller, service: &Service) -> ChecksStatus {
    let counts = c.checker.counts(&service.name);
    ChecksStatus {
        passed: counts.passed,
        failed: counts.failed,
        skipped: counts.skipped,
        took: counts.took.histogram(),
        ejections: c.ejections.get(&service.name).copied().unwrap_or(0),
    }
}

fn flows(c: &Controller, service: u32, degraded: &mut Vec<String>) -> FlowsStatus {
    let count: FlowCounters = counters(c.dataplane.flow_counters(service), degraded);
    FlowsStatus {
        entries: c.dataplane.flow_use(service).entries,
        lookups: count.lookups,
        hits: count.hits,
        written: count.written + count.proved,
        replaced: count.replaced,
        refused_quota: count.refused_quota,
        refused_gate: count.refused_gate,
        refused_full: count.refused_full,
        refused_race: count.refused_race,
        resets: count.resets,
    }
}

fn answers(c: &Controller, service: u32, degraded: &mut Vec<String>) -> AnswersStatus {
    let count: FlowCounters = counters(c.dataplane.flow_counters(service), degraded);
    AnswersStatus { echoes: count.echoes, too_big: count.too_bigs }
}

fn tracked(c: &Controller, service: &Service, id: u32, degraded: &mut Vec<String>) -> Option<TrackedStatus> {
    let uses = c.dataplane.flow_use(id);
    let families = [Family::V4, Family::V6].into_iter().zip([uses.tracked4, uses.tracked6]);
    let families: BTreeMap<String, TrackedFamily> = families
        .zip(c.model.tracked_quota(service))
        .filter(|(_, quota)| *quota > 0)
        .map(|((family, entries), quota)| (family.name().to_owned(), TrackedFamily { entries, quota }))
        .collect();
    if families.is_empty() {
        return None;
    }
    let count: TrackedCounters = counters(c.dataplane.tracked_counters(id), degraded);
    let evictions = c.dataplane.evictions(id);
    Some(TrackedStatus {
        families,
        lookups: count.lookups,
        hits: count.hits,
        fallbacks: count.fallbacks,
        written: count.written,
        replaced: count.replaced,
        refused_quota: count.refused_quota,
        refused_gate: count.refused_gate,
        refused_full: count.refused_full,
        refused_race: count.refused_race,
        evicted: evictions.flows,
        youngest_evicted_seconds: evictions.youngest,
    })
}

fn backend(c: &Controller, service: &Service, backend: &Backend, degraded: &mut Vec<String>) -> BackendStatus {
    let id = c.ids.backend(service, backend).unwrap_or(0);
    let name = (service.name.clone(), backend.name.clone());
    let count: BackendCounters = counters(c.dataplane.backend_counters(id), degraded);
    let key = Key { service: name.0.clone(), backend: name.1.clone() };
    let snapshot = c.checker.snapshot(&key);
    let agent = c.view().agent(service, backend).cloned();
    let said = agent.as_ref().and_then(|standing| standing.down().map(str::to_owned));
    // A ring per protocol holds the same rows, so the first that can have the backend stands for all.
    let serves = |family| service.backends_for(family == Family::V6).any(|b| b.address == backend.address);
    let ring = rings_of(&c.rings, &service.name).find(|(key, _)| serves(key.family));
    let share =
        ring.map_or(0.0, |(_, ring)| f64::from(ring.rows_of.get(&id).copied().unwrap_or(0)) / f64::from(ring.len()));
    BackendStatus {
        name: backend.name.clone(),
        id,
        address: backend.address.to_string(),
        port: backend.port,
        weight: c.view().weight(service, backend),
        state: c.view().state(service, backend),
        overridden: c.overrides.contains_key(&name),
        leaving: false,
        health: match (&service.health, &snapshot) {
            _ if said.is_some() => Health::Down,
            (None, _) => Health::Unchecked,
            (Some(_), Some(snapshot)) => snapshot.health,
            (Some(_), None) => Health::Checking,
        },
        kept: c.safety.keeps(&service.name, backend),
        fallback: backend.fallback,
        agent: agent.map(|standing| standing.to_string()),
        reason: match said {
            Some(said) => Some(format!("its agent says {said}")),
            None => snapshot.as_ref().and_then(|s| s.reason.clone()),
        },
        warning: snapshot.as_ref().and_then(|s| s.warning.clone()),
        latency_ms: snapshot.as_ref().and_then(|s| s.latency).map(|l| l.as_secs_f64() * 1000.0),
        since: snapshot.as_ref().map(|s| unix_ms(s.since) / 1_000),
        checked: snapshot.as_ref().and_then(|s| s.checked).map(|at| unix_ms(at) / 1_000),
        last_error: snapshot.as_ref().and_then(|s| s.last_error.clone()),
        transitions: snapshot.as_ref().map_or(0, |s| s.transitions),
        share,
        forwarded: Traffic { packets: count.packets, bytes: count.bytes },
        replies: Traffic { packets: count.reply_packets, bytes: count.reply_bytes },
    }
}
