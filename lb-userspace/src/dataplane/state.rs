//! What the controller knows and the maps do not say, kept in the kernel beside them, so that both live and die together.
//!
//! It is an array map, of no use to any program: a header, then the controller's own bytes. Each save makes a new map and
//! renames its pin over the old one, so a reader finds the old state or the new one whole. A file would outlive a reboot,
//! and the maps it speaks of do not.
//!
//! The trap: it says which ABI the maps are of, so it is pinned among them and changes places with them. Beside them, a
//! crash between saving it and putting new maps in place would make old maps look new.

use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::MapData;
use lb_common::layout::{ABI_VERSION, ROWS_VERSION};

use super::error::DataplaneError;
use super::{pins, sys};

/// No map of the program has a name in lower case.
const NAME: &str = "state";
/// The header's first word: "sluice", and the version of the header.
const MAGIC: u64 = u64::from_be_bytes(*b"sluice\0\x01");
/// Words of the header: magic; ABI and rows version; bytes that follow.
const HEADER: usize = 3;
/// Values of an array are limited in size, their number is not.
const VALUE: usize = 4096;

/// A saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// [`ABI_VERSION`] of whoever saved it, and so of the maps beside it.
    pub abi: u32,
    /// [`ROWS_VERSION`] of the same.
    pub rows: u32,
    pub bytes: Vec<u8>,
}

/// Saves `bytes` beside the maps in a directory, under our own versions, in place of what was saved before.
pub(super) fn save(maps: &Path, bytes: &[u8]) -> Result<(), DataplaneError> {
    write(maps, &Stored { abi: ABI_VERSION, rows: ROWS_VERSION, bytes: bytes.to_vec() })
}

/// Puts a state in place of the one that is there, as another version would: for tests of upgrades.
pub fn forge(bpf_dir: &Path, stored: &Stored) -> Result<(), DataplaneError> {
    write(&bpf_dir.join(pins::MAPS), stored)
}

fn write(maps: &Path, stored: &Stored) -> Result<(), DataplaneError> {
    let path = maps.join(NAME);
    let failed = |why: String| DataplaneError::Directory { path: path.clone(), why: format!("saving: {why}") };
    let length = HEADER * size_of::<u64>() + stored.bytes.len();
    let values = length.div_ceil(VALUE);
    let shape = aya_obj::Map::new_from_params(
        aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        size_of::<u32>() as u32,
        VALUE as u32,
        values as u32,
        aya_obj::generated::BPF_F_MMAPABLE,
    );
    let map = MapData::create(shape, "sluice_state", None).map_err(|e| failed(super::loader::chain(&e)))?;
    let words = sys::Words::map(map.fd().as_fd(), values * VALUE / size_of::<u64>())
        .map_err(|e| failed(format!("mapping it: {e}")))?;
    words.store(0, MAGIC);
    words.store(1, u64::from(stored.abi) << 32 | u64::from(stored.rows));
    words.store(2, stored.bytes.len() as u64);
    for (i, chunk) in stored.bytes.chunks(size_of::<u64>()).enumerate() {
        let mut word = [0; size_of::<u64>()];
        word[..chunk.len()].copy_from_slice(chunk);
        words.store(HEADER + i, u64::from_ne_bytes(word));
    }
    pins::replace(map.fd().as_fd(), &maps.join("state-new"), &path)
}

/// What was saved last; `None` if nothing ever was.
pub fn load(bpf_dir: &Path) -> Result<Option<Stored>, DataplaneError> {
    let path = bpf_dir.join(pins::MAPS).join(NAME);
    let failed = |why: String| DataplaneError::Directory { path: path.clone(), why: format!("reading: {why}") };
    if !path.exists() {
        return Ok(None);
    }
    let map = MapData::from_pin(&path).map_err(|e| failed(super::loader::chain(&e)))?;
    let info = map.info().map_err(|e| failed(super::loader::chain(&e)))?;
    let room = info.max_entries() as usize * info.value_size().next_multiple_of(8) as usize / size_of::<u64>();
    let foreign = || failed("it is not a state of sluice's".into());
    if room < HEADER {
        return Err(foreign());
    }
    let words = sys::Words::map(map.fd().as_fd(), room).map_err(|_| foreign())?;
    let (versions, length) = (words.load(1), words.load(2) as usize);
    if words.load(0) != MAGIC || length > (room - HEADER) * size_of::<u64>() {
        return Err(foreign());
    }
    let used = length.div_ceil(size_of::<u64>());
    let mut bytes: Vec<u8> = (0..used).flat_map(|i| words.load(HEADER + i).to_ne_bytes()).collect();
    bytes.truncate(length);
    Ok(Some(Stored { abi: (versions >> 32) as u32, rows: versions as u32, bytes }))
}
