//! Histories kept for good: in `fixtures/found`, those in which a flow moved once, and must not again; in
//! `fixtures/broken`, for every rule, one in which a flow moves if the rule is broken, and does not if it is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::History;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixture {
    /// What went wrong.
    pub found: String,
    #[serde(flatten)]
    pub history: History,
    /// What happens, for people.
    pub story: Vec<String>,
}

impl Fixture {
    pub fn new(history: History) -> Self {
        let found = history.run().0.map_or_else(|| "nothing".to_owned(), |(_, violation)| format!("{violation:?}"));
        let story = history.story();
        Self { found, history, story }
    }

    /// Whether a flow moves in it, and does not if no rule is broken.
    pub fn tells(&self) -> bool {
        let mut kept = self.history.clone();
        kept.settings.broken = None;
        let found = self.history.run().0.map(|(_, violation)| format!("{violation:?}"));
        found.as_ref() == Some(&self.found) && kept.run().0.is_none()
    }
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Saves a fixture and returns where.
pub fn save(folder_name: &str, name: &str, fixture: &Fixture) -> Result<PathBuf> {
    let path = folder(folder_name).join(format!("{name}.json"));
    fs::create_dir_all(folder(folder_name)).with_context(|| format!("cannot create {folder_name}"))?;
    let text = serde_json::to_string_pretty(fixture)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// All fixtures of a folder by name, in order.
pub fn all(folder_name: &str) -> Result<Vec<(String, Fixture)>> {
    let folder = folder(folder_name);
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let fixture = serde_json::from_str(&text).with_context(|| format!("{} is no fixture", path.display()))?;
        fixtures.push((name, fixture));
    }
    fixtures.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fixtures)
}
