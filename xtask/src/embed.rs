//! What a build script does that embeds eBPF programs: builds a package of them and copies them to `OUT_DIR`.
//!
//! Not a module of xtask: a build script cannot depend on xtask, so it includes this file by path.
//!
//! The trap: cargo sets dozens of variables for build scripts, and a nested cargo obeys them. `toolchain.rs` removes
//! what describes the outer build.

#[path = "toolchain.rs"]
mod toolchain;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

/// Builds `package` and copies these of its programs. `inputs` are the files and directories of the workspace that
/// they are made of.
pub fn run(package: &str, programs: &[&str], inputs: &[&str]) -> ExitCode {
    match build(package, programs, inputs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why:#}\n\nThe eBPF programs could not be built. `cargo xtask setup` installs what is missing.");
            ExitCode::FAILURE
        }
    }
}

fn build(package: &str, programs: &[&str], inputs: &[&str]) -> Result<()> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = here.parent().with_context(|| format!("{} has no parent", here.display()))?;
    for input in inputs.iter().chain(&["Cargo.toml", "Cargo.lock"]) {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    for input in ["SLUICE_TOOLS", "XDG_CACHE_HOME", "RUSTUP_HOME"] {
        println!("cargo::rerun-if-env-changed={input}");
    }

    // cargo does not tell a build script the target directory; OUT_DIR is somewhere below it, and it is the one that
    // carries this tag. Shared by all profiles and targets, so that `core` is built once per checkout.
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = out_dir.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).unwrap_or(&out_dir).join("bpf");

    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let target = toolchain::Target { little_endian: variable("CARGO_CFG_TARGET_ENDIAN")? == "little", arch: &arch };
    let mut diagnostic = |line: &str| println!("cargo::warning={line}");
    let built = toolchain::build(package, root, &target_dir, target, false, &mut diagnostic)?;
    programs.iter().try_for_each(|program| copy(&built.join(program), &out_dir.join(program)))
}

/// A later build for another target must not change what this build embeds.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo did not set {name}"))
}
