//! `sluice backends list`: a backend per line, its health first of all.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::must_exist;
use crate::api::types::{BackendStatus, Health, Status};
use crate::cli::Ended;
use crate::cli::columns;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::cli::table;
use crate::cli::watch::{self, Watch};
use crate::exit::{Exit, Failure};

/// Show every backend: address, weight, state, health, since when, and why
///
/// SINCE is how long health has been what it is, LATENCY what the last check took that passed, CHANGES how often health
/// changed since this daemon runs. `-o wide` adds when the last check ended and what the last one saw that failed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice backends list\n  \
    sluice backends list --service web --watch   every 2 seconds, until Ctrl-C\n  \
    sluice backends list -o json | jq '.backends[] | select(.health != \"up\") | .name'")]
pub struct List {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What scripts read.
#[derive(Debug, Serialize)]
struct Backends<'s> {
    backends: Vec<Listed<'s>>,
}

/// A backend as in `sluice status -o json`, and whose it is.
#[derive(Debug, Serialize)]
struct Listed<'s> {
    service: &'s str,
    #[serde(flatten)]
    backend: &'s BackendStatus,
}

impl List {
    pub fn execute(self) -> Ended {
        self.connection.talk(async |client| match self.watch.interval() {
            None => {
                let status = client.status().await?;
                output::data(self.output, &self.listed(&status)?, |listed| self.table(listed))?;
                Ok(Exit::Ok)
            }
            Some(interval) => {
                watch::again_and_again(&client, interval, |status, seen| {
                    watch::frame(self.output, &self.listed(status)?, |listed| self.table(listed), seen)
                })
                .await
            }
        })
    }

    fn listed<'s>(&self, status: &'s Status) -> Result<Backends<'s>, Failure> {
        must_exist(self.service.as_deref(), status)?;
        let services = status.services.iter().filter(|s| self.service.as_ref().is_none_or(|name| *name == s.name));
        let backends = services.flat_map(|s| s.backends.iter().map(|backend| Listed { service: &s.name, backend }));
        Ok(Backends { backends: backends.collect() })
    }

    fn table(&self, listed: &Backends<'_>) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let width = output::terminal_size().map(|size| size.columns);
        if self.output == Format::Wide { wide(listed, now, width) } else { usual(listed, now, width) }
    }
}

fn usual(listed: &Backends<'_>, now: u64, width: Option<usize>) -> String {
    let head = ["SERVICE", "BACKEND", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SINCE", "LATENCY", "CHANGES", "REASON"];
    let rows: Vec<_> = listed
        .backends
        .iter()
        .map(|l| {
            let [since, _] = ages(l.backend, now);
            let [name, address, weight, state, health, latency] = facts(l.backend);
            let changes = l.backend.transitions.to_string();
            [l.service.to_owned(), name, address, weight, state, health, since, latency, changes, why(l.backend)]
        })
        .collect();
    columns::lay_out(head, &rows, width)
}

fn wide(listed: &Backends<'_>, now: u64, width: Option<usize>) -> String {
    let head = [
        "SERVICE", "BACKEND", "ADDRESS", "WEIGHT", "STATE", "HEALTH", "SINCE", "CHECKED", "LATENCY", "CHANGES",
        "SHARE", "REASON",
    ];
    let rows: Vec<_> = listed
        .backends
        .iter()
        .map(|l| {
            let [since, checked] = ages(l.backend, now);
            let [name, address, weight, state, health, latency] = facts(l.backend);
            let changes = l.backend.transitions.to_string();
            let share = format!("{:.1}%", l.backend.share * 100.0);
            let service = l.service.to_owned();
            let why = explained(l.backend);
            [service, name, address, weight, state, health, since, checked, latency, changes, share, why]
        })
        .collect();
    columns::lay_out(head, &rows, width)
}

fn facts(b: &BackendStatus) -> [String; 6] {
    let address = match (b.port, b.address.contains(':')) {
        (None, _) => b.address.clone(),
        (Some(port), false) => format!("{}:{port}", b.address),
        (Some(port), true) => format!("[{}]:{port}", b.address),
    };
    let health = match (b.health, b.kept) {
        (Health::Down, true) => "DOWN, kept",
        (Health::Down, false) => "DOWN",
        (other, _) => other.name(),
    };
    let latency = b.latency_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2}ms"));
    [b.name.clone(), address, b.weight.to_string(), table::state(b), health.to_owned(), latency]
}

/// How long its health has been what it is, and ago the last check ended.
fn ages(b: &BackendStatus, now: u64) -> [String; 2] {
    [b.since, b.checked].map(|at| at.map_or_else(|| "-".to_owned(), |at| table::duration(now.saturating_sub(at))))
}

/// What the last check saw, and what is coming.
fn why(b: &BackendStatus) -> String {
    let agent =
        b.agent.as_deref().filter(|said| *said != "ready 100%" && !b.reason.iter().any(|why| why.contains(said)));
    let agent = agent.map(|said| format!("agent: {said}"));
    let said = [b.reason.as_deref(), b.warning.as_deref(), agent.as_deref()];
    said.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The same, and what went wrong last where that is something else.
fn explained(b: &BackendStatus) -> String {
    let why = why(b);
    match &b.last_error {
        Some(error) if !why.contains(error.as_str()) => format!("{why} (last error: {error})"),
        _ => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::fixture;

    const NOW: u64 = 1_767_225_600 + 725;

    fn list(service: Option<&str>) -> List {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            verb: List,
        }
        let line = ["list"].into_iter().chain(service.iter().flat_map(|name| ["--service", name]));
        <Line as clap::Parser>::try_parse_from(line).unwrap().verb
    }

    #[test]
    fn every_backend_is_a_line_with_its_health_and_why() {
        let status = fixture::status();
        let text = usual(&list(Some("web")).listed(&status).unwrap(), NOW, None);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["SERVICE", "BACKEND", "ADDRESS", "WEIGHT"]);
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[1][..6], ["web", "10.0.0.11", "10.0.0.11", "100", "active", "up"]);
        assert_eq!(lines[1][6..], ["3h", "28m", "1.25ms", "1", "HTTP", "200"]);
        assert!(text.contains("DOWN    12m 5s  -        3        HTTP 503, expected 200-299"), "{text}");
        assert!(text.contains("drain (override)  up"), "{text}");
        assert!(text.contains("[2001:db8:1::11]:8080"), "{text}");
    }

    #[test]
    fn wide_tells_what_went_wrong_last_even_when_all_is_well() {
        let status = fixture::status();
        let text = wide(&list(None).listed(&status).unwrap(), NOW, None);
        assert!(text.contains("HTTP 200 (last error: connection refused)"), "{text}");
        assert_eq!(text.matches("HTTP 503, expected").count(), 1, "said once: {text}");
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn json_names_the_service_beside_what_status_says() {
        let status = fixture::status();
        let json = serde_json::to_value(list(Some("dns")).listed(&status).unwrap()).unwrap();
        assert_eq!(json["backends"][1]["service"], "dns");
        assert_eq!(json["backends"][1]["name"], "10.0.1.54");
        assert_eq!(json["backends"][1]["health"], "down");
    }

    #[test]
    fn a_service_nobody_knows_is_a_mistake_and_no_empty_list() {
        let failure = list(Some("wbe")).listed(&fixture::status()).unwrap_err();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Usage, "there is no service called wbe"));
        assert_eq!(failure.hint.as_deref(), Some("services: web, dns"));
    }
}
