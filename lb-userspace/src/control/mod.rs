//! The controller: one task that owns the desired state and every map.

pub mod handle;

use std::path::PathBuf;

use crate::exit::{Exit, Failure};

/// What `sluice run` was told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
}

/// Runs the controller until it is told to stop.
pub async fn run(options: Options) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Failed,
        format!("cannot run {} yet: the controller is not built in", options.config.display()),
    ))
}
