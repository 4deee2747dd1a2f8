//! Where things are in the workspace, and how its crates are built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{output, run, say};
use crate::setup::{self, Group};
use crate::toolchain;

/// The checkout this xtask was built from.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// cargo, the one that runs us, in the workspace.
pub fn cargo(verb: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).arg(verb);
    // Set by `cargo run` for us alone; a compiler that inherits our library path may load the wrong libLLVM.
    cargo.env_remove("LD_LIBRARY_PATH").env_remove("CARGO_MANIFEST_DIR");
    cargo
}

/// cargo's output directory, wherever the user's configuration puts it.
pub fn target_dir() -> Result<PathBuf> {
    let metadata = output(cargo("metadata").args(["--format-version=1", "--no-deps", "--offline"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let dir = metadata["target_directory"].as_str().context("cargo metadata names no target_directory")?;
    Ok(dir.into())
}

/// The product's eBPF programs.
pub const PRODUCT: &str = "lb-ebpf";
/// Those that only tests and benchmarks run.
pub const TESTS: &str = "lb-tests-ebpf";

/// Builds the eBPF programs of these packages with their progress in sight. The build scripts would do the same
/// silently, and a first build of `core` takes a minute.
pub fn build_programs(packages: &[&str]) -> Result<()> {
    let target_dir = target_dir()?.join("bpf");
    let target = toolchain::Target { little_endian: cfg!(target_endian = "little"), arch: std::env::consts::ARCH };
    for package in packages {
        toolchain::build(package, root(), &target_dir, target, true, &mut |line| eprintln!("{line}"))?;
    }
    Ok(())
}

/// Builds release binaries by name into `target/release`.
pub fn build_release(binaries: &[&str]) -> Result<()> {
    setup::ensure(&[Group::Build])?;
    say("building the eBPF programs");
    // Everything else is of the tests' crate, whose library embeds theirs.
    build_programs(if binaries == ["sluice"] { &[PRODUCT] } else { &[PRODUCT, TESTS] })?;
    say(&format!("building {} (release)", binaries.join(" and ")));
    let mut build = cargo("build");
    build.arg("--release");
    for name in binaries {
        build.args(["--bin", name]);
    }
    run(&mut build)
}
