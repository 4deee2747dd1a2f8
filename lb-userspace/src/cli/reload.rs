//! `sluice reload`: the daemon reads its file again.

use std::time::Duration;

use crate::api::route::CONFIRM;
use crate::api::types::Applied;
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::cli::plan;
use crate::config;
use crate::exit::Exit;

/// Make the daemon read its configuration file again
///
/// The new file is applied whole or refused whole: if anything in it is wrong, this prints every error and the old
/// configuration stays in force (exit code 3). Within `node.min_ring_interval` of a change of rings it waits for the end
/// of that.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice reload --dry-run                      what would change? (see `sluice plan --help`)\n  \
    sluice reload\n  \
    sluice reload --confirm 60s                  goes back after a minute, unless `sluice confirm` comes\n  \
    sluice reload -o json")]
pub struct Reload {
    #[command(flatten)]
    connection: Connection,
    /// Say what would change, and change nothing
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// Go back to what runs now, unless `sluice confirm` comes within this time
    #[arg(long, value_name = "TIME", value_parser = patience)]
    confirm: Option<Duration>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Reload {
    pub fn execute(self) -> Ended {
        if self.dry_run {
            let plan = self.connection.talk(async |client| client.plan(None).await)?;
            return plan::show(self.output, &plan);
        }
        let applied = self.connection.talk(async |client| client.reload(self.confirm).await)?;
        output::data(self.output, &applied, |applied| people(applied, "applied"))?;
        Ok(Exit::Ok)
    }
}

pub(super) fn people(applied: &Applied, done: &str) -> String {
    if applied.changes.is_empty() {
        return format!("nothing changed (generation {})\n", applied.generation);
    }
    let mut text = format!("{done} generation {}\n", applied.generation);
    for change in &applied.changes {
        text.push_str(&format!("  {change}\n"));
    }
    if let Some(seconds) = applied.confirm_within_seconds {
        text.push_str(&format!("goes back in {seconds} s, unless `sluice confirm` comes\n"));
    }
    text
}

fn patience(text: &str) -> Result<Duration, String> {
    let patience = config::duration(text)?;
    if CONFIRM.contains(&patience.as_secs()) { Ok(patience) } else { Err("give a time from 1s to 24h".to_owned()) }
}
