//! The mutants that no test notices, and why none has to: `tests/fixtures/mutants.toml`.
//!
//! A mutant is written down by its words, not by its line number, so the list survives what moves lines. The trap: a
//! list that outlives its code excuses whatever comes next, so an entry that is no mutant of the tree any more fails.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::generate::Id;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    survivors: Vec<Group>,
}

/// Mutants that survive for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    why: String,
    mutants: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    function: String,
    line: String,
    becomes: String,
    #[serde(default)]
    nth: usize,
}

/// Why each survives.
#[derive(Debug, Default)]
pub struct Explained {
    why: HashMap<Id, String>,
    /// What is wrong with the list itself.
    pub wrong: Vec<String>,
}

pub fn path() -> PathBuf {
    super::checkout().join("tests/fixtures/mutants.toml")
}

impl Explained {
    /// The checked-in list.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(path()).with_context(|| format!("cannot read {}", path().display()))?;
        Self::parse(&text).with_context(|| format!("{} cannot be read", path().display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let list: List = toml::from_str(text)?;
        let mut explained = Self::default();
        for Group { why, mutants } in list.survivors {
            // Anything shorter is an excuse.
            if why.split_whitespace().count() < 4 {
                explained.wrong.push(format!("`{why}` explains nothing"));
            }
            for Entry { file, function, line, becomes, nth } in mutants {
                let id = Id { file, function, line, becomes, nth };
                if explained.why.contains_key(&id) {
                    explained.wrong.push(format!("explained twice: {}", shown(&id)));
                }
                explained.why.insert(id, why.clone());
            }
        }
        Ok(explained)
    }

    pub fn why(&self, id: &Id) -> Option<&str> {
        self.why.get(id).map(String::as_str)
    }

    /// Entries that are none of these mutants.
    pub fn stale<'a>(&'a self, mutants: impl Iterator<Item = &'a Id>) -> Vec<&'a Id> {
        let there: std::collections::HashSet<&Id> = mutants.collect();
        let mut stale: Vec<&Id> = self.why.keys().filter(|id| !there.contains(id)).collect();
        stale.sort();
        stale
    }
}

/// A mutant as an entry of the list.
pub fn shown(id: &Id) -> String {
    let Id { file, function, line, becomes, nth } = id;
    let nth = if *nth == 0 { String::new() } else { format!(", nth = {nth}") };
    format!(
        "{{ file = {}, function = {}, line = {}, becomes = {}{nth} }}",
        quoted(file),
        quoted(function),
        quoted(line),
        quoted(becomes)
    )
}

fn quoted(text: &str) -> String {
    if text.contains('\'') {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    format!("'{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each still survives is for `cargo xtask mutants`, which takes much longer.
    #[test]
    fn every_survivor_that_is_explained_is_still_a_mutant_of_the_tree() {
        let explained = Explained::read().expect("the list");
        let files = super::super::files().expect("the sources");
        let stale = explained.stale(files.iter().flat_map(|file| &file.mutants).map(|mutant| &mutant.id));
        let stale: Vec<String> = stale.into_iter().map(shown).collect();
        assert!(
            stale.is_empty() && explained.wrong.is_empty(),
            "{}:\n{}\n{}\nThe line or the function has changed: remove the entry, run `cargo xtask mutants --file …` on \
             its file, and explain what survives now",
            path().display(),
            explained.wrong.join("\n"),
            stale.join("\n")
        );
    }

    #[test]
    fn an_entry_reads_back_as_it_is_shown() {
        let id = |line: &str, nth| Id {
            file: "a.rs".into(),
            function: "A::f".into(),
            line: line.into(),
            becomes: "without this statement".into(),
            nth,
        };
        for id in [id("a + 1;", 0), id(r#"b"\0" == '"' && 'static"#, 0), id("x", 2)] {
            let text = format!("[[survivors]]\nwhy = 'it makes no difference'\nmutants = [\n{},\n]", shown(&id));
            let explained = Explained::parse(&text).expect("what was shown");
            assert_eq!(explained.why(&id), Some("it makes no difference"));
            assert_eq!(explained.stale([&id].into_iter()), <[&Id; 0]>::default());
            assert_eq!(explained.stale(std::iter::empty()), [&id]);
        }
    }

    #[test]
    fn an_entry_without_a_reason_or_written_twice_is_wrong() {
        let entry = "{ file = 'a', function = 'f', line = 'l', becomes = 'b' }";
        let text = format!("[[survivors]]\nwhy = ''\nmutants = [{entry}, {entry}]");
        assert_eq!(Explained::parse(&text).expect("TOML").wrong.len(), 2);
    }
}
