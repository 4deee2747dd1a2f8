//! The programs of `tests/ebpf`, embedded, and what is checked in about them.
//!
//! Their sources are frozen: a figure is a ratio to the reference, and a reference that changes unnoticed makes every
//! figure lie. [`Recorded`] holds the hash of the sources and, for each kind of processor it was recorded on, what one ratio
//! of the references was; a run that does not reproduce that ratio has been disturbed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub static REFERENCE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reference"));
pub static WRAPPER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/wrapper"));

/// Everything of ours the two objects are made of.
const SOURCES: [&[u8]; 5] = [
    include_bytes!("../../ebpf/Cargo.toml"),
    include_bytes!("../../ebpf/src/lib.rs"),
    include_bytes!("../../ebpf/src/frame.rs"),
    include_bytes!("../../ebpf/src/reference.rs"),
    include_bytes!("../../ebpf/src/wrapper.rs"),
];

/// SHA-256 over the sources, each after its length, as 64 hex digits.
pub fn source_hash() -> String {
    let mut hash = Sha256::new();
    for source in SOURCES {
        hash.update((source.len() as u64).to_le_bytes());
        hash.update(source);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// `tests/fixtures/bench-reference.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// As [`source_hash`].
    pub source_sha256: String,
    /// CPU time per packet of `ref/lru/1` divided by that of `ref/drop`, by [`processor`].
    pub lru_over_drop: BTreeMap<String, f64>,
}

/// The kind of processor this is: vendor, family, model, as the kernel tells them.
pub fn processor() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    Ok(processor_of(&text))
}

fn processor_of(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let found = first.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
        found.map(|(_, value)| value.trim())
    };
    match (field("vendor_id"), field("cpu family"), field("model")) {
        (Some(vendor), Some(family), Some(model)) => format!("{vendor} family {family} model {model}"),
        _ => std::env::consts::ARCH.to_owned(),
    }
}

impl Recorded {
    pub fn path() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/bench-reference.json"))
    }

    pub fn read() -> Result<Self> {
        let path = Self::path();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; `cargo xtask bench --rebaseline` writes it", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not what --rebaseline writes", path.display()))
    }

    pub fn write(&self) -> Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_named_by_vendor_family_and_model() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: Xeon\n\nprocessor\t: 1\n";
        assert_eq!(processor_of(text), "GenuineIntel family 6 model 143");
        assert_eq!(processor_of("processor\t: 0\n"), std::env::consts::ARCH);
    }
}
