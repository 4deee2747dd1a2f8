//! The decapsulation program for backend hosts.

use crate::exit::{Exit, Failure};
use crate::model::XdpMode;

/// What `sluice decap` was told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub interface: String,
    pub xdp: XdpMode,
}

/// Attaches the program and stays until it is told to stop.
pub async fn run(options: Options) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Failed,
        format!("cannot decapsulate on {} yet: the program is not built in", options.interface),
    ))
}
