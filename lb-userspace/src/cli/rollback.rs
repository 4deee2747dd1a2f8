//! `sluice rollback`: back to the configuration before.

use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::cli::reload;
use crate::exit::Exit;

/// Go back to the configuration that ran before the last reload
///
/// Again and again goes further back, ten configurations at most; a restart of the daemon keeps them, a reboot does not.
/// Drains stay. The file is not touched: it still says what was rolled back, `sluice status` says so, and the next reload
/// or start applies it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice rollback\n  sluice rollback -o json")]
pub struct Rollback {
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Rollback {
    pub fn execute(self) -> Ended {
        let applied = self.connection.talk(async |client| client.roll_back().await)?;
        output::data(self.output, &applied, |applied| reload::people(applied, "rolled back, now"))?;
        if matches!(self.output, Format::Table | Format::Wide) {
            output::talk("the file still says what was rolled back: the next reload or start applies it");
        }
        Ok(Exit::Ok)
    }
}
