//! `cargo xtask fuzz-config` runs this: broken files into the loader of configurations.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use lb_tests::fuzz_config::{Options, run};

/// Reads random, broken files as configurations; stops at the first that panics, hangs or is told nonsense.
#[derive(Debug, Parser)]
struct Arguments {
    /// Stop after this long; a minute if neither this nor --files is given
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Stop after this many files
    #[arg(long, value_name = "N")]
    files: Option<u64>,
    /// Where random numbers start; the same seed is the same run
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where findings are kept
    #[arg(long, value_name = "DIR", default_value = "target/fuzz-config")]
    directory: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { seconds, files, seed, directory } = Arguments::parse();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seconds = seconds.or(if files.is_none() { Some(60) } else { None });
    let options = Options { seed: seed.unwrap_or_else(now), time: seconds.map(Duration::from_secs), files };
    let outcome = run(&options, &directory)?;
    println!("{} (seed {})", outcome.line(), options.seed);
    Ok(match outcome.finding {
        None => ExitCode::SUCCESS,
        Some((why, file)) => {
            println!("{why}\nkept as {}; once fixed, it belongs into the corpus", file.display());
            ExitCode::FAILURE
        }
    })
}
