//! `sluice config show`: the file as Sluice understands it.

use std::path::PathBuf;

use crate::cli::Ended;
use crate::cli::output::{self, Format};
use crate::config;
use crate::exit::Exit;

/// Show the whole configuration, every default filled in
///
/// What it prints is a configuration file itself and means the same. It reads the file, not the daemon: `sluice
/// status` says what runs. A file with errors is refused as by `sluice check` (exit code 3).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice config show -c /etc/sluice/sluice.yaml\n  \
    sluice config show -c sluice.yaml -o json | jq '.services[].health'")]
pub struct Show {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Shape,
}

/// A file is data; there is no table of it.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Shape {
    #[default]
    Yaml,
    Json,
}

impl Show {
    pub fn execute(self) -> Ended {
        let model = match config::load(&self.config) {
            Ok(model) => model,
            Err(diagnostics) => {
                output::talk(&diagnostics.to_string());
                return Ok(Exit::ConfigInvalid);
            }
        };
        let format = match self.output {
            Shape::Yaml => Format::Yaml,
            Shape::Json => Format::Json,
        };
        output::data(format, &config::show(&model), |_| String::new())?;
        Ok(Exit::Ok)
    }
}
