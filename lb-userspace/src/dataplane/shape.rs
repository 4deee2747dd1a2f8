//! What a map must look like for this binary's program to work with it.
//!
//! The loader reopens a pinned map by its name and compares nothing; the verifier compares types and sizes of keys and
//! values, and says so in the language of registers. So pinned maps are compared here first, in words.

use std::collections::BTreeMap;
use std::fmt;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::{self, *};

use super::error::DataplaneError;
use super::loader::{Sizes, chain};
use super::{object, sys};

/// `BPF_F_RDONLY_PROG`: the kernel sets it on device maps by itself.
const RDONLY_PROG: u32 = 1 << 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub kind: u32,
    pub key: u32,
    pub value: u32,
    pub entries: u32,
    pub flags: u32,
}

/// How a pinned map compares with the one this binary would make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The program can work with it.
    Fits,
    /// Its elements could be those of ours; its size or its flags differ.
    SameElements,
    Differs,
}

impl Shape {
    pub(super) fn of(map: &MapData) -> Result<Self, DataplaneError> {
        let info = map.info().map_err(|e| DataplaneError::Map { name: "pinned".into(), why: chain(&e) })?;
        Ok(Self {
            // The library's names have the kernel's numbers.
            kind: info.map_type().map_or(0, |kind| kind as u32),
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    fn kind(&self) -> Option<bpf_map_type> {
        self.kind.try_into().ok()
    }

    /// Device maps have values of 4 or 8 bytes, as the kernel can; buffers have none.
    fn comparable(mut self) -> Self {
        match self.kind() {
            Some(BPF_MAP_TYPE_DEVMAP | BPF_MAP_TYPE_DEVMAP_HASH) => {
                self.value = 0;
                self.flags &= !RDONLY_PROG;
            }
            Some(BPF_MAP_TYPE_RINGBUF) => (self.key, self.value) = (0, 0),
            _ => {}
        }
        self
    }

    /// How a pinned map of this shape serves where `wanted` is needed. More room is as good.
    pub(super) fn fits(self, wanted: Self) -> Fit {
        let (have, want) = (self.comparable(), wanted.comparable());
        if (have.kind, have.key, have.value) != (want.kind, want.key, want.value) {
            Fit::Differs
        } else if have.flags == want.flags && have.entries >= want.entries {
            Fit::Fits
        } else {
            Fit::SameElements
        }
    }

    /// What differs, for the operator.
    pub(super) fn difference(self, wanted: Self) -> String {
        let (have, want) = (self.comparable(), wanted.comparable());
        let mut parts = Vec::new();
        let mut say = |what: &str, have: String, want: String| {
            if have != want {
                parts.push(format!("{what} {have} instead of {want}"));
            }
        };
        say("type", Kind(have.kind).to_string(), Kind(want.kind).to_string());
        say("key", format!("{} bytes", have.key), format!("{} bytes", want.key));
        say("value", format!("{} bytes", have.value), format!("{} bytes", want.value));
        say("flags", format!("{:#x}", have.flags), format!("{:#x}", want.flags));
        if have.entries < want.entries {
            parts.push(format!("room for {} entries instead of {}", have.entries, want.entries));
        }
        parts.join(", ")
    }
}

/// `hash`, `percpu_array`: as bpftool says it.
struct Kind(u32);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match bpf_map_type::try_from(self.0) {
            Ok(kind) => f.write_str(&format!("{kind:?}").trim_start_matches("BPF_MAP_TYPE_").to_lowercase()),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// The maps this binary would make, by name.
pub(super) fn wanted(sizes: Sizes) -> Result<BTreeMap<String, Shape>, DataplaneError> {
    let object = aya_obj::Object::parse(object::LOAD_BALANCER).map_err(|e| DataplaneError::Refused(chain(&e)))?;
    let shape = |(name, map): (&String, &aya_obj::Map)| {
        let shape = Shape {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
            entries: sizes.entries(name).unwrap_or(map.max_entries()),
            flags: map.map_flags(),
        };
        (name.clone(), shape)
    };
    Ok(object.maps.iter().map(shape).filter(|(name, _)| super::maps::NAMES.contains(&name.as_str())).collect())
}

/// Copies every element of one map to another of the same key and value. `flags` are those of an update. Kinds whose
/// elements only mean something to the kernel or to one moment stay empty.
pub(super) fn copy(shape: Shape, from: &MapData, to: &MapData, flags: u64) -> std::io::Result<usize> {
    use std::os::fd::AsFd as _;
    let (from, to) = (from.fd().as_fd(), to.fd().as_fd());
    let value_size = shape.value as usize;
    let bytes = match shape.kind() {
        Some(BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_PERCPU_HASH) => {
            let cpus = aya::util::nr_cpus().map_err(|(_, e)| e)?;
            value_size.next_multiple_of(8) * cpus
        }
        Some(
            BPF_MAP_TYPE_HASH
            | BPF_MAP_TYPE_LRU_HASH
            | BPF_MAP_TYPE_ARRAY
            | BPF_MAP_TYPE_LPM_TRIE
            | BPF_MAP_TYPE_ARRAY_OF_MAPS,
        ) => value_size,
        _ => return Ok(0),
    };
    let is_array =
        matches!(shape.kind(), Some(BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_ARRAY_OF_MAPS));
    let mut value = vec![0; bytes];
    let mut copied = 0;
    for key in sys::keys(from, shape.key as usize, shape.entries as usize * 2)? {
        if !sys::lookup(from, &key, &mut value)? {
            continue;
        }
        if shape.kind() == Some(BPF_MAP_TYPE_ARRAY_OF_MAPS) {
            // Read as an id, written as a descriptor: both maps then share the inner one.
            let id = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
            let inner = sys::map_by_id(id)?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&inner);
            sys::update(to, &key, &fd.to_ne_bytes(), 0)?;
        } else if is_array {
            if value.iter().all(|b| *b == 0) {
                continue;
            }
            sys::update(to, &key, &value, 0)?;
        } else {
            match sys::update(to, &key, &value, flags) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
        }
        copied += 1;
    }
    Ok(copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Shape = Shape { kind: BPF_MAP_TYPE_HASH as u32, key: 8, value: 16, entries: 100, flags: 1 };

    #[test]
    fn a_map_is_taken_as_it_is_only_if_the_program_can_work_with_it() {
        let table = [
            (HASH, Fit::Fits, ""),
            (Shape { entries: 101, ..HASH }, Fit::Fits, ""),
            (Shape { entries: 99, ..HASH }, Fit::SameElements, "room for 99 entries instead of 100"),
            (Shape { flags: 0, ..HASH }, Fit::SameElements, "flags 0x0 instead of 0x1"),
            (Shape { value: 24, ..HASH }, Fit::Differs, "value 24 bytes instead of 16 bytes"),
            (Shape { key: 4, ..HASH }, Fit::Differs, "key 4 bytes instead of 8 bytes"),
            (Shape { kind: BPF_MAP_TYPE_ARRAY as u32, ..HASH }, Fit::Differs, "type array instead of hash"),
        ];
        for (have, fit, says) in table {
            assert_eq!((have.fits(HASH), have.difference(HASH).as_str()), (fit, says));
        }
    }

    #[test]
    fn the_object_has_every_map_by_its_name() {
        let wanted = wanted(Sizes::default()).unwrap();
        for name in super::super::maps::NAMES {
            assert!(wanted.contains_key(name), "{name}");
        }
    }
}
