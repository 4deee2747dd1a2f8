//! `sluice check`.

use std::path::PathBuf;

use crate::cli::Ended;
use crate::cli::output::Format;
use crate::exit::{Exit, Failure};

/// Check a configuration file without touching anything
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice check -c /etc/sluice/sluice.yaml\n  sluice check -c sluice.yaml -o json")]
pub struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Check {
    pub fn execute(self) -> Ended {
        Err(Failure::new(Exit::Failed, format!("cannot check {}", self.config.display())))
    }
}
