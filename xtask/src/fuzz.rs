//! `cargo xtask fuzz`, `cargo xtask fuzz-config` and `cargo xtask rows`: what tries random things, built and run in place
//! of this process; the one of packets as root.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::measure::{built, program, replace};
use crate::process::run;
use crate::setup::{self, Group};
use crate::workspace::{self, cargo};

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

#[derive(Debug, clap::Args)]
pub struct Rows {
    /// Stop after as many steps; 20,000,000 if not given
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Repeat the run that printed this seed
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Go through everything that can happen in as many steps instead; 8 take some minutes
    #[arg(long, value_name = "STEPS")]
    depth: Option<u64>,
    /// Look for histories that tell broken rules from kept ones, and keep them as fixtures
    #[arg(long)]
    renew: bool,
}

impl Rows {
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure(&[Group::Build])?;
        run(cargo("build").args(["--quiet", "--package", "lb-tests-rows", "--bin", "rows"]))?;
        let mut rows = Command::new(workspace::target_dir()?.join("debug/rows"));
        for (option, value) in [("--steps", self.steps), ("--seed", self.seed), ("--depth", self.depth)] {
            if let Some(value) = value {
                rows.arg(option).arg(value.to_string());
            }
        }
        if self.renew {
            rows.arg("--renew");
        }
        replace(rows)
    }
}
