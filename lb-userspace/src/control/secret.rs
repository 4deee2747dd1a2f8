//! The fleet's hash secret: read from its file, or made once.
//!
//! Every node of a fleet must hold the same one, or the same flow lands on different backends behind an ECMP
//! router. It is never derived from a host or a boot.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lb_common::hash::{HashKey, KEY_WORDS};
use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Failure};

/// Bytes of entropy; the file holds them as 64 hexadecimal digits.
const SECRET: usize = 32;

/// Reads the key, making the file first where there is none. Says whether it was made.
pub fn load_or_create(path: &Path) -> Result<(HashKey, bool), Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok((expand(&parse(path, &text)?), false)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((expand(&create(path)?), true)),
        Err(e) => Err(failed(path, "read", &e)),
    }
}

fn failed(path: &Path, verb: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {verb} the hash key {}: {error}", path.display()))
        .hint("set `hash_key` to a file this user can read and, once, write")
}

fn create(path: &Path) -> Result<[u8; SECRET], Failure> {
    let mut secret = [0; SECRET];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut secret))
        .map_err(|e| failed(path, "make", &e))?;
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| failed(path, "make", &e))?;
    }
    // Written whole under another name first: a crash in between must not leave half a key.
    let fresh = path.with_extension("new");
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            writeln!(file, "{text}")?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path))
        .map_err(|e| failed(path, "make", &e))?;
    Ok(secret)
}

fn parse(path: &Path, text: &str) -> Result<[u8; SECRET], Failure> {
    let bad = || {
        Failure::new(Exit::ConfigInvalid, format!("{} is not a hash key", path.display())).hint(
            "it must hold 64 hexadecimal digits; `openssl rand -hex 32` makes one, or remove the file to have one made",
        )
    };
    let text = text.trim();
    if text.len() != SECRET * 2 || !text.is_ascii() {
        return Err(bad());
    }
    let mut secret = [0; SECRET];
    for (i, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).map_err(|_| bad())?;
    }
    Ok(secret)
}

/// Tells keys apart without telling anything about them.
pub fn digest(key: &HashKey) -> String {
    let words = key.0.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let digest = Sha256::new().chain_update(b"sluice key digest 1").chain_update(words).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Key words from the secret: SHA-256 over a label, the secret and the word's number; 8 bytes, little-endian.
fn expand(secret: &[u8; SECRET]) -> HashKey {
    let mut key = HashKey([0; KEY_WORDS]);
    for (i, word) in key.0.iter_mut().enumerate() {
        let digest = Sha256::new().chain_update(b"sluice flow hash 1").chain_update(secret).chain_update([i as u8]);
        let digest = digest.finalize();
        *word = digest.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_ever_after() {
        let dir = std::env::temp_dir().join(format!("sluice-key-{}", std::process::id()));
        let path = dir.join("deep/hash.key");
        let (first, made) = load_or_create(&path).unwrap();
        assert!(made);
        let (second, made) = load_or_create(&path).unwrap();
        assert!(!made);
        assert!(first == second);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_expansion_never_changes() {
        // Nodes of different versions must agree.
        let key = expand(&[1; SECRET]);
        assert_eq!(key.0[0], 0x3170_8bad_3bf9_5e50);
        assert_eq!(key.0[11], 0x273a_5346_3070_354a);
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_the_way_to_make_one() {
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            let failure = parse(Path::new("hash.key"), text).unwrap_err();
            assert_eq!(failure.exit, Exit::ConfigInvalid);
            assert!(failure.hint.unwrap().contains("openssl rand -hex 32"));
        }
    }
}
