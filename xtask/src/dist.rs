//! `cargo xtask dist`: one stripped binary with the eBPF programs inside, to be copied to any host of this
//! architecture.
//!
//! Static musl where rustup has its standard library, else a static glibc, which every compiler can link. Sluice
//! never resolves names, so what a static glibc cannot do (load NSS modules) is not missed.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, say};
use crate::setup::{self, Group};
use crate::workspace::{self, cargo};

/// Builds it and returns its path, `target/dist/sluice`.
pub fn build() -> Result<PathBuf> {
    setup::ensure(&[Group::Build])?;
    workspace::build_programs(&[workspace::PRODUCT])?;
    let musl = setup::musl_target();
    let triple = if musl { setup::musl_triple() } else { format!("{}-unknown-linux-gnu", std::env::consts::ARCH) };
    say(&format!("building a static sluice for {triple}"));
    let mut cargo = cargo("build");
    cargo.args(["--release", "--bin", "sluice", "--target", &triple]);
    // Not in the release profile: who builds for themselves wants names in `perf`.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    // ring has C code that needs no C library, so the host's compiler will do; without a word, one for musl is looked for.
    // What the host's headers add to calls of its own library (fortify) musl does not have.
    let compiler = format!("CC_{}", triple.replace('-', "_"));
    if musl && std::env::var_os(&compiler).is_none() {
        cargo.env(compiler, "cc").env(format!("CFLAGS_{}", triple.replace('-', "_")), "-U_FORTIFY_SOURCE");
    }
    if !musl {
        // Added to, not replaced. With --target, build scripts are not concerned.
        let theirs = std::env::var("RUSTFLAGS").unwrap_or_default();
        cargo.env("RUSTFLAGS", format!("{theirs} -Ctarget-feature=+crt-static"));
    }
    process::run(&mut cargo)?;

    let target = workspace::target_dir()?;
    let built = target.join(&triple).join("release/sluice");
    let dist = target.join("dist");
    std::fs::create_dir_all(&dist)?;
    let binary = dist.join("sluice");
    // A binary that is running can be replaced, but not written to.
    let _ = std::fs::remove_file(&binary);
    std::fs::copy(&built, &binary).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(binary)
}

/// The verb: builds it and tells where it is, how big, and what it needs at run time.
pub fn run() -> Result<PathBuf> {
    let binary = build()?;
    let size = std::fs::metadata(&binary)?.len();
    // ldd exits 1 for a static binary, and that is the answer we want.
    let ldd = Command::new("ldd").arg(&binary).env("LC_ALL", "C").output().context("cannot run ldd")?;
    let needs = String::from_utf8_lossy(&[ldd.stdout, ldd.stderr].concat()).trim().to_owned();
    println!("{}\n{:.1} MiB, {needs}", binary.display(), size as f64 / f64::from(1 << 20));
    if !["statically linked", "not a dynamic executable"].iter().any(|words| needs.contains(words)) {
        bail!("the binary is not static");
    }
    Ok(binary)
}
