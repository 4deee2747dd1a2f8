//! `cargo xtask bench` and `cargo xtask verifier`: built, then run as root in place of this process.
//!
//! Both are programs of the tests' crate. `verifier` is built without optimisation: what it measures is the kernel's work,
//! and the eBPF programs are always optimised.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::process::{as_root, run, say};
use crate::setup::{self, Group};
use crate::workspace::{self, PRODUCT, TESTS, cargo};

#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Only cases whose name contains this (or is this), and the references
    #[arg(long, value_name = "PATTERN")]
    case: Option<String>,
    /// Figures per case and CPU, of which the fastest tenth count
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Packets per figure
    #[arg(long, value_name = "N")]
    packets: Option<u32>,
    /// Write the figures here too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Record the reference programs as they are, and how they relate to each other on this machine
    #[arg(long)]
    rebaseline: bool,
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        // What the controller takes for its own work is measured too, and people run it optimised.
        workspace::build_release(&["bench"])?;
        let mut bench = as_root("env");
        bench.arg(workspace::target_dir()?.join("release").join("bench"));
        if let Some(case) = self.case {
            bench.arg("--case").arg(case);
        }
        for (name, value) in [("--rounds", self.rounds), ("--packets", self.packets)] {
            if let Some(value) = value {
                bench.arg(name).arg(value.to_string());
            }
        }
        if let Some(json) = self.json {
            bench.arg("--json").arg(json);
        }
        if self.rebaseline {
            bench.arg("--rebaseline");
        }
        replace(bench)
    }
}

#[derive(Debug, clap::Args)]
pub struct Verifier {
    /// Record what the programs cost now
    #[arg(long)]
    bless: bool,
}

impl Verifier {
    pub fn run(self) -> Result<ExitCode> {
        let mut verifier = program("verifier")?;
        if self.bless {
            verifier.arg("--bless");
        }
        replace(verifier)
    }
}

/// Builds a program of the tests' crate, to be run as root.
pub fn program(name: &str) -> Result<Command> {
    let path = built(name)?;
    let mut command = as_root("env");
    command.arg(path);
    Ok(command)
}

/// Builds a program of the tests' crate, optimised: each of them does the same thing millions of times.
pub fn built(name: &str) -> Result<PathBuf> {
    setup::ensure(&[Group::Build])?;
    workspace::build_programs(&[PRODUCT, TESTS])?;
    say(&format!("building {name}"));
    run(cargo("build").args(["--quiet", "--release", "--package", "lb-tests", "--bin", name]))?;
    Ok(workspace::target_dir()?.join("release").join(name))
}

/// Ctrl-C and the exit code are the program's own.
pub fn replace(mut program: Command) -> Result<ExitCode> {
    Err(program.exec()).with_context(|| format!("cannot run {}", program.get_program().display()))
}
