//! `cargo xtask bench` runs this.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lb_tests::bench::{self, Options, Verdict};

/// Measures CPU time per packet through BPF_PROG_TEST_RUN, beside reference programs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only cases whose name contains this (or is this), and the references
    #[arg(long, value_name = "PATTERN")]
    case: Option<String>,
    /// Figures per case and CPU, of which the fastest tenth count
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets per figure
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Write the figures here too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Record the reference programs as they are, and how they relate to each other on this machine
    #[arg(long)]
    rebaseline: bool,
}

fn main() -> ExitCode {
    let Arguments { case, rounds, packets, json, rebaseline } = Arguments::parse();
    match bench::run(&Options { pattern: case, rounds, packets, json, rebaseline }) {
        Ok(Verdict::Within) => ExitCode::SUCCESS,
        Ok(Verdict::Over | Verdict::Invalid) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}
