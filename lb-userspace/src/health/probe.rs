//! Makes the checks of one target, and makes one outcome of several.
//!
//! Several checks are made at the same time and have one deadline, so that a second one costs no time. The trap is a
//! check that could not be made on this host, among others that could: it must neither count as failed nor be
//! overlooked, so unless the others decide without it, nothing is known.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{Outcome, dns, exec, grpc, http, icmp, tcp, tls, udp};
use crate::model::{Check, CheckKind, HealthCheck, Need};

/// One check: where it goes, and until when it has to be over.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub address: SocketAddr,
    pub start: Instant,
    pub limit: Duration,
}

impl Attempt {
    pub fn now(address: SocketAddr, limit: Duration) -> Self {
        Self { address, start: Instant::now(), limit }
    }

    pub fn deadline(&self) -> Instant {
        self.start + self.limit
    }

    pub fn passed(&self, reason: impl Into<String>) -> Outcome {
        Outcome::passed(reason, self.start.elapsed())
    }

    /// The backend answered, and not well.
    pub fn failed(&self, reason: impl Into<String>) -> Outcome {
        Outcome::Failed { reason: reason.into(), latency: Some(self.start.elapsed()) }
    }

    /// The backend is there, and what was waited for did not come in time: "no response".
    pub fn silent(&self, what: &str) -> Outcome {
        Outcome::Failed { reason: format!("connected, but {what} within {:?}", self.limit), latency: None }
    }
}

/// Makes checks, and keeps what they share.
#[derive(Debug, Default)]
pub struct Probe {
    trust: tls::Trust,
}

impl Probe {
    /// Checks the backend at `backend` once.
    pub async fn check(&self, backend: SocketAddr, health: &HealthCheck) -> Outcome {
        if let [only] = health.checks.as_slice() {
            return self.one(backend, only, health.timeout).await;
        }
        let mut running: FuturesUnordered<_> = health
            .checks
            .iter()
            .enumerate()
            .map(|(i, check)| async move { (i, self.one(backend, check, health.timeout).await) })
            .collect();
        let mut outcomes: Vec<Option<Outcome>> = health.checks.iter().map(|_| None).collect();
        while let Some((i, outcome)) = running.next().await {
            let named = outcome.map_reason(|reason| format!("{}: {reason}", health.checks[i].kind.name()));
            match (&named, health.need) {
                (Outcome::Failed { .. }, Need::All) | (Outcome::Passed { .. }, Need::Any) => return named,
                _ => outcomes[i] = Some(named),
            }
        }
        together(outcomes.into_iter().flatten())
    }

    async fn one(&self, backend: SocketAddr, check: &Check, limit: Duration) -> Outcome {
        let attempt = Attempt::now(check.endpoint(backend), limit);
        match &check.kind {
            CheckKind::Tcp => tcp::check(attempt).await,
            CheckKind::Http(http) => http::check(attempt, http).await,
            CheckKind::Https(https) => http::check_secure(attempt, https, &self.trust).await,
            CheckKind::Tls(tls) => tls::check(attempt, tls, &self.trust).await,
            CheckKind::Dns(dns) => dns::check(attempt, dns).await,
            CheckKind::Udp(udp) => udp::check(attempt, udp).await,
            CheckKind::Icmp => icmp::check(attempt).await,
            CheckKind::Grpc(grpc) => grpc::check(attempt, grpc, &self.trust).await,
            CheckKind::Exec(exec) => exec::check(attempt, exec).await,
        }
    }
}

/// Outcomes of which none decided alone: they agree, but for those that could not be made.
fn together(outcomes: impl Iterator<Item = Outcome>) -> Outcome {
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let (mut passed, mut slowest) = (true, None);
    for outcome in outcomes {
        slowest = slowest.max(outcome.latency());
        match outcome {
            Outcome::Skipped { .. } => return outcome,
            Outcome::Failed { reason, .. } => {
                passed = false;
                reasons.push(reason);
            }
            Outcome::Passed { reason, warning, .. } => {
                reasons.push(reason);
                warnings.extend(warning);
            }
        }
    }
    let reason = reasons.join("; ");
    if passed {
        let warning = Some(warnings.join("; ")).filter(|w| !w.is_empty());
        Outcome::Passed { reason, latency: slowest.unwrap_or_default(), warning }
    } else {
        Outcome::Failed { reason, latency: slowest }
    }
}
