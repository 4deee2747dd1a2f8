//! `sluice reload`: the daemon reads its file again.

use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::cli::plan;
use crate::exit::Exit;

/// Make the daemon read its configuration file again
///
/// The new file is applied whole or refused whole: if anything in it is wrong, this prints every error and the old
/// configuration stays in force (exit code 3).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice reload --dry-run                      what would change? (see `sluice plan --help`)\n  \
    sluice reload\n  \
    sluice reload -o json")]
pub struct Reload {
    #[command(flatten)]
    connection: Connection,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
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
        let applied = self.connection.talk(async |client| client.reload().await)?;
        output::data(self.output, &applied, |applied| {
            if applied.changes.is_empty() {
                return format!("nothing changed (generation {})\n", applied.generation);
            }
            let mut text = format!("applied generation {}\n", applied.generation);
            for change in &applied.changes {
                text.push_str(&format!("  {change}\n"));
            }
            text
        })?;
        Ok(Exit::Ok)
    }
}
