//! `cargo xtask fuzz` runs this: the loaded program against the reference model, on random packets.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use lb_tests::fuzz::{self, Ending, Options};

/// Runs random packets by the loaded program and by the reference model; stops at the first they disagree about.
#[derive(Debug, Parser)]
struct Arguments {
    /// Stop after this long; a minute if neither this nor --packets is given
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Stop after this many packets
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// Where random numbers start; the same seed is the same run
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Programs in this directory instead of those that were built with this
    #[arg(long, value_name = "DIR")]
    objects: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { seconds, packets, seed, objects } = Arguments::parse();
    if let Some(objects) = objects {
        lb_tests::progrun::objects::replace(&objects)?;
    }
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = seconds.or(if packets.is_none() { Some(60) } else { None });
    let options = Options { seed: seed.unwrap_or_else(now), time: seconds.map(Duration::from_secs), packets };
    Ok(match fuzz::run(&options)? {
        Ending::Agreed => ExitCode::SUCCESS,
        Ending::Differs | Ending::Uncovered => ExitCode::FAILURE,
    })
}
