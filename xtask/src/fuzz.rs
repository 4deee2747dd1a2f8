//! `cargo xtask fuzz` and `cargo xtask fuzz-config`: the fuzzers of the tests' crate, built and run in place of this
//! process; the one of packets as root.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::measure::{built, program, replace};
use crate::workspace;

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

#[derive(Debug, clap::Args)]
pub struct FuzzConfig {
    /// Stop after this many seconds; 60 if --files is not given either
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Repeat the run that printed this seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Stop after this many files
    #[arg(long, value_name = "N")]
    files: Option<u64>,
}

impl FuzzConfig {
    pub fn run(self) -> Result<ExitCode> {
        let mut fuzz = Command::new(built("fuzz-config")?);
        fuzz.arg("--directory").arg(workspace::target_dir()?.join("fuzz-config"));
        for (option, value) in [("--seconds", self.seconds), ("--seed", self.seed), ("--files", self.files)] {
            if let Some(value) = value {
                fuzz.arg(option).arg(value.to_string());
            }
        }
        replace(fuzz)
    }
}
