//! Whether traffic should be sent to this node, service by service: `/readyz`, and what hooks withdraw a VIP by.
//!
//! A service is ready while enough of its backends are healthy. It ceases to be at once, and is so again only when it
//! has had enough for [`HOLD`]: a route that comes and goes with one backend is worse than either. While the checks are
//! distrusted they say nothing here either, and what was stays.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::journal::Happened;
use crate::api::types::EventKind;

/// How long a service that was not ready must have enough backends to be ready again.
pub const HOLD: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Readiness(BTreeMap<String, One>);

/// A service; ready if it was said to be.
#[derive(Clone, Copy, Debug, Default)]
struct One {
    /// What was said last; `None` before there was anything to say.
    told: Option<bool>,
    /// Since when it has enough, if it is not ready.
    enough: Option<Instant>,
}

/// What is known of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Enough backends are healthy.
    Enough,
    /// In words how many.
    TooFew(String),
    /// First checks are awaited, or checks are distrusted.
    Unknown,
}

impl Readiness {
    pub fn is_ready(&self, service: &str) -> bool {
        self.0.get(service).is_some_and(|one| one.told == Some(true))
    }

    /// Whether something changes merely because time has passed.
    pub fn is_due(&self, now: Instant) -> bool {
        self.0.values().filter_map(|one| one.enough).any(|since| since + HOLD <= now)
    }

    /// Looks at all services anew.
    pub(super) fn update(&mut self, services: Vec<(String, Seen)>, now: Instant) -> Vec<Happened> {
        self.0.retain(|name, _| services.iter().any(|(service, _)| service == name));
        let mut happened = Vec::new();
        for (service, seen) in services {
            let one = self.0.entry(service.clone()).or_default();
            let (ready, reason) = match seen {
                Seen::Unknown => continue,
                Seen::TooFew(reason) => {
                    one.enough = None;
                    (false, reason)
                }
                Seen::Enough if one.told == Some(false) => {
                    let since = *one.enough.get_or_insert(now);
                    if now.saturating_duration_since(since) < HOLD {
                        continue;
                    }
                    (true, format!("enough backends have been healthy for {HOLD:?}"))
                }
                Seen::Enough => (true, "enough backends are healthy".to_owned()),
            };
            if ready {
                one.enough = None;
            }
            let before = one.told.replace(ready);
            if before == Some(ready) {
                continue;
            }
            let word = |ready| if ready { "ready" } else { "unready" };
            happened.push(Happened {
                kind: EventKind::Ready,
                service,
                backend: None,
                address: None,
                from: before.map_or("unknown", word).into(),
                to: word(ready).into(),
                reason,
                latency_ms: None,
                last_error: None,
            });
        }
        happened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn few() -> Seen {
        Seen::TooFew("0 of 2 backends are up".to_owned())
    }

    /// What is told when a service is seen so, at these seconds after the start.
    fn told(readiness: &mut Readiness, start: Instant, seconds: u32, seen: Seen) -> Option<String> {
        let happened = readiness.update(vec![("web".to_owned(), seen)], start + seconds * SECOND);
        happened.first().map(|h| h.to.to_string())
    }

    #[test]
    fn a_service_is_ready_at_its_first_sight_and_after_that_only_when_it_lasts() {
        let (mut readiness, start) = (Readiness::default(), Instant::now());
        let mut told = |seconds, seen| told(&mut readiness, start, seconds, seen);
        assert_eq!(told(0, Seen::Unknown), None);
        assert_eq!(told(1, Seen::Enough), Some("ready".to_owned()));
        assert_eq!(told(2, few()), Some("unready".to_owned()), "at once");
        for flap in 3..20 {
            let seen = if flap % 3 == 0 { few() } else { Seen::Enough };
            assert_eq!(told(flap, seen), None, "it flaps");
        }
        assert_eq!(told(30, Seen::Enough), Some("ready".to_owned()), "since 19 s");
        assert_eq!(told(31, Seen::Enough), None);
    }

    #[test]
    fn who_was_never_ready_is_told_once_that_it_is_known() {
        let (mut readiness, start) = (Readiness::default(), Instant::now());
        assert!(!readiness.is_ready("web"));
        assert_eq!(told(&mut readiness, start, 0, Seen::Unknown), None);
        assert_eq!(
            told(&mut readiness, start, 1, few()),
            Some("unready".to_owned()),
            "an earlier daemon may have said otherwise"
        );
        assert_eq!(told(&mut readiness, start, 2, Seen::Enough), None);
        assert!(!readiness.is_due(start + 6 * SECOND));
        assert!(readiness.is_due(start + 7 * SECOND));
    }

    #[test]
    fn while_the_checks_are_distrusted_it_stays_what_it_was() {
        let (mut readiness, start) = (Readiness::default(), Instant::now());
        assert_eq!(told(&mut readiness, start, 0, Seen::Enough), Some("ready".to_owned()));
        assert_eq!(told(&mut readiness, start, 1, Seen::Unknown), None);
        assert!(readiness.is_ready("web"));
        readiness.update(vec![], start);
        assert!(!readiness.is_ready("web"), "it is gone from the file");
    }
}
