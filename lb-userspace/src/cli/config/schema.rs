//! `sluice config schema`: what editors need.

use crate::cli::{Ended, output};
use crate::config::json_schema;
use crate::exit::Exit;

/// Print the JSON Schema (draft 2020-12) of the configuration file
///
/// Editors complete and check with it. It knows keys, types and ranges; what takes two values to see (duplicate
/// backends, overlapping services) only `sluice check` knows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice config schema > /etc/sluice/sluice.schema.json\n\n\
    Editors with the YAML language server find it by a first line in the file:\n  \
    # yaml-language-server: $schema=/etc/sluice/sluice.schema.json")]
pub struct Schema {}

impl Schema {
    pub fn execute(self) -> Ended {
        let _seen = output::write(&json_schema::text())?;
        Ok(Exit::Ok)
    }
}
