//! The decapsulation program for backend hosts.

use std::net::IpAddr;

use crate::exit::{Exit, Failure};

/// What `sluice decap` was told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub interface: String,
    /// Packets are unwrapped only if their inner destination is one of these.
    pub vips: Vec<IpAddr>,
}

/// Attaches the program and stays until it is told to stop.
pub async fn run(options: Options) -> Result<(), Failure> {
    Err(Failure::new(
        Exit::Failed,
        format!("cannot decapsulate on {} yet: the program is not built in", options.interface),
    ))
}
