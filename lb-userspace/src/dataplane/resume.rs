//! Taking over from an earlier controller: its links, its maps, and what is in them.
//!
//! The program in the links forwards packets all the while, so nothing it uses is touched before what comes after is
//! ready: our program is verified on the same maps, or, where a map does not fit, on a new one that got the elements of
//! the old one as far as they mean the same. The first [`Dataplane::apply`] makes the maps true; only then does our
//! program take the old one's place inside each link. A start that fails before that leaves everything as it was.
//!
//! The trap: a map that differs is replaced by a new one, and the old program keeps writing to the old one until the
//! last link is switched. What it wrote meanwhile is carried over afterwards.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::MapData;

use super::attach::{self, Program};
use super::error::DataplaneError;
use super::loader::{self, Features, Sizes, chain};
use super::maps::{Maps, NAMES};
use super::shape::{self, Fit, Shape};
use super::tables::RingId;
use super::{Dataplane, Options, pins, sys};

/// How far an earlier controller's maps mean what ours mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherit {
    /// The same ABI: every map that fits is taken.
    Everything,
    /// Another ABI whose rings, ids and flow entries are the same.
    Rows,
    /// Nothing is known of them. Links are taken over nevertheless.
    Nothing,
}

/// What was taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Interfaces that had a program all along.
    pub interfaces: Vec<String>,
    /// Maps taken as they are.
    pub maps: usize,
    /// Maps that were replaced, with what became of their elements: one sentence each.
    pub replaced: Vec<String>,
}

/// What is left to do after the first apply.
#[derive(Debug)]
pub(super) struct Takeover {
    /// New maps wait to take the place of the old ones.
    exchange: bool,
    /// Old and new maps whose elements the old program may still add to.
    late: Vec<(Shape, MapData, MapData)>,
}

impl Takeover {
    /// New maps wait to take the place of the old ones.
    pub(super) const fn waits(&self) -> bool {
        self.exchange
    }
}

/// Whether the program writes elements of its own to this map.
fn is_flow_table(name: &str) -> bool {
    matches!(name, "FLOWS4" | "FLOWS6" | "TRACKED4" | "TRACKED6")
}

fn is_about_rows(name: &str) -> bool {
    is_flow_table(name) || name.starts_with("RINGS_") || matches!(name, "FLOW_POLICIES" | "FLOW_USES")
}

/// A pinned map that is to be replaced.
struct Replaced {
    name: &'static str,
    shape: Shape,
    old: MapData,
    /// Its elements mean the same in the new one.
    copied: bool,
}

impl Dataplane {
    /// Loads the program, taking over what an earlier controller pinned as far as `inherit` allows. Links keep their
    /// program until the first [`Dataplane::apply`]. The caller holds the host's [`super::lock`].
    /// `idle`: what [`Dataplane::idle_timeouts`] of that controller said last.
    pub fn resume(
        mut options: Options,
        features: Features,
        inherit: Inherit,
        idle: &BTreeMap<RingId, u32>,
    ) -> Result<Self, DataplaneError> {
        let dir = options.bpf_dir.clone();
        pins::prepare(&dir)?;
        let lock = pins::lock(&dir)?;
        let attached = attach::inherited(&dir)?;
        let mut inherited =
            Inherited { interfaces: attached.values().map(|a| a.name.clone()).collect(), ..Inherited::default() };

        // What a start that was cut short left behind.
        pins::remove(&dir.join(pins::NEW_MAPS))?;
        let wanted = shape::wanted(options.sizes)?;
        let (taken, replaced) = compare(&dir, &wanted, inherit, &mut inherited.replaced)?;
        inherited.maps = taken.len();
        keep_room(&mut options.sizes, &taken)?;

        let beside = !replaced.is_empty();
        let maps_dir = if beside {
            make_beside(&dir, &taken)?;
            pins::NEW_MAPS
        } else {
            pins::MAPS
        };
        let opened = (|| {
            // The program is verified first: it names its maps by descriptors that taking them out may close.
            let mut program = Program::new(loader::load(&options, maps_dir, features)?)?;
            let late = carry_over(&dir, replaced, &mut inherited.replaced)?;
            let mut maps = Maps::take(program.object_mut(), &options.sizes)?;
            maps.read_back(idle)?;
            Ok((program, maps, late))
        })();
        let (mut program, maps, late) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if beside {
                    pins::remove(&dir.join(pins::NEW_MAPS))?;
                }
                return Err(error);
            }
        };
        if inherited.interfaces.is_empty() && !beside {
            program.pin(&dir)?;
        }
        Ok(Self {
            options,
            features,
            program,
            maps,
            tracking: super::sweep::Tracking::default(),
            attached,
            takeover: (beside || !inherited.interfaces.is_empty()).then_some(Takeover { exchange: beside, late }),
            inherited,
            _lock: lock,
        })
    }

    /// Keeps what the next controller has to know, beside the maps that it speaks of.
    pub fn save_state(&self, bytes: &[u8]) -> Result<(), DataplaneError> {
        super::state::save(&self.options.bpf_dir.join(self.pinned_maps()), bytes)
    }

    /// The maps are true: our program goes into the links, in the place of the one before.
    pub(super) fn take_over(&mut self) -> Result<(), DataplaneError> {
        let Some(Takeover { exchange, late }) = &mut self.takeover else { return Ok(()) };
        let dir = &self.options.bpf_dir;
        if std::mem::take(exchange) {
            // Before the links: whoever starts after a crash in between must find the maps that the state speaks of.
            pins::exchange_maps(dir)?;
        }
        self.program.replace_in_all(&self.attached)?;
        for (shape, old, new) in late.drain(..) {
            // What our program wrote meanwhile is newer.
            shape::copy(shape, &old, &new, sys::NOEXIST)
                .map_err(|e| DataplaneError::Write { name: "FLOWS", why: format!("carrying entries over: {e}") })?;
        }
        self.takeover = None;
        self.program.pin(dir)?;
        pins::remove(&dir.join(pins::NEW_MAPS))
    }
}

/// What [`detach`] took off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Interfaces that ran a program, with its id in the kernel.
    pub interfaces: Vec<(String, u32)>,
    /// Pinned maps.
    pub maps: usize,
}

/// Removes what a controller left under `bpf_dir`. The caller holds the host's [`super::lock`].
pub fn detach(bpf_dir: &Path) -> Result<Detached, DataplaneError> {
    let mut detached = Detached::default();
    if !bpf_dir.exists() {
        return Ok(detached);
    }
    let _lock = pins::lock(bpf_dir)?;
    let maps = pins::entries(&bpf_dir.join(pins::MAPS))?;
    detached.maps = maps
        .iter()
        .filter(|path| path.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known)))
        .count();
    for (_, attached) in attach::inherited(bpf_dir)? {
        detached.interfaces.push((attached.name.clone(), attached.program()?));
        attach::detach(attached)?;
    }
    pins::remove(bpf_dir)?;
    Ok(detached)
}

/// Sorts the pinned maps into those that our program can work with and those that it cannot.
fn compare(
    dir: &Path,
    wanted: &BTreeMap<String, Shape>,
    inherit: Inherit,
    say: &mut Vec<String>,
) -> Result<(BTreeMap<&'static str, MapData>, Vec<Replaced>), DataplaneError> {
    let (mut taken, mut replaced) = (BTreeMap::new(), Vec::new());
    for name in NAMES {
        let path = dir.join(pins::MAPS).join(name);
        let Some(want) = wanted.get(name).copied().filter(|_| path.exists()) else { continue };
        // What is pinned may be a program or a link.
        let old = MapData::from_pin(&path).map_err(|e| DataplaneError::Directory {
            path: path.clone(),
            why: format!("it is no map: {}", chain(&e)),
        })?;
        let have = Shape::of(&old)?;
        let fit = match inherit {
            Inherit::Everything => have.fits(want),
            Inherit::Rows if is_about_rows(name) => match have.fits(want) {
                Fit::Fits | Fit::SameElements => Fit::SameElements,
                Fit::Differs => Fit::Differs,
            },
            Inherit::Rows | Inherit::Nothing => Fit::Differs,
        };
        if fit == Fit::Fits {
            taken.insert(name, old);
            continue;
        }
        if inherit == Inherit::Everything {
            let fate = if fit == Fit::SameElements { "its elements are carried over" } else { "it starts empty" };
            say.push(format!("the map {name} is replaced, {fate}: it has {}", have.difference(want)));
        }
        replaced.push(Replaced { name, shape: have, old, copied: fit == Fit::SameElements });
    }
    Ok((taken, replaced))
}

/// Maps that are larger than wanted stay so; the ids in them may be too.
fn keep_room(sizes: &mut Sizes, taken: &BTreeMap<&'static str, MapData>) -> Result<(), DataplaneError> {
    for (name, size) in [("SERVICE_COUNTERS", &mut sizes.services), ("BACKENDS", &mut sizes.backends)] {
        if let Some(map) = taken.get(name) {
            *size = (*size).max(Shape::of(map)?.entries.saturating_sub(1));
        }
    }
    for (name, size) in [("TRACKED4", &mut sizes.tracked4), ("TRACKED6", &mut sizes.tracked6)] {
        if let Some(map) = taken.get(name) {
            *size = (*size).max(Shape::of(map)?.entries);
        }
    }
    Ok(())
}

/// A second set of pins, for the loader to fill up.
fn make_beside(dir: &Path, taken: &BTreeMap<&'static str, MapData>) -> Result<(), DataplaneError> {
    let beside = dir.join(pins::NEW_MAPS);
    let failed = |e: std::io::Error| DataplaneError::Directory { path: beside.clone(), why: e.to_string() };
    std::fs::create_dir_all(&beside).map_err(failed)?;
    for (name, map) in taken {
        map.pin(beside.join(name))
            .map_err(|e| DataplaneError::Directory { path: beside.join(name), why: chain(&e) })?;
    }
    Ok(())
}

/// Gives the new maps the elements of the old ones; those that the old program may still add to are given back.
fn carry_over(
    dir: &Path,
    replaced: Vec<Replaced>,
    say: &mut Vec<String>,
) -> Result<Vec<(Shape, MapData, MapData)>, DataplaneError> {
    let mut late = Vec::new();
    for Replaced { name, shape, old, .. } in replaced.into_iter().filter(|r| r.copied) {
        let path = dir.join(pins::NEW_MAPS).join(name);
        let new =
            MapData::from_pin(&path).map_err(|e| DataplaneError::Map { name: name.to_owned(), why: chain(&e) })?;
        match shape::copy(shape, &old, &new, 0) {
            Ok(_) if is_flow_table(name) => late.push((shape, old, new)),
            Ok(_) => {}
            Err(e) => say.push(format!("the elements of the map {name} could not be carried over: {e}")),
        }
    }
    Ok(late)
}
