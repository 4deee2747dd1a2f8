//! `cargo xtask lint`: the style checks, the same ones the tests run.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::process::say;
use crate::setup::{self, Group};
use crate::workspace::cargo;

/// The checks by name.
pub fn checks() -> [(&'static str, Command); 3] {
    let mut fmt = cargo("fmt");
    fmt.args(["--all", "--check"]);
    let mut clippy = cargo("clippy");
    clippy.args(["--quiet", "--all-targets", "--", "-Dwarnings"]);
    // The libraries only: their binaries define a panic handler, which the host's std already has. Checked for the host,
    // because a compiler that can build for BPF rarely has a clippy.
    let mut programs = cargo("clippy");
    programs.args(["--quiet", "--package", "lb-ebpf", "--package", "lb-tests-ebpf", "--lib", "--", "-Dwarnings"]);
    [("rustfmt", fmt), ("clippy", clippy), ("clippy of the eBPF programs", programs)]
}

pub fn run() -> Result<ExitCode> {
    setup::ensure(&[Group::Build])?;
    let mut ok = true;
    for (name, mut command) in checks() {
        say(name);
        ok &= command.status()?.success();
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
