//! The documents say what the code says: names, meanings, paths, links and examples are compared.
//!
//! What is in a table of the code has to be in the table of the document, and nothing else may be: a row for a key
//! that is gone misleads as much as a missing one. Prose is not looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lb_common::counters::DropReason;
use sluice::config::schema::{self, Absent, Status};
use sluice::dataplane::maps;
use sluice::exit::Exit;
use sluice::{cli, config};

const DOCUMENTS: [&str; 11] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/benchmark.md",
    "docs/configuration.md",
    "docs/design/flows.md",
    "docs/design/rows.md",
    "docs/kernels.md",
    "docs/metrics.md",
    "docs/operations.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).unwrap_or_else(|e| panic!("{document}: {e}"))
}

/// Headings and what is below each, up to the next one of any level; fenced blocks left out.
fn sections(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if line.starts_with('#') && !fenced {
            sections.push((line.trim_start_matches('#').trim().to_owned(), Vec::new()));
        } else if let (false, Some((_, body))) = (fenced, sections.last_mut()) {
            body.push(line.to_owned());
        }
    }
    sections
}

/// The cells of every row of the tables below a heading, head and rule left out.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let text = read(document);
    let found: Vec<_> = sections(&text).into_iter().filter(|(name, _)| name == heading).collect();
    let [(_, body)] = &found[..] else { panic!("{document} has {} sections called `{heading}`", found.len()) };
    let table = body.iter().filter(|line| line.starts_with('|'));
    let cells = |line: &String| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    table.skip(2).map(cells).collect()
}

/// `[text](target)` as `text`.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, (link, after))) =
        rest.split_once('[').and_then(|(before, behind)| Some((before, behind.split_once("](")?)))
    {
        plain.push_str(before);
        plain.push_str(link);
        rest = after.split_once(')').unwrap_or_default().1;
    }
    plain + rest
}

/// What stands in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names in the first cells of a table.
fn named(rows: &[Vec<String>]) -> BTreeSet<String> {
    rows.iter().flat_map(|row| code(&row[0])).map(str::to_owned).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn every_drop_reason_is_explained_in_its_own_words() {
    let rows = rows("docs/operations.md", "Drop reasons");
    assert_eq!(named(&rows), set(DropReason::ALL.iter().map(|reason| reason.name())));
    for reason in DropReason::ALL {
        let row = rows.iter().find(|row| row[0] == format!("`{}`", reason.name())).unwrap();
        assert_eq!(row[1], reason.help(), "{}", reason.name());
        assert!(!row[2].is_empty(), "{}: what to do?", reason.name());
    }
}

#[test]
fn every_exit_code_is_explained_in_its_own_words() {
    let told: Vec<(String, String)> =
        rows("docs/operations.md", "Exit codes").into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let codes: Vec<(String, String)> =
        Exit::ALL.iter().map(|exit| ((*exit as u8).to_string(), exit.meaning().to_owned())).collect();
    assert_eq!(told, codes);
}

#[test]
fn every_configuration_key_is_explained_and_no_other() {
    let mut refused = BTreeSet::new();
    for table in schema::TABLES {
        let heading = if table.place.is_empty() { "The file".to_owned() } else { format!("`{}`", table.place) };
        let rows = rows("docs/configuration.md", &heading);
        assert_eq!(named(&rows), set(table.built().map(|(name, _)| name)), "keys of {heading}");
        for (name, entry) in table.built() {
            let row = rows.iter().find(|row| row[0] == format!("`{name}`")).unwrap();
            let absent = match entry.absent {
                Absent::Refused(_) => "required".to_owned(),
                Absent::Is(value) => format!("`{value}`"),
                Absent::Depends(words) => words.to_owned(),
                Absent::Nothing => String::new(),
            };
            assert_eq!(row[1], absent, "default of `{name}` in {heading}");
            // The same key twice is explained once.
            if !row[2].starts_with("as in [") {
                assert_eq!(without_links(&row[2]), entry.about, "`{name}` in {heading}");
            }
        }
        for key in table.keys {
            if let Status::Later(_) = key.status {
                refused.insert((table.place.to_owned(), key.name.to_owned()));
            }
        }
    }
    let mut told = BTreeSet::new();
    for row in rows("docs/configuration.md", "Keys that are refused by name") {
        for place in code(&row[1]) {
            told.extend(code(&row[0]).map(|key| (place.to_owned(), key.to_owned())));
        }
    }
    assert_eq!(told, refused, "keys that are known and not built");
}

#[test]
fn every_word_that_is_refused_by_name_is_listed_with_its_key() {
    let text = read("docs/configuration.md");
    let mut sections = sections(&text).into_iter();
    let (_, body) = sections.find(|(name, _)| name == "Keys that are refused by name").unwrap();
    // "…; `sctp` and `quic` for `protocol`; …"
    let prose = body.iter().filter(|line| !line.starts_with('|')).map(String::as_str).collect::<Vec<_>>().join(" ");
    let clauses: Vec<BTreeSet<&str>> = prose.split(';').map(|clause| code(clause).collect()).collect();
    for table in schema::TABLES {
        for (name, entry) in table.built() {
            let words = entry.value.choice().map(|choice| choice.words).unwrap_or_default();
            for word in words.iter().filter(|word| word.until_then.is_some()) {
                let told = clauses.iter().any(|clause| clause.contains(word.name) && clause.contains(name));
                assert!(told, "`{}` for `{name}` is refused, and not listed", word.name);
            }
        }
    }
}

#[test]
fn every_verb_is_listed() {
    let rows = rows("docs/operations.md", "Watching it");
    let told: BTreeSet<String> = named(&rows)
        .iter()
        .filter_map(|line| line.strip_prefix("sluice ")?.split(' ').next().map(str::to_owned))
        .collect();
    let command = cli::command();
    assert_eq!(told, set(command.get_subcommands().map(|verb| verb.get_name())));
}

#[test]
fn every_xtask_verb_is_listed() {
    let source = read("xtask/src/main.rs");
    let verbs =
        source.split("enum Verb {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the enum of verbs");
    let names =
        verbs.lines().filter_map(|line| line.strip_prefix("    ")).filter(|line| line.starts_with(char::is_uppercase));
    // As clap names them: `FuzzConfig` is `fuzz-config`.
    let names = names.map(|line| {
        let name = line.split(|c: char| !c.is_alphanumeric()).next().unwrap();
        let dashed = |c: char| if c.is_uppercase() { format!("-{}", c.to_lowercase()) } else { c.to_string() };
        name.chars().map(dashed).collect::<String>().trim_start_matches('-').to_owned()
    });
    let told: BTreeSet<String> = named(&rows("CONTRIBUTING.md", "Toolchain"))
        .iter()
        .filter_map(|line| line.strip_prefix("cargo xtask ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(told, names.collect());
}

#[test]
fn every_map_has_its_line() {
    assert_eq!(named(&rows("ARCHITECTURE.md", "Maps")), set(maps::NAMES));
}

#[test]
fn every_example_is_a_valid_configuration() {
    let mut examples = 0;
    for document in DOCUMENTS {
        for block in read(document).split("```yaml\n").skip(1) {
            let yaml = block.split("```").next().unwrap();
            let model = config::parse(document, yaml).unwrap_or_else(|wrong| panic!("{wrong}\n{yaml}"));
            assert_eq!(config::warnings(&model), Vec::<String>::new(), "{document}:\n{yaml}");
            examples += 1;
        }
    }
    assert!(examples >= 3, "{examples} examples found");
}

#[test]
fn every_path_named_in_the_documents_exists() {
    let top = ["lb-common/", "lb-ebpf/", "lb-userspace/", "tests/", "xtask/", "deploy/", "docs/"];
    let mut paths = 0;
    for document in DOCUMENTS {
        for (_, body) in sections(&read(document)) {
            for path in code(&body.join("\n")).filter(|text| top.iter().any(|dir| text.starts_with(dir))) {
                assert!(root().join(path).exists(), "{document} names {path}");
                paths += 1;
            }
        }
    }
    assert!(paths > 50, "{paths} paths found");
}

/// As GitHub makes them: letters, digits, hyphens and underscores stay, spaces become hyphens.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut links = 0;
    for document in DOCUMENTS {
        for (_, body) in sections(&read(document)) {
            for rest in body.join("\n").split("](").skip(1) {
                let target = rest.split(')').next().unwrap();
                if target.contains("://") {
                    continue;
                }
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let here = root().join(document);
                let path = if file.is_empty() { here } else { here.with_file_name("").join(file) };
                assert!(path.exists(), "{document} links to {target}");
                if !heading.is_empty() {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let known = sections(&text).iter().any(|(name, _)| anchor(name) == heading);
                    assert!(known, "{document} links to {target}, and there is no such heading");
                }
                links += 1;
            }
        }
    }
    assert!(links > 30, "{links} links found");
}
