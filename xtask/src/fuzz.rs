//! `cargo xtask fuzz`: the fuzzer of the tests' crate, built and run as root in place of this process.

use std::process::ExitCode;

use anyhow::Result;

use crate::measure::{program, replace};

#[derive(Debug, clap::Args)]
pub struct Fuzz {
    /// Stop after this many seconds; 60 if --packets is not given either
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Repeat the run that printed this seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Stop after this many packets
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
}

impl Fuzz {
    pub fn run(self) -> Result<ExitCode> {
        let mut fuzz = program("fuzz")?;
        for (option, value) in [("--seconds", self.seconds), ("--seed", self.seed), ("--packets", self.packets)] {
            if let Some(value) = value {
                fuzz.arg(option).arg(value.to_string());
            }
        }
        replace(fuzz)
    }
}
