//! `sluice version`.

use serde::Serialize;

use crate::cli::Ended;
use crate::cli::output::{self, Format};
use crate::exit::Exit;

/// Show the version of this binary
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice version\n  sluice version -o json")]
pub struct Version {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct About {
    version: &'static str,
    license: &'static str,
    target: String,
}

impl Version {
    pub fn execute(self) -> Ended {
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            license: env!("CARGO_PKG_LICENSE"),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        };
        output::data(self.output, &about, |about| format!("sluice {} ({})\n", about.version, about.target))?;
        Ok(Exit::Ok)
    }
}
