//! `sluice confirm`: what runs is to stay.

use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::exit::Exit;

/// Keep the configuration that `sluice reload --confirm` applied
///
/// Without it, the configuration before comes back when the time is over.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice reload --confirm 60s && ./try-it.sh && sluice confirm")]
pub struct Confirm {
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Confirm {
    pub fn execute(self) -> Ended {
        let confirmed = self.connection.talk(async |client| client.confirm().await)?;
        output::data(self.output, &confirmed, |confirmed| format!("generation {} stays\n", confirmed.generation))?;
        Ok(Exit::Ok)
    }
}
