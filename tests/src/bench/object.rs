//! The programs of `tests/ebpf`, embedded, and what is checked in about them.
//!
//! Their sources are frozen: a figure is a ratio to the reference, and a reference that changes unnoticed makes every
//! figure lie. [`Recorded`] holds the hash of the sources and what one ratio of the references was on the machine
//! that recorded it; a run that does not reproduce that ratio has been disturbed, or is on another kind of machine.

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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// As [`source_hash`].
    pub source_sha256: String,
    /// CPU time per packet of `ref/lru/1` divided by that of `ref/drop`.
    pub lru_over_drop: f64,
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
