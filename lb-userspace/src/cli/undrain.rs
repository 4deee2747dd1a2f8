//! `sluice undrain`: a drained backend takes new flows again.

use crate::cli::Ended;
use crate::cli::connection::{Connection, Target};
use crate::cli::output::Format;
use crate::model::BackendState;

/// Give a drained backend new connections again
///
/// This overrides the file, too: a backend with `state: drain` in the file becomes active.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice undrain web/10.0.0.11")]
pub struct Undrain {
    /// Which backend, as `sluice status` names it
    #[arg(value_name = "SERVICE/BACKEND")]
    target: Target,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Undrain {
    pub fn execute(self) -> Ended {
        self.connection.set_backend_state(self.target, BackendState::Active, self.output)
    }
}
