//! The few kernel calls aya does not make: a batch update, and memory-mapped arrays.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// `ENOTSUPP` of linux/errno.h: what map types without batch operations answer.
const ENOTSUPP: i32 = 524;

/// `union bpf_attr` for the batch commands (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
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

/// `union bpf_attr` for one element.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    // SAFETY: `attributes` is a `repr(C)` prefix of `union bpf_attr`, alive for the call; pointers inside are the
    // callers' and outlive it too.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts inner maps into slots of an outer map, all in one call where the kernel can (6.8 and newer): each single
/// update waits for a grace period, a batch waits once.
pub(super) fn set_inner_maps(outer: BorrowedFd<'_>, slots: &[u32], inner: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert_eq!(slots.len(), inner.len());
    if slots.is_empty() {
        return Ok(());
    }
    let fds: Vec<u32> = inner.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    let mut batch = Batch {
        keys: slots.as_ptr() as u64,
        values: fds.as_ptr() as u64,
        count: slots.len() as u32,
        map_fd: outer.as_raw_fd() as u32,
        ..Batch::default()
    };
    match bpf(BPF_MAP_UPDATE_BATCH, &mut batch) {
        Ok(()) => return Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP)) => {}
        Err(e) => return Err(e),
    }
    for (slot, fd) in slots.iter().zip(&fds) {
        let mut element = Element {
            map_fd: outer.as_raw_fd() as u32,
            key: std::ptr::from_ref(slot) as u64,
            value: std::ptr::from_ref(fd) as u64,
            ..Element::default()
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut element)?;
    }
    Ok(())
}

/// Empties a slot of an outer map.
pub(super) fn delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut element =
        Element { map_fd: map.as_raw_fd() as u32, key: std::ptr::from_ref(&key) as u64, ..Element::default() };
    bpf(BPF_MAP_DELETE_ELEM, &mut element)
}

/// An array map's values, mapped into our memory and written a whole `u64` at a time: the packet path sees the
/// old word or the new one, never a mixture.
#[derive(Debug)]
pub(super) struct Words {
    base: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to this value alone, and is written through atomics.
unsafe impl Send for Words {}

impl Words {
    /// Maps `len` words of a `BPF_F_MMAPABLE` array whose values are a whole number of words.
    pub(super) fn map(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len * size_of::<u64>();
        // SAFETY: a fresh shared mapping of a file descriptor we hold; the kernel checks its length.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { base, len })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word {index} of {}", self.len);
        // SAFETY: inside the mapping, aligned (mappings start at pages), alive as long as `self`.
        unsafe { self.base.add(index).as_ref() }
    }

    pub(super) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length; no reference into it outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len * size_of::<u64>()) };
    }
}
