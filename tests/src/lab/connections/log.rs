//! What was done when: the scenario's own log, to find the change that came before a broken connection.

use std::time::Instant;

#[derive(Clone, Debug)]
pub struct Event {
    pub at: Instant,
    pub what: String,
}

/// Events in order of time, counted from the log's beginning.
#[derive(Clone, Debug)]
pub struct Log {
    begin: Instant,
    events: Vec<Event>,
}

impl Log {
    #[expect(clippy::new_without_default, reason = "a log begins now: two of them are never equal")]
    pub fn new() -> Self {
        Self { begin: Instant::now(), events: Vec::new() }
    }

    /// Writes down that `what` happens now.
    pub fn note(&mut self, what: impl Into<String>) {
        let event = Event { at: Instant::now(), what: what.into() };
        println!("{}  {}", self.time(event.at), event.what);
        self.events.push(event);
    }

    /// The last event before `at`.
    pub fn before(&self, at: Instant) -> Option<&Event> {
        self.events.iter().rev().find(|e| e.at <= at)
    }

    /// Seconds since the beginning, for people.
    pub fn time(&self, at: Instant) -> String {
        format!("{:8.3} s", at.saturating_duration_since(self.begin).as_secs_f64())
    }
}
