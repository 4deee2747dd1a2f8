//! What happened to backends: the last few thousand events, in memory.
//!
//! Each is logged as well, by whoever caused it; the journal is for who asks later, `sluice backends events`. It is
//! bounded, because a backend that flaps for a week must not take the controller's memory.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::api::types::{Event, EventKind, Events, Health};
use crate::health::Transition;

/// A start with thousands of backends is thousands of events; each takes some hundred bytes.
const KEPT: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Oldest first.
    events: VecDeque<Event>,
    last: u64,
}

/// An event that is yet to get its number and its time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happened {
    pub kind: EventKind,
    pub service: String,
    /// `None`: to the service as a whole.
    pub backend: Option<String>,
    pub address: Option<String>,
    pub from: Cow<'static, str>,
    pub to: Cow<'static, str>,
    pub reason: String,
    pub latency_ms: Option<f64>,
    pub last_error: Option<String>,
}

impl From<&Transition> for Happened {
    fn from(t: &Transition) -> Self {
        Self {
            kind: EventKind::Health,
            service: t.key.service.clone(),
            backend: Some(t.key.backend.clone()),
            address: Some(t.address.to_string()),
            from: t.from.name().into(),
            to: if t.up { Health::Up } else { Health::Down }.name().into(),
            reason: t.reason.clone(),
            latency_ms: t.latency.map(|latency| latency.as_secs_f64() * 1e3),
            last_error: t.last_error.clone(),
        }
    }
}

impl Journal {
    pub fn add(&mut self, happened: Happened, at: Instant) -> &Event {
        let Happened { kind, service, backend, address, from, to, reason, latency_ms, last_error } = happened;
        self.last += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            number: self.last,
            at_ms: unix_ms(at),
            kind,
            service,
            backend,
            address,
            from: from.into_owned(),
            to: to.into_owned(),
            reason,
            latency_ms,
            last_error,
        });
        &self.events[self.events.len() - 1]
    }

    /// Those with a higher number.
    pub fn after(&self, number: u64) -> Events {
        // Numbers are consecutive, so the first one that is wanted has its place.
        let oldest = self.events.front().map_or(0, |event| event.number);
        let skip = usize::try_from(number.saturating_add(1).saturating_sub(oldest)).unwrap_or(usize::MAX);
        Events { events: self.events.iter().skip(skip).cloned().collect(), last: self.last }
    }
}

/// A moment of this process in milliseconds since the Unix epoch.
pub(super) fn unix_ms(at: Instant) -> u64 {
    let (now, wall) = (Instant::now(), SystemTime::now());
    // A moment ahead of now is a test's, or a rounding.
    let then = match now.checked_duration_since(at) {
        Some(ago) => wall.checked_sub(ago),
        None => wall.checked_add(at - now),
    };
    then.and_then(|then| then.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(reason: &str) -> Happened {
        Happened {
            kind: EventKind::Health,
            service: "web".to_owned(),
            backend: Some("one".to_owned()),
            address: None,
            from: "up".into(),
            to: "down".into(),
            reason: reason.to_owned(),
            latency_ms: None,
            last_error: None,
        }
    }

    #[test]
    fn the_last_ones_are_kept_and_numbered_through() {
        let mut journal = Journal::default();
        assert_eq!(journal.after(0), Events::default());
        for i in 0..KEPT + 10 {
            journal.add(happened(&i.to_string()), Instant::now());
        }
        let all = journal.after(0);
        assert_eq!((all.events.len(), all.last), (KEPT, KEPT as u64 + 10));
        assert_eq!((all.events[0].number, all.events[0].reason.as_str()), (11, "10"));
        assert_eq!(journal.after(all.last - 3).events.len(), 3);
        for none in [all.last, all.last + 5, u64::MAX] {
            assert_eq!(journal.after(none).events.len(), 0, "after {none}");
        }
    }

    #[test]
    fn a_moment_of_the_past_is_as_long_ago_on_the_wall_clock() {
        let now = Instant::now();
        let earlier = now.checked_sub(std::time::Duration::from_secs(5)).unwrap();
        assert!((4_990..5_010).contains(&(unix_ms(now) - unix_ms(earlier))));
    }
}
