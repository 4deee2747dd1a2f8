//! `sluice drops`: what was dropped, under which service, why, and what to look at.
//!
//! The counters are those of `sluice status` and of the metrics; here they stand with the sentence that explains them.

use std::time::Instant;

use lb_common::counters::DropReason;
use serde::Serialize;

use crate::api::types::{ServiceStatus, Status};
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::cli::table;
use crate::cli::watch::{self, Watch};
use crate::exit::{Exit, Failure};

/// Show which packets were dropped, and why
///
/// One line per service and reason, with the number of packets since the service is there and what to look at. With
/// `--watch` a column says how many there are per second. `-o wide` lists reasons that never happened, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice drops\n  \
    sluice drops --watch                         every 2 seconds, with rates, until Ctrl-C\n  \
    sluice drops --service web -o json | jq '.drops[] | select(.reason == \"no_backend\") | .packets'")]
pub struct DropsVerb {
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
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Drops {
    drops: Vec<Dropped>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct Dropped {
    service: String,
    reason: &'static str,
    packets: u64,
    /// Since the frame before, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<f64>,
    meaning: &'static str,
}

/// The frame before, and when it was read.
type Before = (Instant, Status);

impl DropsVerb {
    pub fn execute(self) -> Ended {
        self.connection.talk(async |client| match self.watch.interval() {
            None => {
                let status = client.status().await?;
                let drops = self.drops(&status, None)?;
                output::data(self.output, &drops, |drops| people(drops, columns()))?;
                if drops.drops.is_empty() && matches!(self.output, Format::Table | Format::Wide) {
                    output::talk("no packet was dropped");
                }
                Ok(Exit::Ok)
            }
            Some(interval) => {
                let mut before: Option<Before> = None;
                watch::again_and_again(&client, interval, |status, seen| {
                    let drops = self.drops(status, before.as_ref())?;
                    before = Some((Instant::now(), status.clone()));
                    watch::frame(self.output, &drops, |drops| said(drops, columns()), seen)
                })
                .await
            }
        })
    }

    fn drops(&self, status: &Status, before: Option<&Before>) -> Result<Drops, Failure> {
        let asked = |service: &&ServiceStatus| self.service.as_ref().is_none_or(|name| *name == service.name);
        if let Some(name) = &self.service
            && !status.services.iter().any(|service| asked(&service))
        {
            let known: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
            return Err(Failure::new(Exit::Usage, format!("there is no service called {name}"))
                .hint(format!("services: {}", known.join(", "))));
        }
        let before = before.map(|(then, status)| (then.elapsed().as_secs_f64().max(1e-3), status));
        let dropped = status.services.iter().filter(asked).flat_map(|service| {
            DropReason::ALL.into_iter().map(move |reason| {
                let packets = count(service, reason);
                let per_second = before.map(|(seconds, status)| {
                    let then = status.services.iter().find(|then| then.name == service.name);
                    // After a restart without its maps the counters begin anew.
                    let more = packets.saturating_sub(then.map_or(0, |then| count(then, reason)));
                    (more as f64 / seconds * 10.0).round() / 10.0
                });
                Dropped {
                    service: service.name.clone(),
                    reason: reason.name(),
                    packets,
                    per_second,
                    meaning: reason.help(),
                }
            })
        });
        let wide = self.output == Format::Wide;
        Ok(Drops { drops: dropped.filter(|drop| wide || drop.packets > 0).collect() })
    }
}

fn count(service: &ServiceStatus, reason: DropReason) -> u64 {
    service.drops.get(reason.name()).copied().unwrap_or(0)
}

fn columns() -> Option<usize> {
    output::terminal_size().map(|size| size.columns)
}

/// The table, or that there is nothing to show.
fn said(drops: &Drops, width: Option<usize>) -> String {
    if drops.drops.is_empty() { "no packet was dropped\n".to_owned() } else { people(drops, width) }
}

fn people(drops: &Drops, width: Option<usize>) -> String {
    if drops.drops.is_empty() {
        return String::new();
    }
    let rates = drops.drops.iter().any(|drop| drop.per_second.is_some());
    let mut lines = vec![["SERVICE", "REASON", "PACKETS", "PER SECOND"].map(str::to_owned)];
    lines.extend(drops.drops.iter().map(|drop| {
        let rate = drop.per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        [drop.service.clone(), drop.reason.to_owned(), drop.packets.to_string(), rate]
    }));
    let used = if rates { 4 } else { 3 };
    let widths: Vec<usize> =
        (0..used).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
    let start = widths.iter().map(|width| width + 2).sum::<usize>();
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(start));
    let meanings = std::iter::once("MEANING").chain(drops.drops.iter().map(|drop| drop.meaning));
    let mut out = String::new();
    for (line, meaning) in lines.iter().zip(meanings) {
        for (column, width) in widths.iter().enumerate() {
            let cell = &line[column];
            out.push_str(&if column < 2 { format!("{cell:<width$}  ") } else { format!("{cell:>width$}  ") });
        }
        if room < table::SENTENCE {
            out.truncate(out.trim_end().len());
            if meaning != "MEANING" {
                let below = table::wrap(meaning, width.unwrap_or(usize::MAX).saturating_sub(4));
                below.iter().for_each(|part| out.push_str(&format!("\n    {part}")));
            }
        } else {
            out.push_str(&table::wrap(meaning, room).join(&format!("\n{}", " ".repeat(start))));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::api::types::fixture;

    fn verb(arguments: &[&str]) -> DropsVerb {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            verb: DropsVerb,
        }
        let line = std::iter::once("drops").chain(arguments.iter().copied());
        <Line as clap::Parser>::try_parse_from(line).unwrap().verb
    }

    #[test]
    fn what_happened_is_listed_with_its_meaning() {
        let drops = verb(&[]).drops(&fixture::status(), None).unwrap();
        let listed: Vec<_> = drops.drops.iter().map(|d| (d.service.as_str(), d.reason, d.packets)).collect();
        assert_eq!(listed, [("web", "too_big", 3), ("web", "no_neighbour", 12), ("dns", "no_backend", 7)]);
        let text = people(&drops, None);
        assert!(
            text.starts_with("SERVICE  REASON        PACKETS  MEANING\nweb      too_big             3  the packet"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 4);
        assert!(serde_json::to_value(&drops).unwrap()["drops"][0].get("per_second").is_none());
    }

    #[test]
    fn one_service_or_every_reason_can_be_asked_for() {
        let status = fixture::status();
        let drops = verb(&["--service", "dns"]).drops(&status, None).unwrap();
        assert_eq!(drops.drops.len(), 1);
        let all = verb(&["--service", "dns", "-o", "wide"]).drops(&status, None).unwrap();
        assert_eq!(all.drops.len(), DropReason::ALL.len());
        let unknown = verb(&["--service", "wbe"]).drops(&status, None).unwrap_err();
        assert_eq!(unknown.exit, Exit::Usage);
        assert_eq!(unknown.message, "there is no service called wbe");
        assert!(unknown.hint.unwrap().starts_with("services: web, "));
    }

    #[test]
    fn a_rate_is_what_came_since_the_frame_before() {
        let verb = verb(&["--service", "dns", "--watch=1"]);
        assert_eq!(verb.watch.interval(), Some(Duration::from_secs(1)));
        let then = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
        let mut before = fixture::status();
        before.services.iter_mut().for_each(|service| service.drops.values_mut().for_each(|n| *n = 1));
        let drops = verb.drops(&fixture::status(), Some(&(then, before))).unwrap();
        assert_eq!(drops.drops[0].per_second, Some(3.0));
        assert!(people(&drops, None).contains("PER SECOND"));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut drops = verb(&[]).drops(&fixture::status(), None).unwrap();
        drops.drops[0].per_second = Some(1.5);
        for width in [45, 80, 120] {
            let text = people(&drops, Some(width));
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{line:?} is wider than {width}");
            }
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains("see `ip neigh`"), "{text}");
        }
        assert_eq!(people(&Drops { drops: Vec::new() }, Some(80)), "");
        assert_eq!(said(&Drops { drops: Vec::new() }, Some(80)), "no packet was dropped\n");
    }
}
