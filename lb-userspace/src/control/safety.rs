//! How far health may go: when backends that look dead are kept, and when fallback backends are used.
//!
//! Health checks are evidence, and evidence may be wrong. If every backend seems to die in the same moment it is more
//! likely that the way from here to them died, and taking all of them out turns half an outage into a whole one. So a
//! service may bound what health takes out at once (`max_ejected`), distrust checks that find too many dead
//! (`panic_threshold`), and use all backends when none is left (`on_empty: fail-open`). Where fallback backends are up
//! and the others too few, they are used, and none of the three applies: there is somebody who is known to work.
//!
//! Each address family of backends stands alone, as their rings do. Sans-io: `now` is a parameter. The trap is
//! flapping: what begins because of one backend too many must not end with it. Panic and fallback begin at once, and
//! end when there has been no reason for them for [`HOLD`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::desired::BackendName;
use super::journal::Happened;
use crate::api::types::EventKind;
use crate::model::{Backend, Model, OnEmpty, Service};

/// How long there must have been no reason for panic or fallback before it ends.
pub const HOLD: Duration = Duration::from_secs(10);

/// What health does to the services, and may not do.
#[derive(Clone, Debug, Default)]
pub struct Safety(BTreeMap<String, [Pool; 2]>);

/// The backends of a service of one address family.
#[derive(Clone, Debug, Default)]
struct Pool {
    /// Who looks dead, in the order in which they came to.
    dead: Vec<String>,
    /// So many of them are out, from the first on.
    out: usize,
    /// The others: they take traffic all the same.
    kept: BTreeSet<String>,
    panic: Latch,
    fallback: Latch,
    /// `on_empty: fail-open` is in force.
    open: bool,
}

/// Begins at once, and ends when there has been no reason for it for a while.
#[derive(Clone, Copy, Debug, Default)]
struct Latch {
    on: bool,
    /// Since when there is no reason for it.
    calm: Option<Instant>,
}

impl Latch {
    fn set(&mut self, wanted: bool, now: Instant) {
        if wanted {
            *self = Self { on: true, calm: None };
        } else if self.on {
            let since = *self.calm.get_or_insert(now);
            if now.saturating_duration_since(since) >= HOLD {
                *self = Self::default();
            }
        }
    }

    fn ends(&self) -> Option<Instant> {
        self.calm.map(|since| since + HOLD)
    }
}

/// What a look at the services found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub happened: Vec<Happened>,
    /// Services of which health took a backend out, as often as it did.
    pub ejected: Vec<String>,
}

/// What is unusual about a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unusual {
    pub panic: bool,
    pub fallback: bool,
    pub open: bool,
}

impl Safety {
    /// The backend looks dead and takes traffic all the same.
    pub fn keeps(&self, service: &str, backend: &Backend) -> bool {
        self.pool(service, backend).is_some_and(|pool| pool.kept.contains(&backend.name))
    }

    /// The backend is a fallback, and not used now.
    pub fn holds_back(&self, service: &str, backend: &Backend) -> bool {
        backend.fallback && !self.pool(service, backend).is_some_and(|pool| pool.fallback.on)
    }

    pub fn unusual(&self, service: &str) -> Unusual {
        let pools = || self.0.get(service).into_iter().flatten();
        Unusual {
            panic: pools().any(|pool| pool.panic.on),
            fallback: pools().any(|pool| pool.fallback.on),
            open: pools().any(|pool| pool.open),
        }
    }

    fn pool(&self, service: &str, backend: &Backend) -> Option<&Pool> {
        self.0.get(service).map(|pools| &pools[usize::from(backend.address.is_ipv6())])
    }

    /// Whether something ends merely because time has passed.
    pub fn is_due(&self, now: Instant) -> bool {
        let latches = self.0.values().flatten().flat_map(|pool| [pool.panic, pool.fallback]);
        latches.filter_map(|latch| latch.ends()).any(|at| at <= now)
    }

    /// Looks at all services anew. `counts` says whether a backend would take traffic if it were up: whom an operator or its
    /// agent took out is not health's to count.
    pub(super) fn update(
        &mut self,
        model: &Model,
        verdicts: &HashMap<BackendName, bool>,
        counts: impl Fn(&Service, &Backend) -> bool,
        now: Instant,
    ) -> Findings {
        self.0.retain(|name, _| model.services.iter().any(|s| s.name == *name));
        let mut findings = Findings::default();
        for service in &model.services {
            let verdict = |b: &Backend| match service.health {
                None => Some(true),
                Some(_) => verdicts.get(&(service.name.clone(), b.name.clone())).copied(),
            };
            let counted: Vec<(&Backend, Option<bool>)> =
                service.backends.iter().filter(|b| counts(service, b)).map(|b| (b, verdict(b))).collect();
            // Whose first check is not over may be up.
            let may_serve = |v6: Option<bool>| {
                let is_one = |b: &Backend| !b.fallback && v6.is_none_or(|v6| b.address.is_ipv6() == v6);
                let primaries = counted.iter().filter(|(b, _)| is_one(b));
                primaries.filter(|(_, up)| *up != Some(false)).count()
            };
            let few = may_serve(None) < service.min_healthy.max(1) as usize;
            let pools = self.0.entry(service.name.clone()).or_default();
            for (pool, v6) in pools.iter_mut().zip([false, true]) {
                if service.backends.iter().any(|b| b.address.is_ipv6() == v6) {
                    let members: Vec<_> = counted.iter().filter(|(b, _)| b.address.is_ipv6() == v6).copied().collect();
                    pool.update(service, &members, few || may_serve(Some(v6)) == 0, now, &mut findings);
                } else {
                    *pool = Pool::default();
                }
            }
        }
        findings
    }
}

impl Pool {
    /// `members` with what checks say of them; `few`: fewer than there should be are up.
    fn update(
        &mut self,
        service: &Service,
        members: &[(&Backend, Option<bool>)],
        few: bool,
        now: Instant,
        findings: &mut Findings,
    ) {
        let before = self.clone();
        let spare = members.iter().any(|(b, up)| b.fallback && *up == Some(true));
        if spare {
            self.fallback.set(few, now);
        } else {
            self.fallback = Latch::default();
        }
        let primaries: Vec<_> = members.iter().filter(|(b, _)| !b.fallback).collect();
        let looks_dead: BTreeSet<&str> =
            primaries.iter().filter(|(_, up)| *up == Some(false)).map(|(b, _)| b.name.as_str()).collect();
        let (all, many) = (primaries.len(), looks_dead.len());

        self.dead.retain(|name| looks_dead.contains(name.as_str()));
        let known: BTreeSet<&str> = before.dead.iter().map(String::as_str).collect();
        // In the order of the file, where several come at once.
        let newly =
            primaries.iter().map(|(b, _)| b.name.as_str()).filter(|n| looks_dead.contains(n) && !known.contains(n));
        self.dead.extend(newly.map(str::to_owned));
        (self.out, self.open) = (many, false);
        if self.fallback.on {
            self.panic = Latch::default();
        } else {
            // A whole number of backends is not missed for a rounding.
            let part = |of: f64| all as f64 * of + 1e-9;
            self.panic.set(many as f64 > part(service.panic_threshold), now);
            let most = match service.max_ejected {
                none if none <= 0.0 => 0,
                of => (part(of) as usize).max(1),
            };
            self.open =
                service.on_empty == OnEmpty::FailOpen && all > 0 && many == all && most >= all && !self.panic.on;
            self.out = if self.panic.on || self.open { 0 } else { most.min(many) };
        }
        self.kept = self.dead[self.out..].iter().cloned().collect();
        let were_out: BTreeSet<&str> = before.dead[..before.out].iter().map(String::as_str).collect();
        let ejected = self.dead[..self.out].iter().filter(|name| !were_out.contains(name.as_str()));
        findings.ejected.extend(ejected.map(|_| service.name.clone()));
        self.tell(&before, service, members, all, many, findings);
    }

    fn tell(
        &self,
        before: &Self,
        service: &Service,
        members: &[(&Backend, Option<bool>)],
        all: usize,
        many: usize,
        findings: &mut Findings,
    ) {
        let percent = |part: f64| format!("{} %", (part * 1000.0).round() / 10.0);
        let family = match members.first() {
            Some((b, _)) if service.backends.iter().any(|other| other.address.is_ipv6() != b.address.is_ipv6()) => {
                if b.address.is_ipv6() { "IPv6: " } else { "IPv4: " }
            }
            _ => "",
        };
        let words = |on: bool| if on { "on" } else { "off" };
        let mut service_wide = |kind, was: bool, is: bool, reason: String| {
            if was != is {
                findings.happened.push(Happened {
                    kind,
                    service: service.name.clone(),
                    backend: None,
                    address: None,
                    from: words(was).into(),
                    to: words(is).into(),
                    reason: format!("{family}{reason}"),
                    latency_ms: None,
                    last_error: None,
                });
            }
        };
        let threshold = percent(service.panic_threshold);
        let reason = match (self.panic.on, self.fallback.on) {
            (true, _) => format!(
                "{many} of {all} backends look dead, more than panic_threshold {threshold}: the checks are distrusted, and \
                 all are kept"
            ),
            (false, true) => "fallback backends are used instead".to_owned(),
            (false, false) => format!("no more than {threshold} of the backends look dead"),
        };
        service_wide(EventKind::Panic, before.panic.on, self.panic.on, reason);
        let reason = match self.fallback.on {
            true => format!("{} of {all} backends are up, with min_healthy {}", all - many, service.min_healthy),
            false => format!("{} of {all} backends are up, or no fallback is", all - many),
        };
        service_wide(EventKind::Fallback, before.fallback.on, self.fallback.on, reason);
        let reason = match self.open {
            true => "every backend looks dead, and all are used (on_empty: fail-open)",
            false => "not every backend looks dead any more",
        };
        service_wide(EventKind::Open, before.open, self.open, reason.to_owned());
        if self.panic.on || self.open {
            return;
        }
        let reason = format!("max_ejected {} lets {} of {all} be out", percent(service.max_ejected), self.out);
        for name in self.kept.difference(&before.kept) {
            findings.happened.push(Happened {
                kind: EventKind::Kept,
                service: service.name.clone(),
                backend: Some(name.clone()),
                address: None,
                from: "out".into(),
                to: "kept".into(),
                reason: reason.clone(),
                latency_ms: None,
                last_error: None,
            });
        }
    }
}

/// A service's [`Pool`] as it is saved for the next controller: which of several dead backends are out, and whether
/// there is panic, follows from how it came about, and rows would move if it were forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPool {
    service: String,
    v6: bool,
    dead: Vec<String>,
    out: usize,
    panic: bool,
    fallback: bool,
}

impl Safety {
    pub fn save(&self) -> Vec<SavedPool> {
        let pools =
            self.0.iter().flat_map(|(service, pools)| pools.iter().zip([false, true]).map(move |p| (service, p)));
        let saved = pools.map(|(service, (pool, v6))| SavedPool {
            service: service.clone(),
            v6,
            dead: pool.dead.clone(),
            out: pool.out,
            panic: pool.panic.on,
            fallback: pool.fallback.on,
        });
        // Most have nothing to remember.
        saved.filter(|s| !s.dead.is_empty() || s.panic || s.fallback).collect()
    }

    pub fn restore(saved: &[SavedPool]) -> Self {
        let mut safety = Self::default();
        for SavedPool { service, v6, dead, out, panic, fallback } in saved.iter().cloned() {
            let latch = |on| Latch { on, calm: None };
            let out = out.min(dead.len());
            let kept = dead[out..].iter().cloned().collect();
            let pool = Pool { dead, out, kept, panic: latch(panic), fallback: latch(fallback), open: false };
            safety.0.entry(service).or_default()[usize::from(v6)] = pool;
        }
        safety
    }
}

#[cfg(test)]
mod tests;
