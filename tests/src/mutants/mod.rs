//! The mutation check: the data plane with one small fault at a time, and the tests that must notice.
//!
//! [`generate`] makes the faults, in every file of [`SCOPE`]. [`tree`] builds each, in a copy of the checkout; for a
//! fault in `lb-common`, that crate's own tests run first. What is left is run in the kernel by [`judge`]: the fuzzer
//! with a fixed seed, the golden packets and the fuzzer's fixtures. [`run`] does so for all and tells which survived. A
//! mutant that survives is a test that is missing, or it is explained in `tests/fixtures/mutants.toml` ([`explained`]).
//! Which files were gone through to the end is written down ([`judged`]).
//!
//! The trap: an object that is the same, instruction by instruction, is no fault and no gap either. Such mutants are
//! counted apart, as are those that do not build or that the verifier refuses; neither says anything about the tests.

pub mod explained;
pub mod generate;
pub mod judge;
pub mod judged;
mod object;
pub mod run;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use generate::Mutant;

/// Files and folders whose code is changed. Not `lb-ebpf/src/maps.rs`: it declares, and decides nothing.
pub const SCOPE: [&str; 20] = [
    "lb-common/src",
    "lb-ebpf/src/account.rs",
    "lb-ebpf/src/answer.rs",
    "lb-ebpf/src/atomic.rs",
    "lb-ebpf/src/budget.rs",
    "lb-ebpf/src/clock.rs",
    "lb-ebpf/src/decap",
    "lb-ebpf/src/family.rs",
    "lb-ebpf/src/forget.rs",
    "lb-ebpf/src/forward.rs",
    "lb-ebpf/src/lookup",
    "lb-ebpf/src/main.rs",
    "lb-ebpf/src/mode.rs",
    "lb-ebpf/src/packet.rs",
    "lb-ebpf/src/parse",
    "lb-ebpf/src/rewrite",
    "lb-ebpf/src/settings.rs",
    "lb-ebpf/src/veil.rs",
    "lb-ebpf/src/verdict.rs",
    "lb-ebpf/src/lib.rs",
];

/// The checkout these tests were built from.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// A file of the checkout that is in scope, and its mutants.
#[derive(Debug)]
pub struct File {
    /// From the root of the checkout.
    pub path: String,
    pub source: String,
    pub mutants: Vec<Mutant>,
}

/// All files in scope, in order.
pub fn files() -> Result<Vec<File>> {
    let mut paths = Vec::new();
    for scope in SCOPE {
        let before = paths.len();
        collect(&checkout().join(scope), &mut paths)?;
        ensure!(paths.len() > before, "{scope}: no Rust here; `SCOPE` in tests/src/mutants/mod.rs names it");
    }
    paths.sort();
    let read = |path: PathBuf| {
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = path.strip_prefix(checkout())?.to_string_lossy().into_owned();
        let mutants = generate::mutants(&path, &source)?;
        Ok(File { path, source, mutants })
    };
    paths.into_iter().map(read).collect()
}

/// All Rust at this path but files of tests.
fn collect(path: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let mut all = Vec::new();
    collect_all(path, &mut all)?;
    into.extend(all.into_iter().filter(|path| path.file_name().is_none_or(|name| name != "tests.rs")));
    Ok(())
}

/// All Rust at this path.
fn collect_all(path: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            into.push(path.to_owned());
        }
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        collect_all(&entry?.path(), into)?;
    }
    Ok(())
}
