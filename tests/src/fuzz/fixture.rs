//! Findings kept for good, in `tests/fixtures/fuzz`: small scenarios that once told program and model apart. The
//! suite replays all of them; they must agree for ever.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::scenario::Scenario;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixture {
    /// What went wrong when it was found.
    pub found: Vec<String>,
    #[serde(flatten)]
    pub scenario: Scenario,
}

/// The folder all fixtures are in.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuzz")
}

/// Saves a fixture under a name of its own and returns the path.
pub fn save(name: &str, fixture: &Fixture) -> Result<PathBuf> {
    let path = folder().join(format!("{name}.json"));
    fs::create_dir_all(folder()).with_context(|| format!("cannot create {}", folder().display()))?;
    let text = serde_json::to_string_pretty(fixture)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// All fixtures by file name, in order.
pub fn all() -> Result<Vec<(String, Fixture)>> {
    let folder = folder();
    let mut fixtures = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let fixture = serde_json::from_str(&text).with_context(|| format!("{} is no fixture", path.display()))?;
        fixtures.push((name, fixture));
    }
    ensure!(!fixtures.is_empty(), "no fixtures in {}", folder.display());
    fixtures.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fixtures)
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::super::{network, scenario};
    use super::*;

    #[test]
    fn a_scenario_survives_being_written_down() {
        let scenario = scenario::generate(&mut Random::new(7), &network::kernel(), 200);
        let fixture = Fixture { found: vec!["verdict: …".into()], scenario };
        let text = serde_json::to_string(&fixture).expect("plain data");
        assert_eq!(serde_json::from_str::<Fixture>(&text).expect("what was written"), fixture);
    }
}
