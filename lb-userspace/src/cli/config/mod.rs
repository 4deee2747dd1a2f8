//! `sluice config`: write, show and describe configuration files.
//!
//! None of these verbs talks to the daemon or needs privileges.

mod init;
mod schema;
mod show;

use crate::cli::Ended;

/// Write, show and describe configuration files
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        sluice config init sluice.yaml               a commented file to start from\n  \
        sluice config show -c sluice.yaml            the whole configuration, defaults filled in\n  \
        sluice config schema > sluice.schema.json    for editors"
)]
pub struct Config {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Init(init::Init),
    Show(show::Show),
    Schema(schema::Schema),
}

impl Config {
    pub fn execute(self) -> Ended {
        match self.verb {
            Verb::Init(init) => init.execute(),
            Verb::Show(show) => show.execute(),
            Verb::Schema(schema) => schema.execute(),
        }
    }
}
