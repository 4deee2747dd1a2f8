//! YAML in, [`Model`] out — or every error at once, with file, line, column and a hint.
//!
//! ```text
//! bytes ─ tree (positions, bounded) ─ decode (keys and types) ─ validate (what takes two values to see) ─ Model
//!            │                           └─ schema: the tables of keys            │
//!            └─────────────── diagnose: every stage reports there ────────────────┘
//! ```
//!
//! A file is accepted whole or refused whole; nothing is ignored. What is missing takes these defaults:
//! `protocol: tcp`, `scheduler: maglev`, `forward: nat`, `weight: 100`, `min_healthy: 1`, and a `health` that is a
//! TCP check where the service has TCP and none where it is UDP only (a UDP port does not say whether it lives).

mod advice;
mod decode;
mod diagnose;
pub mod json_schema;
pub mod schema;
mod show;
mod tree;
mod validate;
mod values;

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::IpAddr;
use std::path::Path;

pub use advice::warnings;
pub use diagnose::{Diagnostic, Diagnostics, Position};
pub use show::show;

use crate::model::Model;
use diagnose::{At, Problems, Source};

/// The hint for a file that holds nothing to go by.
const STARTER: &str = "`sluice config init` prints a file to start from";

/// Larger files are not configurations; the largest pool takes about 4 MiB.
const MAX_BYTES: u64 = 16 << 20;

/// A duration as it is written in a file: `2s`. For the command line, too.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    values::duration(text).map_err(|complaint| format!("{}: {}", complaint.message, complaint.hint))
}

/// What a host tells about a file.
pub trait Host {
    /// It has an interface of this name. With all interfaces of the file, it is taken for the node that the file is for.
    fn has_interface(&self, name: &str) -> bool;
    /// The router through which its packets to `destination` go, if they do not go there directly.
    fn gateway(&self, destination: IpAddr) -> Option<IpAddr>;
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Model, Diagnostics> {
    load_text(path).map(|(_, model)| model)
}

/// As [`load`], and asks the host what a file alone does not say.
pub fn load_for(path: &Path, host: &dyn Host) -> Result<Model, Diagnostics> {
    read(path, Some(host)).map(|(_, model)| model)
}

/// As [`load`], with the file's text.
pub fn load_text(path: &Path) -> Result<(String, Model), Diagnostics> {
    read(path, None)
}

fn read(path: &Path, host: Option<&dyn Host>) -> Result<(String, Model), Diagnostics> {
    let file_name = path.display().to_string();
    let refuse = |message: String, hint: &str| Err(Diagnostics::about_file(&file_name, message, hint));
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let hint = match error.kind() {
            ErrorKind::NotFound => "check the path; `sluice config init FILE` writes a file to start from",
            ErrorKind::PermissionDenied => "run as a user who may read it",
            ErrorKind::IsADirectory => "name the file in it",
            _ => "",
        };
        return refuse(format!("the file cannot be read: {error}"), hint);
    }
    if bytes.len() as u64 > MAX_BYTES {
        return refuse(format!("the file is larger than {} MiB", MAX_BYTES >> 20), "is it the right file?");
    }
    let model = parse_for(&file_name, &bytes, host)?;
    // What was parsed is UTF-8.
    Ok((String::from_utf8_lossy(&bytes).into_owned(), model))
}

/// Checks `text`; `file_name` is only for messages.
pub fn parse(file_name: &str, text: &str) -> Result<Model, Diagnostics> {
    parse_bytes(file_name, text.as_bytes())
}

/// Checks bytes that may not even be text.
pub fn parse_bytes(file_name: &str, bytes: &[u8]) -> Result<Model, Diagnostics> {
    parse_for(file_name, bytes, None)
}

/// As [`parse_bytes`], and asks the host, if there is one to ask.
pub fn parse_for(file_name: &str, bytes: &[u8], host: Option<&dyn Host>) -> Result<Model, Diagnostics> {
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Diagnostics::about_file(file_name, message, "is it the right file?"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Diagnostics::about_file(file_name, "the file is UTF-16", "save it as UTF-8"));
    }
    // The UTF-8 mark is legal YAML (§5.2) and some editors write it; it takes no column.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let source = Source::new(file_name, &valid);
            let mut problems = Problems::new(&source);
            let span = source.point_at(valid.len());
            problems.add(span, &At::TOP, "the text from here on is not UTF-8", "save the file as UTF-8");
            return Err(problems.finish());
        }
    };
    let source = Source::new(file_name, text);
    let mut problems = Problems::new(&source);
    let model = tree::read(&source, &mut problems)
        .and_then(|root| decode::decode(&root, &mut problems))
        .and_then(|raw| validate::validate(&raw, host, &mut problems));
    match model {
        Some(model) if problems.is_empty() => Ok(model),
        _ => Err(problems.finish()),
    }
}
