//! The kernel side: the loaded program, its maps, and one owner for each.
//!
//! [`Dataplane`] is the only writer. It is given a whole [`tables::Tables`] — what the kernel should hold — and
//! makes it so, in an order that never shows a packet a service without its ring or a row without its backend.

pub mod attach;
pub mod clock;
pub mod decap;
pub mod error;
pub mod events;
pub mod flows;
mod halves;
pub mod kernel;
pub mod loader;
pub mod lock;
pub mod maps;
pub mod next_hops;
pub mod object;
pub mod packet_log;
pub mod pins;
mod resume;
pub mod rings;
mod shape;
pub mod state;
pub mod stats;
pub mod sweep;
mod sys;
pub mod tables;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::XdpMode;

pub use attach::{Attached, Mode};
pub use error::DataplaneError;
pub use loader::{Features, Sizes, Tunables};
pub use resume::{Detached, Inherit, Inherited, detach};
pub use tables::Tables;

use attach::Program;
use maps::Maps;

/// What is fixed for the life of the maps.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory below a bpffs, made when absent.
    pub bpf_dir: PathBuf,
    pub sizes: Sizes,
    pub tunables: Tunables,
}

/// The loaded program, what it is attached to, and its maps.
#[derive(Debug)]
pub struct Dataplane {
    options: Options,
    features: Features,
    program: Program,
    maps: Maps,
    tracking: sweep::Tracking,
    attached: BTreeMap<u32, Attached>,
    /// The links still hold the program of before; the first [`Dataplane::apply`] puts ours in.
    takeover: Option<resume::Takeover>,
    inherited: Inherited,
    _lock: pins::DirLock,
}

impl Dataplane {
    /// Loads the program with fresh maps, whatever was there: it is removed first. The caller holds the host's
    /// [`lock`]. [`Dataplane::resume`] takes over instead.
    pub fn open(options: Options, features: Features) -> Result<Self, DataplaneError> {
        pins::remove(&options.bpf_dir)?;
        Self::resume(options, features, Inherit::Nothing, &BTreeMap::new())
    }

    pub fn features(&self) -> Features {
        self.features
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Makes the program serve these features: a variant is loaded on the same maps and replaces the running one
    /// inside every attached link, so no packet meets an interface without a program.
    pub fn set_features(&mut self, features: Features) -> Result<bool, DataplaneError> {
        self.change_program(features, self.options.sizes)
    }

    /// As [`Dataplane::set_features`], with tables of tracked flows that have room for as many as `sizes` says, at least.
    /// Those that grow keep their flows.
    pub fn make_room(&mut self, features: Features, sizes: Sizes) -> Result<bool, DataplaneError> {
        let Sizes { tracked4, tracked6, .. } = self.options.sizes;
        let sizes = Sizes { tracked4: tracked4.max(sizes.tracked4), tracked6: tracked6.max(sizes.tracked6), ..sizes };
        self.change_program(features, sizes)
    }

    /// As [`Dataplane::set_features`], without those tables of tracked flows that nobody needs any more. One that is
    /// larger than needed stays so.
    pub fn give_room_back(&mut self, features: Features, sizes: Sizes) -> Result<bool, DataplaneError> {
        let kept = |have: u32, wanted: u32| if wanted > 1 { have } else { 1 };
        let Sizes { tracked4, tracked6, .. } = self.options.sizes;
        let (tracked4, tracked6) = (kept(tracked4, sizes.tracked4), kept(tracked6, sizes.tracked6));
        self.change_program(features, Sizes { tracked4, tracked6, ..sizes })
    }

    /// Exchanges program and tables of tracked flows for those that are needed. Of `sizes` no others count.
    fn change_program(&mut self, features: Features, sizes: Sizes) -> Result<bool, DataplaneError> {
        let changed = sizes.changed_tables(self.options.sizes);
        // Where another controller's program still runs, its tables of flows are exchanged with all the others.
        if features == self.features && changed.is_empty() {
            return Ok(false);
        }
        let Sizes { tracked4, tracked6, .. } = sizes;
        let options = Options { sizes: Sizes { tracked4, tracked6, ..self.options.sizes }, ..self.options.clone() };
        let dir = self.pinned_maps();
        let aside = pins::SetAside::new(&self.options.bpf_dir.join(dir), &changed)?;
        let mut next = Program::new(loader::load(&options, dir, features)?)?;
        let old = self.maps.exchange_tracked(next.object_mut(), &changed)?;
        // Links that are not ours yet get their program when the maps hold what it needs.
        if self.takeover.is_none()
            && let Err(e) = next.replace_in_all(&self.attached)
        {
            self.maps.put_back(old);
            return Err(e);
        }
        aside.forget();
        // What the program before wrote meanwhile. A flow that is left out is placed by its row.
        self.maps.carry_over(&old)?;
        if !changed.is_empty() {
            self.tracking.disturb();
        }
        self.options = options;
        self.program = next;
        self.features = features;
        self.program.pin(&self.options.bpf_dir)?;
        Ok(true)
    }

    /// Where the maps are pinned that the program works with.
    pub(super) fn pinned_maps(&self) -> &'static str {
        let waiting = self.takeover.as_ref().is_some_and(resume::Takeover::waits);
        if waiting { pins::NEW_MAPS } else { pins::MAPS }
    }

    /// Attaches to an interface. Attaching to one that is attached already changes nothing.
    pub fn attach(&mut self, name: &str, ifindex: u32, mode: XdpMode) -> Result<&Attached, DataplaneError> {
        match self.attached.get_mut(&ifindex) {
            Some(inherited) => inherited.rename(name, mode),
            None => {
                let attached = self.program.attach(&self.options.bpf_dir, name, ifindex, mode)?;
                self.attached.insert(ifindex, attached);
            }
        }
        Ok(&self.attached[&ifindex])
    }

    /// Takes the program off an interface.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        match self.attached.remove(&ifindex) {
            Some(attached) => attach::detach(attached),
            None => Ok(()),
        }
    }

    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.attached.values()
    }

    /// The kernel's id of the running program.
    pub fn program_id(&self) -> u32 {
        self.program.id()
    }

    /// Makes the kernel hold exactly `tables`.
    pub fn apply(&mut self, tables: Tables) -> Result<(), DataplaneError> {
        self.maps.apply(tables)?;
        self.take_over()
    }

    /// The idle timeouts that rows are written with now, for the next controller.
    pub fn idle_timeouts(&self) -> BTreeMap<tables::RingId, u32> {
        self.maps.idle_timeouts()
    }

    /// What an earlier controller left and this one took over.
    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// How many rows of a ring are of which kind.
    pub fn row_kinds(&self, id: tables::RingId) -> rings::Kinds {
        self.maps.row_kinds(id)
    }

    /// The counters of a service id, summed over CPUs.
    pub fn service_counters(&self, id: u32) -> Result<lb_common::counters::ServiceCounters, DataplaneError> {
        self.maps.service_counters(id)
    }

    /// The counters of a backend id, summed over CPUs.
    pub fn backend_counters(&self, id: u16) -> Result<lb_common::counters::BackendCounters, DataplaneError> {
        self.maps.backend_counters(id)
    }

    /// Starts counting from zero for an id that is given to somebody new.
    pub fn reset_service_counters(&mut self, id: u32) -> Result<(), DataplaneError> {
        self.maps.reset_service_counters(id)
    }

    /// As [`Dataplane::reset_service_counters`].
    pub fn reset_backend_counters(&mut self, id: u16) -> Result<(), DataplaneError> {
        self.maps.reset_backend_counters(id)
    }

    /// The ring buffer of events; it can be taken once.
    pub fn take_events(&mut self) -> Option<events::Events> {
        self.maps.take_events()
    }

    /// Direct access for the packet harness; nothing else may write maps.
    pub fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// The program itself, for test runs.
    pub fn program_mut(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Takes the program off every interface and removes every pin. Merely dropping it leaves everything as it is, and
    /// packets are forwarded on.
    pub fn close(mut self) -> Result<(), DataplaneError> {
        for (_, attached) in std::mem::take(&mut self.attached) {
            attach::detach(attached)?;
        }
        pins::remove(&self.options.bpf_dir)
    }
}
