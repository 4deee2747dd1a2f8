//! Which files were judged to the end, as they are: `tests/fixtures/mutants-judged.tsv`.
//!
//! All mutants take hours, so they are tried where code has changed (`--changed`), and what was found of the rest is
//! written down. The trap: a record is about the file's own text. A test that was taken away, or code elsewhere that a
//! fault hides behind now, does not show here; a run of everything does.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

const HEAD: &str = "# Files whose mutants all were tried, and what became of them; written by `cargo xtask mutants`.\n\
                    # file\tsha256 without its tests\tmutants\tcaught\texplained\n";

/// What was found in a file: none of its mutants survived without an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the file without its tests.
    pub fingerprint: String,
    pub mutants: usize,
    /// Or never ended; the rest was no program, or the same one.
    pub caught: usize,
    pub explained: usize,
}

/// By path from the root of the checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged(BTreeMap<String, Found>);

pub fn path() -> PathBuf {
    super::checkout().join("tests/fixtures/mutants-judged.tsv")
}

impl Judged {
    /// The checked-in record.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(path()).with_context(|| format!("cannot read {}", path().display()))?;
        Self::parse(&text).with_context(|| format!("{} cannot be read", path().display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let parsed = lines.map(|line| {
            let mut cells = line.split('\t');
            let mut next = || cells.next().with_context(|| format!("too few columns: {line}"));
            let file = next()?.to_owned();
            let found = Found {
                fingerprint: next()?.to_owned(),
                mutants: next()?.parse()?,
                caught: next()?.parse()?,
                explained: next()?.parse()?,
            };
            Ok((file, found))
        });
        Ok(Self(parsed.collect::<Result<_>>()?))
    }

    fn text(&self) -> String {
        let line = |(file, Found { fingerprint, mutants, caught, explained }): (&String, &Found)| {
            format!("{file}\t{fingerprint}\t{mutants}\t{caught}\t{explained}\n")
        };
        HEAD.to_owned() + &self.0.iter().map(line).collect::<String>()
    }

    /// Whether this text of the file was judged to the end.
    pub fn knows(&self, file: &str, fingerprint: &str) -> bool {
        self.0.get(file).is_some_and(|found| found.fingerprint == fingerprint)
    }

    pub fn add(&mut self, file: &str, found: Found) {
        self.0.insert(file.to_owned(), found);
    }

    /// What was found wrong is no longer judged.
    pub fn remove(&mut self, file: &str) {
        self.0.remove(file);
    }

    /// Writes the record, without files that are no more.
    pub fn write(&mut self, files: &[super::File]) -> Result<()> {
        self.0.retain(|path, _| files.iter().any(|file| file.path == *path));
        fs::write(path(), self.text()).with_context(|| format!("cannot write {}", path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(fingerprint: &str) -> Found {
        Found { fingerprint: fingerprint.to_owned(), mutants: 9, caught: 7, explained: 1 }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut judged = Judged::default();
        judged.add("lb-common/src/b.rs", found("2"));
        judged.add("lb-common/src/a.rs", found("1"));
        assert_eq!(Judged::parse(&judged.text()).unwrap(), judged);
        assert!(judged.text().ends_with("lb-common/src/a.rs\t1\t9\t7\t1\nlb-common/src/b.rs\t2\t9\t7\t1\n"));
        assert!(Judged::parse("lb-common/src/a.rs\t1\t9\n").is_err());
    }

    #[test]
    fn a_file_is_known_as_it_was() {
        let mut judged = Judged::default();
        judged.add("a.rs", found("1"));
        assert!(judged.knows("a.rs", "1"));
        assert!(!judged.knows("a.rs", "2"), "it has changed");
        assert!(!judged.knows("b.rs", "1"));
        judged.remove("a.rs");
        assert!(!judged.knows("a.rs", "1"));
    }

    #[test]
    fn the_record_is_of_files_there_are() {
        let files = super::super::files().unwrap();
        for path in Judged::read().unwrap().0.keys() {
            assert!(
                files.iter().any(|file| file.path == *path),
                "{path} is no file in scope: take it out of the record"
            );
        }
    }
}
