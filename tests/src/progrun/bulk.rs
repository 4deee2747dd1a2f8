//! Maps written many words at a time, and put back to how they were: for tests that change whole worlds.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, ptr};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::maps::{Array, IterableMap as _, Map, MapData, PerCpuArray, PerCpuValues, RingBuf};
use aya::util::nr_cpus;

use lb_common::ring::{Row, rows};

use super::Program;
use super::program::{BPF_F_MMAPABLE, outer};

const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// `union bpf_attr` for the batch commands (linux/bpf.h).
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl Program {
    /// Puts rings of one class into slots; `row` gives the word of each row of each slot. All in one call, because
    /// every call that changes an outer map waits until no program can see the old inner ones. The rings, in memory.
    pub fn set_rings(&mut self, class: usize, slots: &[u32], row: impl Fn(u32, u32) -> Row) -> Result<Vec<Mapped>> {
        let mut mapped = Vec::new();
        if slots.is_empty() {
            return Ok(mapped);
        }
        let mut inner: Vec<Array<MapData, u64>> = Vec::new();
        for &slot in slots {
            let ring = Array::create(rows(class), BPF_F_MMAPABLE)?;
            let words = Mapped::of(&ring).context("cannot map a ring into memory")?;
            for (index, word) in (0..).zip(words.words()) {
                word.store(row(slot, index).0, Ordering::Relaxed);
            }
            mapped.push(words);
            inner.push(ring);
        }
        let fds: Vec<u32> = inner.iter().map(|ring| ring.map().fd().as_fd().as_raw_fd() as u32).collect();
        let name = outer(class);
        let Some(Map::ArrayOfMaps(outer)) = self.ebpf.map(&name) else { bail!("no map `{name}` in the object") };
        let mut batch = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: slots.as_ptr() as u64,
            values: fds.as_ptr() as u64,
            count: slots.len() as u32,
            map_fd: outer.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let size = size_of::<Batch>();
        // SAFETY: a `repr(C)` prefix of `union bpf_attr`; what it points to outlives the call.
        let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut batch, size) };
        ensure!(done == 0, "map `{name}`: {}", io::Error::last_os_error());
        Ok(mapped)
    }

    /// Puts back what packets change and tests cannot subtract: the clock, the budgets for events and for errors, and events unread.
    pub fn forget(&mut self) -> Result<()> {
        self.set_clock(0)?;
        let cpus = nr_cpus().map_err(|(what, why)| anyhow!("{what}: {why}"))?;
        for name in ["EVENT_BUDGET", "ANSWER_BUDGET"] {
            let mut budget: PerCpuArray<_, [u64; 2]> = self.map(name)?;
            budget.set(0, PerCpuValues::try_from(vec![[0, 0]; cpus])?, 0)?;
        }
        self.events().map(drop)
    }

    /// Each CPU's budget for events: the second it is for, and how many were sent in it.
    pub fn budgets(&mut self) -> Result<Vec<[u64; 2]>> {
        let budget: PerCpuArray<_, [u64; 2]> = self.map("EVENT_BUDGET")?;
        Ok(budget.get(&0, 0)?.to_vec())
    }

    /// How many records the program has logged since the last call.
    pub fn logged(&mut self) -> Result<usize> {
        let mut log: RingBuf<_> = self.map("AYA_LOGS")?;
        let mut records = 0;
        while log.next().is_some() {
            records += 1;
        }
        Ok(records)
    }
}

/// A ring's rows in memory, as programs see them.
#[derive(Debug)]
pub struct Mapped {
    base: *mut libc::c_void,
    count: usize,
}

impl Mapped {
    fn of(ring: &Array<MapData, u64>) -> io::Result<Self> {
        let count = ring.len() as usize;
        let bytes = count * size_of::<u64>();
        let fd = ring.map().fd().as_fd().as_raw_fd();
        // SAFETY: a fresh shared mapping of a map of ours; the kernel checks its length, and keeps the map for it.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self { base, count }) }
    }

    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is of this many words, page-aligned, and lives as long as `self`; programs change words
        // atomically.
        unsafe { std::slice::from_raw_parts(self.base.cast::<AtomicU64>(), self.count) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length; slices of it do not live longer.
        unsafe { libc::munmap(self.base, self.count * size_of::<u64>()) };
    }
}
