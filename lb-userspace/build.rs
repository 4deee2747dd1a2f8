//! Builds the eBPF programs and hands their paths to `dataplane/object.rs`, which embeds them.
//!
//! The trap: cargo sets dozens of variables for build scripts, and a nested cargo obeys them. `toolchain.rs` removes
//! what describes the outer build.

// Shared with `cargo xtask`; a build script cannot depend on xtask, so it includes the file.
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why:#}\n\nThe eBPF programs could not be built. `cargo xtask setup` installs what is missing.");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")?).parent().context("lb-userspace has no parent")?.to_owned();
    for input in ["lb-ebpf", "lb-common", "Cargo.toml", "Cargo.lock"] {
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
    let objects = toolchain::build(&root, &target_dir, target, false, &mut |line| println!("cargo::warning={line}"))?;

    for (name, object) in toolchain::PROGRAMS.iter().zip(objects) {
        let copy = out_dir.join(name);
        // Copied: a later build for another target must not change what this build embeds.
        std::fs::copy(&object, &copy).with_context(|| format!("cannot copy {}", object.display()))?;
    }
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("cargo did not set {name}"))
}
