//! Which objects [`super::Program`] loads: those the controller embeds, or others in their place.
//!
//! Others are for the mutation check, which must not build the controller once more for every mutant. The trap: a
//! process that tests one thing must not be told to test another halfway, so there is no way back.

use std::path::Path;
use std::sync::OnceLock;
use std::{fs, io};

use sluice::dataplane::object::{DECAP, LOAD_BALANCER};

static OTHERS: OnceLock<[Vec<u64>; 2]> = OnceLock::new();

/// From now on, the objects in this directory are the ones under test.
pub fn replace(directory: &Path) -> io::Result<()> {
    let others = [read(&directory.join("sluice-xdp"))?, read(&directory.join("sluice-decap"))?];
    OTHERS.set(others).map_err(|_| io::Error::other("the objects under test were replaced already"))
}

/// A file in words, because ELF is read in place and must be aligned; padded with zeroes, which no ELF reader minds.
fn read(path: &Path) -> io::Result<Vec<u64>> {
    let bytes = fs::read(path).map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))?;
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    };
    Ok(bytes.chunks(8).map(word).collect())
}

fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: plain integers, of which every byte is initialised; the length is the slice's own.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

pub(super) fn load_balancer() -> &'static [u8] {
    OTHERS.get().map_or(LOAD_BALANCER, |[load_balancer, _]| bytes(load_balancer))
}

pub(super) fn decap() -> &'static [u8] {
    OTHERS.get().map_or(DECAP, |[_, decap]| bytes(decap))
}
