//! `sluice status`: who gets what, who is down, what is not as configured.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::api::client::Client;
use crate::api::types::{ServiceState, Status};
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format, Paint};
use crate::cli::table;
use crate::cli::watch::{self, Watch};
use crate::exit::Exit;

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
    #[command(flatten)]
    watch: Watch,
    /// End with exit code 5 if a service lacks healthy backends or anything else is not as configured
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl StatusVerb {
    pub fn execute(self) -> Ended {
        self.connection.talk(async |client| match self.watch.interval() {
            None => self.once(&client).await,
            Some(interval) => {
                watch::again_and_again(&client, interval, |status, seen| {
                    watch::frame(self.output, status, |status| self.table(status), seen)
                })
                .await
            }
        })
    }

    async fn once(&self, client: &Client) -> Ended {
        let status = client.status().await?;
        output::data(self.output, &status, |status| self.table(status))?;
        if self.check && is_degraded(&status) { Ok(Exit::Degraded) } else { Ok(Exit::Ok) }
    }

    fn table(&self, status: &Status) -> String {
        let width = output::terminal_size().map(|size| size.columns);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        table::status(status, self.output == Format::Wide, width, Paint::for_stream(&io::stdout()), now)
    }
}

fn is_degraded(status: &Status) -> bool {
    !status.degraded.is_empty() || status.services.iter().any(|service| service.state != ServiceState::Up)
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
}
