//! `sluice run`: the daemon.

use std::path::PathBuf;

use crate::cli::Ended;
use crate::control;
use crate::exit::{Exit, Failure};
use crate::logging;

/// Balance traffic as the file says, until told to stop
///
/// Loads the XDP program, attaches it to the interfaces of the file, checks the backends and keeps the kernel's maps
/// true. SIGHUP (or `sluice reload`) reads the file again. SIGTERM or Ctrl-C ends the daemon, and packets are forwarded
/// on: the next start takes over, `sluice detach` ends it (`node.on_exit: detach` has the daemon do that itself). Needs
/// root, or CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sudo sluice run -c /etc/sluice/sluice.yaml\n  \
    sudo sluice run -c sluice.yaml --log-level debug\n  \
    sudo SLUICE_LOG=info,sluice::health=debug sluice run -c sluice.yaml --log-format json")]
pub struct Run {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// error, warn, info, debug, trace, or `tracing` directives
    #[arg(long, value_name = "LEVEL", env = "SLUICE_LOG", hide_env_values = true, default_value = "info")]
    log_level: logging::Filter,
    /// How log lines look on stderr
    #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG_FORMAT", hide_env_values = true, default_value = "text")]
    log_format: logging::Format,
    /// Log every packet (at debug level). Slow: for a lab, never for service
    #[arg(long)]
    log_packets: bool,
}

impl Run {
    pub fn execute(self) -> Ended {
        logging::init(&self.log_level, self.log_format);
        runtime()?.block_on(control::run(control::Options { config: self.config, log_packets: self.log_packets }))?;
        Ok(Exit::Ok)
    }
}

/// The daemon's threads. Two, whatever the host has: packets need none of them, and a controller that takes a thread
/// per core shows up in the latency of the host's real work. Two, not one, so that a map write of some milliseconds
/// does not make a health check look slow.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("sluice")
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot start the controller's threads: {e}")))
}
