//! The configuration file as operators meet it: what a good one means, and what a bad one is told.
//!
//! `config-corpus/NAME.yaml` is refused with exactly `config-corpus/NAME.txt`. After changing a message, run with
//! `BLESS=1` and read the diff: those texts are the product.

use std::path::{Path, PathBuf};

use sluice::config;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config-corpus")
}

fn cases() -> Vec<PathBuf> {
    let mut cases: Vec<_> = std::fs::read_dir(corpus())
        .expect("the corpus is there")
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    cases.sort();
    cases
}

#[test]
fn every_bad_file_is_refused_with_exactly_its_message() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for path in cases() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let told = match config::parse_bytes(name, &bytes) {
            Ok(_) => panic!("{name} was accepted"),
            Err(diagnostics) => format!("{diagnostics}\n"),
        };
        let golden = path.with_extension("txt");
        if bless {
            std::fs::write(&golden, &told).unwrap();
        } else if std::fs::read_to_string(&golden).ok().as_deref() != Some(&told) {
            wrong.push(format!("── {name} is told\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "messages changed (BLESS=1 accepts them):\n{}", wrong.join("\n"));
}

#[test]
fn the_minimal_file_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config/minimal.yaml");
    let model = config::load(&path).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(model.services.len(), 1);
    assert_eq!(config::warnings(&model), Vec::<String>::new());
}
