//! `sluice status`: who gets what, who is down, what is not as configured.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::client::Client;
use crate::api::types::{ServiceState, Status};
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format, Paint, Reader};
use crate::cli::table;
use crate::exit::{Exit, Failure};

/// Show services and backends: weights, health, shares and traffic
///
/// One line per service, one per backend under it, and at the end what is not as configured. `-o wide` shows every
/// column and exact numbers; `-o json` and `-o yaml` are for scripts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice status\n  \
    sluice status --watch                        every 2 seconds, until Ctrl-C\n  \
    sluice status -o json | jq '.services[].backends[] | select(.health == \"down\") | .name'\n  \
    sluice status --check || echo degraded       exit code 5 when anything is not as configured")]
pub struct StatusVerb {
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again, every 2 seconds or as given; JSON comes one document per line
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = interval)]
    watch: Option<Duration>,
    /// End with exit code 5 if a service lacks healthy backends or anything else is not as configured
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl StatusVerb {
    pub fn execute(self) -> Ended {
        self.connection.talk(async |client| match self.watch {
            None => self.once(&client).await,
            Some(interval) => self.again_and_again(&client, interval).await,
        })
    }

    async fn once(&self, client: &Client) -> Ended {
        let status = client.status().await?;
        output::data(self.output, &status, |status| self.table(status))?;
        if self.check && is_degraded(&status) { Ok(Exit::Degraded) } else { Ok(Exit::Ok) }
    }

    /// The first failure ends it; later ones are waited out, because restarts are when people watch.
    async fn again_and_again(&self, client: &Client, interval: Duration) -> Ended {
        let mut seen = false;
        let mut lost = false;
        loop {
            match client.status().await {
                Ok(status) => {
                    let text = self.frame(&status, seen)?;
                    if output::write(&text)? == Reader::Gone {
                        return Ok(Exit::Ok);
                    }
                    (seen, lost) = (true, false);
                }
                Err(e) if seen && e.exit == Exit::DaemonUnreachable => {
                    if !lost {
                        output::talk(&format!("{e}; waiting for it to come back"));
                    }
                    lost = true;
                }
                Err(e) => return Err(e),
            }
            tokio::time::sleep(interval).await;
        }
    }

    fn table(&self, status: &Status) -> String {
        let width = output::terminal_size().map(|size| size.columns);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        table::status(status, self.output == Format::Wide, width, Paint::for_stream(&io::stdout()), now)
    }

    /// One frame of `--watch`.
    fn frame(&self, status: &Status, seen: bool) -> Result<String, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot print the status: {e}"));
        Ok(match (self.output, output::terminal_size()) {
            (Format::Json, _) => serde_json::to_string(status).map_err(|e| failed(&e))? + "\n",
            (Format::Yaml, _) => format!("---\n{}", serde_yaml::to_string(status).map_err(|e| failed(&e))?),
            (Format::Table | Format::Wide, None) => format!("{}{}", if seen { "\n" } else { "" }, self.table(status)),
            (Format::Table | Format::Wide, Some(size)) => {
                let table = self.table(status);
                repaint(&table, size.rows, seen)
            }
        })
    }
}

/// The terminal's sequences to replace the last frame: home, each line erased to its end, the rest erased. Erasing
/// the whole screen first would flicker.
fn repaint(text: &str, rows: usize, seen: bool) -> String {
    let mut frame = String::from(if seen { "\x1b[H" } else { "\x1b[H\x1b[2J" });
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        frame.push_str(line);
        frame.push_str("\x1b[K\n");
    }
    if shown < lines.len() {
        frame.push_str(&format!("… {} more lines\x1b[K\n", lines.len() - shown));
    }
    frame.push_str("\x1b[J");
    frame
}

fn is_degraded(status: &Status) -> bool {
    !status.degraded.is_empty() || status.services.iter().any(|service| service.state != ServiceState::Up)
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds between 0.1 and 3600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::fixture;

    #[test]
    fn anything_not_as_configured_is_degraded() {
        let mut status = fixture::status();
        assert!(is_degraded(&status));
        status.degraded.clear();
        assert!(is_degraded(&status), "service dns is down");
        status.services.retain(|service| service.state == ServiceState::Up);
        assert!(!is_degraded(&status));
    }

    #[test]
    fn a_frame_never_scrolls_the_terminal() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(repaint(text, 24, true).matches('\n').count(), 5);
        let cut = repaint(text, 4, true);
        assert_eq!(cut, "\x1b[H1\x1b[K\n2\x1b[K\n… 3 more lines\x1b[K\n\x1b[J");
    }
}
