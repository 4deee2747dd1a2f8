//! `sluice decap`: the program for backend hosts that receive tunnelled packets.

use crate::cli::{Ended, run};
use crate::dataplane;
use crate::exit::Exit;
use crate::logging;
use crate::model::XdpMode;

/// Take off the outer header of tunnelled packets, on a backend host
///
/// Services with `forward: ipip` send packets inside another IP header. This attaches an XDP program to the backend's
/// interface that removes it, so that the real server sees the client's packet. The backend also needs the VIP on a
/// loopback device and must not answer ARP for it. Runs until told to stop.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sudo sluice decap --interface eth0\n  \
    sudo sluice decap --interface eth0 --xdp generic")]
pub struct Decap {
    /// The interface on which tunnelled packets arrive
    #[arg(short, long, value_name = "IF")]
    interface: String,
    /// How to attach: auto, native or generic
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = xdp_mode)]
    xdp: XdpMode,
    /// error, warn, info, debug, trace, or `tracing` directives
    #[arg(long, value_name = "LEVEL", env = "SLUICE_LOG", hide_env_values = true, default_value = "info")]
    log_level: logging::Filter,
    /// How log lines look on stderr
    #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG_FORMAT", hide_env_values = true, default_value = "text")]
    log_format: logging::Format,
}

impl Decap {
    pub fn execute(self) -> Ended {
        logging::init(&self.log_level, self.log_format);
        let options = dataplane::decap::Options { interface: self.interface, xdp: self.xdp };
        run::runtime()?.block_on(dataplane::decap::run(options))?;
        Ok(Exit::Ok)
    }
}

fn xdp_mode(text: &str) -> Result<XdpMode, String> {
    serde_json::from_value(text.into()).map_err(|_| "use auto, native or generic".to_owned())
}
