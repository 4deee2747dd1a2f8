//! `cargo xtask mutants`: the mutation check of the tests' crate, built and run in place of this process.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::measure::{built, replace};
use crate::workspace;

#[derive(Debug, clap::Args)]
pub struct Mutants {
    /// Only files whose path contains F; may be given several times
    #[arg(long = "file", value_name = "F")]
    files: Vec<String>,
    /// Print the mutants and run none
    #[arg(long)]
    list: bool,
    /// How many at a time; as many as there are CPUs if not given
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Go on with an interrupted run of the same sources and tests
    #[arg(long)]
    resume: bool,
    /// Keep what an earlier run found caught in files that have not changed since; try the rest
    #[arg(long)]
    missed: bool,
    /// Only files that have changed since all their mutants were tried
    #[arg(long)]
    changed: bool,
}

impl Mutants {
    pub fn run(self) -> Result<ExitCode> {
        let jobs = self.jobs.or_else(|| Some(std::thread::available_parallelism().ok()?.get())).unwrap_or(1);
        let mut mutants = Command::new(built("mutants")?);
        mutants.arg("--directory").arg(workspace::target_dir()?.join("mutants"));
        mutants.arg("--jobs").arg(jobs.to_string());
        for file in self.files {
            mutants.arg("--file").arg(file);
        }
        for (option, given) in
            [("--list", self.list), ("--resume", self.resume), ("--missed", self.missed), ("--changed", self.changed)]
        {
            if given {
                mutants.arg(option);
            }
        }
        replace(mutants)
    }
}
