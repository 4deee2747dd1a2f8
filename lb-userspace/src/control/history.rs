//! The configurations that were applied, as their files said them: for `sluice rollback` and `sluice confirm`.
//!
//! Kept in `node.run_dir`, so that a restart of the controller knows what ran before it, and may go back to it. It goes
//! with a reboot, as everything else does that it could be compared with.
//!
//! The trap is the file on disk: after a rollback it still says what was rolled back, and the next reload or start
//! applies it again. So `sluice status` says when the file is not what runs.

use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tracing::warn;

const FILE: &str = "history.json";
/// How many rollbacks one after the other there may be.
const DEPTH: usize = 10;

/// A configuration that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub text: String,
    /// Seconds since the Unix epoch.
    pub applied_at: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// What runs; `None` before anything did.
    current: Option<Text>,
    /// What ran before it, the oldest first.
    before: Vec<Text>,
    /// What runs came by a rollback.
    rolled_back: bool,
    /// In this second since the Unix epoch it is rolled back, unless confirmed before.
    confirm_until: Option<u64>,
}

#[derive(Debug)]
pub struct History {
    path: PathBuf,
    kept: Kept,
    /// Whether the file with this identity is what runs: it is not read each time somebody asks.
    seen: RefCell<Option<(Identity, bool)>>,
}

/// Device, inode, size, and when it was changed.
type Identity = (u64, u64, u64, Option<SystemTime>);

impl History {
    /// What an earlier controller left in `run_dir`.
    pub fn load(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|e| {
                warn!("{}: the earlier configurations cannot be read ({e}): nothing to roll back to", path.display());
                Kept::default()
            }),
            Err(e) => {
                if e.kind() != ErrorKind::NotFound {
                    warn!("{}: {e}: nothing to roll back to", path.display());
                }
                Kept::default()
            }
        };
        Self { path, kept, seen: RefCell::default() }
    }

    /// A configuration was applied. `same`: it means what the one before meant, so there is nothing to go back to.
    /// `confirm_until`: see [`History::deadline`].
    pub fn applied(&mut self, text: String, same: bool, now: u64, confirm_until: Option<u64>) {
        let next = Text { text, applied_at: now };
        if let Some(before) = self.kept.current.replace(next)
            && !same
        {
            self.kept.before.push(before);
            let surplus = self.kept.before.len().saturating_sub(DEPTH);
            self.kept.before.drain(..surplus);
        }
        self.kept.rolled_back = false;
        self.kept.confirm_until = confirm_until;
        self.save();
    }

    /// A controller began to serve the configuration of its file.
    pub fn started(&mut self, text: String, now: u64) {
        // After a restart it still waits for its confirmation.
        let goes_on = self.kept.current.as_ref().is_some_and(|current| current.text == text);
        if goes_on {
            self.kept.rolled_back = false;
            self.save();
        } else {
            self.applied(text, false, now, None);
        }
    }

    /// What a rollback goes back to.
    pub fn previous(&self) -> Option<&Text> {
        self.kept.before.last()
    }

    /// How often one could roll back.
    pub fn depth(&self) -> usize {
        self.kept.before.len()
    }

    /// The configuration of [`History::previous`] was applied.
    pub fn rolled_back(&mut self) {
        self.kept.current = self.kept.before.pop();
        self.kept.rolled_back = true;
        self.kept.confirm_until = None;
        self.save();
    }

    /// When what runs is to be rolled back, in seconds since the Unix epoch, if nobody confirms it.
    pub fn deadline(&self) -> Option<u64> {
        self.kept.confirm_until
    }

    /// What runs is to stay. False if it was not waiting for that.
    pub fn confirm(&mut self) -> bool {
        let waited = self.kept.confirm_until.take().is_some();
        if waited {
            self.save();
        }
        waited
    }

    /// What runs came by a rollback.
    pub fn is_rolled_back(&self) -> bool {
        self.kept.rolled_back
    }

    /// The file is not what runs.
    pub fn differs_from(&self, file: &Path) -> bool {
        let Some(current) = &self.kept.current else { return false };
        let Ok(facts) = fs::metadata(file) else { return true };
        let identity = (facts.dev(), facts.ino(), facts.size(), facts.modified().ok());
        let mut seen = self.seen.borrow_mut();
        match *seen {
            Some((known, differs)) if known == identity => differs,
            _ => {
                let differs = facts.size() != current.text.len() as u64
                    || fs::read(file).ok() != Some(current.text.clone().into());
                *seen = Some((identity, differs));
                differs
            }
        }
    }

    fn save(&self) {
        *self.seen.borrow_mut() = None;
        if let Err(e) = self.write() {
            warn!("{}: {e}: a restart will not know what ran before it", self.path.display());
        }
    }

    /// Configurations may hold secrets, in the headers of checks.
    fn write(&self) -> std::io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&self.kept)?)?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("sluice-history-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn previous(history: &History) -> Option<&str> {
        history.previous().map(|t| t.text.as_str())
    }

    #[test]
    fn every_rollback_goes_one_further_back_as_far_as_ten() {
        let directory = Directory::new("depth");
        let mut history = History::load(&directory.0);
        assert_eq!(previous(&history), None);
        history.started("0".to_owned(), 0);
        assert_eq!(previous(&history), None, "nothing ran before");
        for n in 1..=12 {
            history.applied(n.to_string(), false, n, None);
        }
        history.applied("12, with a comment".to_owned(), true, 13, None);
        for n in (2..=11).rev() {
            assert_eq!(previous(&history), Some(n.to_string().as_str()));
            history.rolled_back();
            assert!(history.is_rolled_back());
        }
        assert_eq!((previous(&history), history.depth()), (None, 0));
        history.applied("new".to_owned(), false, 14, None);
        assert_eq!((previous(&history), history.is_rolled_back()), (Some("2"), false));
    }

    #[test]
    fn a_restart_knows_what_ran_before_it_and_what_waits_for_confirmation() {
        let directory = Directory::new("restart");
        let mut history = History::load(&directory.0);
        history.started("old".to_owned(), 1);
        history.applied("new".to_owned(), false, 2, Some(62));
        let mode = fs::metadata(directory.0.join(FILE)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600);

        let mut next = History::load(&directory.0);
        next.started("new".to_owned(), 30);
        assert_eq!((previous(&next), next.deadline()), (Some("old"), Some(62)));
        assert!(next.confirm() && !next.confirm());
        assert_eq!(History::load(&directory.0).deadline(), None);

        let mut edited = History::load(&directory.0);
        edited.started("edited".to_owned(), 40);
        assert_eq!(previous(&edited), Some("new"));
        fs::write(directory.0.join(FILE), "nonsense").unwrap();
        assert_eq!(previous(&History::load(&directory.0)), None);
    }

    #[test]
    fn a_file_that_is_not_what_runs_is_noticed_whenever_it_changes() {
        let directory = Directory::new("file");
        let file = directory.0.join("sluice.yaml");
        fs::write(&file, "one").unwrap();
        let mut history = History::load(&directory.0);
        assert!(!history.differs_from(&file), "nothing runs yet");
        history.started("one".to_owned(), 1);
        assert!(!history.differs_from(&file));
        fs::write(&file, "two, and longer").unwrap();
        assert!(history.differs_from(&file) && history.differs_from(&file));
        history.applied("two, and longer".to_owned(), false, 2, None);
        assert!(!history.differs_from(&file));
        history.rolled_back();
        assert!(history.differs_from(&file));
        fs::remove_file(&file).unwrap();
        assert!(history.differs_from(&file));
    }
}
