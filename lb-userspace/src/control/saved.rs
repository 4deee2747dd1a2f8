//! What a controller leaves to the next one: everything it knows that is neither in the file nor in the maps.
//!
//! Saved beside the maps whenever it changes (see [`crate::dataplane::state`]), before maps are written with it: ids in
//! the kernel must be known to whoever reads them after a crash. Verdicts are here because a restart that took every
//! backend for down until its first check would move every row.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Instant;

use lb_common::layout::{ABI_VERSION, ROWS_VERSION};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config;
use crate::dataplane::tables::RingId;
use crate::dataplane::{Inherit, Inherited, Sizes, state};
use crate::exit::{Exit, Failure};
use crate::health::agent::Standing;
use crate::model::{BackendState, Model};

use super::desired::{BackendName, Ids, SavedIds, View};
use super::leaving::{Leaving, SavedLeaver};
use super::safety::{Safety, SavedPool};

/// As JSON: what a later version adds must not keep an earlier one from reading the rest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The release that saved it.
    version: String,
    /// Which hash key the rings were built with, without telling it.
    key: String,
    /// The applied configuration, as `sluice config show -o json` prints it.
    config: String,
    ids: SavedIds,
    verdicts: Vec<(String, String, bool)>,
    overrides: Vec<(String, String, BackendState)>,
    #[serde(default)]
    agents: Vec<(String, String, Standing)>,
    #[serde(default)]
    safety: Vec<SavedPool>,
    #[serde(default)]
    leaving: Vec<SavedLeaver>,
    /// Service id, protocol, family, and the idle timeout that its moving rows were written with, in seconds.
    #[serde(default)]
    idle: Vec<(u32, u8, u8, u32)>,
}

impl Saved {
    pub fn new(config: String, ids: &Ids, view: View<'_>, idle: &BTreeMap<RingId, u32>, key: &str) -> Self {
        let mut verdicts: Vec<_> = view.verdicts.iter().map(|((s, b), up)| (s.clone(), b.clone(), *up)).collect();
        verdicts.sort();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: key.to_owned(),
            config,
            ids: ids.save(),
            verdicts,
            idle: idle.iter().map(|(id, seconds)| (id.service, id.protocol, id.family, *seconds)).collect(),
            agents: view.agents.iter().map(|((s, b), said)| (s.clone(), b.clone(), said.clone())).collect(),
            safety: view.safety.save(),
            leaving: view.leaving.save(),
            overrides: view.overrides.iter().map(|((s, b), state)| (s.clone(), b.clone(), *state)).collect(),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The applied configuration in words, made anew only when it is another one: health changes far more often.
#[derive(Debug, Default)]
pub struct Shown(Option<(Model, String)>);

impl Shown {
    pub fn of(&mut self, model: &Model) -> String {
        if let Some((known, shown)) = &self.0
            && known == model
        {
            return shown.clone();
        }
        let shown = config::show(model).to_string();
        self.0 = Some((model.clone(), shown.clone()));
        shown
    }
}

/// What a start finds.
#[derive(Debug)]
pub struct Before {
    saved: Option<Saved>,
    /// The configuration that was applied, if this release can read it.
    pub model: Option<Model>,
    pub inherit: Inherit,
    /// Why not everything could be taken over.
    notes: Vec<String>,
}

impl Before {
    /// Reads what is saved beside the maps in `bpf_dir`; `key` is the digest of our hash key. With another key than before,
    /// every flow would meet another row, so there is no start with that.
    pub fn load(bpf_dir: &Path, key: &str) -> Result<Self, Failure> {
        let mut before = Self { saved: None, model: None, inherit: Inherit::Nothing, notes: Vec::new() };
        let stored = match state::load(bpf_dir) {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(before),
            Err(e) => {
                before.notes.push(format!("{e}; ids start anew, and connections may move"));
                return Ok(before);
            }
        };
        let saved: Saved = match serde_json::from_slice(&stored.bytes) {
            Ok(saved) => saved,
            Err(e) => {
                before
                    .notes
                    .push(format!("the saved state cannot be read ({e}); ids start anew, and connections may move"));
                return Ok(before);
            }
        };
        let version = &saved.version;
        before.inherit = if stored.abi == ABI_VERSION {
            Inherit::Everything
        } else if stored.rows == ROWS_VERSION {
            before.notes.push(format!(
                "sluice {version} had maps of another kind (ABI {} instead of {ABI_VERSION}): new ones are made, rings \
                 and flow entries are carried over, counters start from zero",
                stored.abi
            ));
            Inherit::Rows
        } else {
            before.notes.push(format!(
                "sluice {version} kept rings and flow entries in another way (version {} instead of {ROWS_VERSION}): \
                 they cannot be carried over, and connections on rows that had not settled may move",
                stored.rows
            ));
            Inherit::Nothing
        };
        if saved.key != key {
            let message =
                "the hash key is not the one that the connections of this node were placed by: they would move";
            return Err(Failure::new(Exit::Failed, message).hint(
                "put the old key back into the file that `hash_key` names; or, if connections may break, run `sluice \
                 detach` first",
            ));
        }
        match config::parse("the configuration applied before", &saved.config) {
            Ok(model) => before.model = Some(model),
            Err(e) => before.notes.push(format!("what ran before cannot be restored if this start fails: {e}")),
        }
        before.saved = Some(saved);
        Ok(before)
    }

    /// Logs what became of it.
    pub fn tell(&self, inherited: &Inherited) {
        if inherited.interfaces.is_empty() {
            return;
        }
        let from = self.saved.as_ref().map_or("an earlier sluice".to_owned(), |s| format!("sluice {}", s.version));
        info!(
            "taking over from {from}, without a gap, on {} ({} maps as they are)",
            inherited.interfaces.join(", "),
            inherited.maps
        );
        if self.saved.is_none() && self.notes.is_empty() {
            warn!("it saved no state; ids start anew, and connections may move");
        }
        for note in self.notes.iter().chain(&inherited.replaced) {
            warn!("{note}");
        }
    }

    pub fn verdicts(&self) -> HashMap<BackendName, bool> {
        let saved = self.saved.iter().flat_map(|s| &s.verdicts);
        saved.map(|(service, backend, up)| ((service.clone(), backend.clone()), *up)).collect()
    }

    pub fn overrides(&self) -> BTreeMap<BackendName, BackendState> {
        let saved = self.saved.iter().flat_map(|s| &s.overrides);
        saved.map(|(service, backend, state)| ((service.clone(), backend.clone()), *state)).collect()
    }

    pub fn idle(&self) -> BTreeMap<RingId, u32> {
        let saved = self.saved.iter().flat_map(|s| &s.idle);
        saved.map(|&(service, protocol, family, seconds)| (RingId { service, protocol, family }, seconds)).collect()
    }

    pub fn leaving(&self, now: Instant) -> Leaving {
        self.saved.as_ref().map_or_else(Leaving::default, |saved| Leaving::restore(&saved.leaving, now))
    }

    pub fn agents(&self) -> BTreeMap<BackendName, Standing> {
        let saved = self.saved.iter().flat_map(|s| &s.agents);
        saved.map(|(service, backend, said)| ((service.clone(), backend.clone()), said.clone())).collect()
    }

    pub fn safety(&self) -> Safety {
        self.saved.as_ref().map_or_else(Safety::default, |saved| Safety::restore(&saved.safety))
    }

    pub fn ids(&self, sizes: Sizes, now: Instant) -> Ids {
        self.saved.as_ref().map_or_else(|| Ids::new(sizes), |saved| Ids::restore(sizes, &saved.ids, now))
    }
}
