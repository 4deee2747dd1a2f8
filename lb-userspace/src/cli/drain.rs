//! `sluice drain`: no new flows for one backend.

use crate::cli::Ended;
use crate::cli::connection::{Connection, Target};
use crate::cli::output::Format;
use crate::model::BackendState;

/// Take a backend out of the ring: no new connections
///
/// Connections that are open on it go to other backends, which reset them: waiting for them to finish is not built yet.
/// The drain is an override: it stays over reloads and restarts, and `sluice status` marks it, until `sluice undrain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice drain web/10.0.0.11\n  sluice drain web/canary -o json")]
pub struct Drain {
    /// Which backend, as `sluice status` names it
    #[arg(value_name = "SERVICE/BACKEND")]
    target: Target,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Drain {
    pub fn execute(self) -> Ended {
        self.connection.set_backend_state(self.target, BackendState::Drain, self.output)
    }
}
