//! `sluice backends events`: what happened to backends, when and why.

use std::time::Duration;

use x509_cert::der::DateTime;

use super::must_exist;
use crate::api::client::Client;
use crate::api::types::{Event, Events};
use crate::cli::Ended;
use crate::cli::columns;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format, Reader};
use crate::exit::{Exit, Failure};

/// How often `--follow` looks.
const PACE: Duration = Duration::from_millis(500);

/// Show every change of a backend's health, and what operators did to it, oldest first
///
/// The daemon keeps the last 4,096 since it started; its log has all of them. Times are UTC.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice backends events\n  \
    sluice backends events --service web --follow\n  \
    sluice backends events -o json | jq '.events[] | select(.to == \"down\") | [.backend, .reason]'")]
pub struct EventsVerb {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Of this backend
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only the last so many
    #[arg(short = 'n', long, value_name = "N")]
    last: Option<usize>,
    /// Go on with those to come, until Ctrl-C; JSON comes one event per line
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl EventsVerb {
    pub fn execute(self) -> Ended {
        self.connection.talk(async |client| {
            must_exist(self.service.as_deref(), &client.status().await?)?;
            let events = self.asked_for(client.events(0).await?);
            if self.follow {
                return self.go_on(&client, events).await;
            }
            output::data(self.output, &events, |events| people(&events.events, width()))?;
            if events.events.is_empty() && matches!(self.output, Format::Table | Format::Wide) {
                output::talk("nothing has happened since the daemon started");
            }
            Ok(Exit::Ok)
        })
    }

    /// Those of the service and backend that are asked for.
    fn of_those(&self, mut events: Events) -> Events {
        events.events.retain(|event| {
            self.service.as_ref().is_none_or(|name| *name == event.service)
                && self.backend.as_ref().is_none_or(|name| Some(name) == event.backend.as_ref())
        });
        events
    }

    /// The last of these.
    fn asked_for(&self, events: Events) -> Events {
        let mut events = self.of_those(events);
        let skip = self.last.map_or(0, |last| events.events.len().saturating_sub(last));
        events.events.drain(..skip);
        events
    }

    async fn go_on(&self, client: &Client, mut events: Events) -> Ended {
        let (mut head, mut lost) = (true, false);
        loop {
            if output::write(&self.lines(&events, head)?)? == Reader::Gone {
                return Ok(Exit::Ok);
            }
            head &= events.events.is_empty();
            let after = events.last;
            events = loop {
                tokio::time::sleep(PACE).await;
                match client.events(after).await {
                    // Another daemon counts from 1 again.
                    Ok(next) if next.last < after => break client.events(0).await?,
                    Ok(next) => break next,
                    Err(e) if e.exit == Exit::DaemonUnreachable => {
                        if !lost {
                            output::talk(&format!("{e}; waiting for it to come back"));
                        }
                        lost = true;
                    }
                    Err(e) => return Err(e),
                }
            };
            lost = false;
            events = self.of_those(events);
        }
    }

    fn lines(&self, events: &Events, head: bool) -> Result<String, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot print the event: {e}"));
        let mut out = String::new();
        match self.output {
            Format::Table | Format::Wide => {
                let text = people(&events.events, width());
                let body = text.split_once('\n').map_or("", |(_, body)| body);
                out.push_str(if head { &text } else { body });
            }
            Format::Json => {
                for event in &events.events {
                    out.push_str(&serde_json::to_string(event).map_err(|e| failed(&e))?);
                    out.push('\n');
                }
            }
            Format::Yaml => {
                for event in &events.events {
                    out.push_str(&format!("---\n{}", serde_yaml::to_string(event).map_err(|e| failed(&e))?));
                }
            }
        }
        Ok(out)
    }
}

fn width() -> Option<usize> {
    output::terminal_size().map(|size| size.columns)
}

fn people(events: &[Event], width: Option<usize>) -> String {
    let head = ["TIME", "SERVICE", "BACKEND", "WHAT", "FROM", "TO", "LATENCY", "REASON"];
    let rows: Vec<_> = events
        .iter()
        .map(|e| {
            [
                time(e.at_ms),
                e.service.clone(),
                e.backend.clone().unwrap_or_else(|| "-".to_owned()),
                e.kind.name().to_owned(),
                e.from.clone(),
                e.to.clone(),
                e.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}ms")),
                explained(e),
            ]
        })
        .collect();
    columns::lay_out(head, &rows, width)
}

/// The reason; of a recovery also what was wrong before.
fn explained(event: &Event) -> String {
    match &event.last_error {
        Some(error) if *error != event.reason => format!("{} (last error: {error})", event.reason),
        _ => event.reason.clone(),
    }
}

/// RFC 3339, in UTC and with milliseconds: `2026-11-27T19:56:06.123Z`.
fn time(unix_ms: u64) -> String {
    let date = DateTime::from_unix_duration(Duration::from_millis(unix_ms)).map(|date| date.to_string());
    match date.as_deref().map(|text| text.trim_end_matches('Z')) {
        Ok(text) => format!("{text}.{:03}Z", unix_ms % 1_000),
        Err(_) => format!("{unix_ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::EventKind;

    fn events() -> Events {
        let event = |number, backend: &str, to: &str, reason: &str| Event {
            number,
            at_ms: 1_767_225_600_123 + number * 1_000,
            kind: EventKind::Health,
            service: "web".to_owned(),
            backend: Some(backend.to_owned()),
            address: Some("10.0.0.11:8080".to_owned()),
            from: if to == "up" { "down" } else { "up" }.to_owned(),
            to: to.to_owned(),
            reason: reason.to_owned(),
            latency_ms: (to == "up").then_some(1.5),
            last_error: Some("connection refused".to_owned()),
        };
        let events = vec![
            event(1, "one", "down", "connection refused"),
            event(2, "two", "down", "connection refused"),
            event(3, "one", "up", "status 200"),
        ];
        Events { events, last: 3 }
    }

    fn verb(arguments: &[&str]) -> EventsVerb {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            verb: EventsVerb,
        }
        let line = std::iter::once("events").chain(arguments.iter().copied());
        <Line as clap::Parser>::try_parse_from(line).unwrap().verb
    }

    #[test]
    fn an_event_is_a_line_with_its_time_and_its_reason() {
        assert_eq!(
            people(&events().events[1..], None),
            "TIME                      SERVICE  BACKEND  WHAT    FROM  TO    LATENCY  REASON\n\
             2026-01-01T00:00:02.123Z  web      two      health  up    down  -        connection refused\n\
             2026-01-01T00:00:03.123Z  web      one      health  down  up    1.50ms   status 200 (last error: \
             connection refused)\n"
        );
        assert_eq!(people(&[], None), "");
    }

    #[test]
    fn one_backend_or_the_last_ones_can_be_asked_for() {
        let numbers = |arguments: &[&str]| -> Vec<u64> {
            verb(arguments).asked_for(events()).events.iter().map(|event| event.number).collect()
        };
        assert_eq!(numbers(&["--backend", "one"]), [1, 3]);
        assert_eq!(numbers(&["--backend", "one", "-n", "1"]), [3]);
        assert_eq!(numbers(&["--service", "dns"]), [] as [u64; 0]);
        assert_eq!(numbers(&["-n", "9"]), [1, 2, 3]);
    }

    #[test]
    fn who_follows_gets_the_head_once_and_json_by_the_line() {
        let table = verb(&["--follow"]);
        assert_eq!(table.lines(&events(), true).unwrap().lines().count(), 4);
        assert_eq!(table.lines(&events(), false).unwrap().lines().count(), 3);
        assert_eq!(table.lines(&Events::default(), true).unwrap(), "");
        let json = verb(&["--follow", "-o", "json"]).lines(&events(), true).unwrap();
        assert_eq!(json.lines().count(), 3);
        assert!(json.starts_with("{\"number\":1,"), "{json}");
    }
}
