//! The few kernel calls aya does not make: a batch update, memory-mapped arrays, maps as plain bytes, and links.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_GET_FD_BY_ID: libc::c_long = 14;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
/// `flags` of an update that must not replace an element.
pub(super) const NOEXIST: u64 = 1;
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

/// `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info` for an XDP link.
#[repr(C)]
#[derive(Default)]
struct XdpLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    ifindex: u32,
    padding2: u32,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attributes` is a `repr(C)` prefix of `union bpf_attr`, alive for the call; pointers inside are the
    // callers' and outlive it too.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A descriptor of the map with this id: what a lookup in a map of maps tells.
pub(super) fn map_by_id(id: u32) -> io::Result<OwnedFd> {
    // `map_id`, `next_id`, `open_flags`.
    let fd = bpf(BPF_MAP_GET_FD_BY_ID, &mut [id, 0, 0])?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The value under a `u32` key where values are `u32` too, as those of a map of maps are to a reader: the id of the
/// inner map. `None` where there is none.
pub(super) fn lookup_u32(map: BorrowedFd<'_>, key: u32) -> io::Result<Option<u32>> {
    let mut value = [0; 4];
    Ok(lookup(map, &key.to_ne_bytes(), &mut value)?.then(|| u32::from_ne_bytes(value)))
}

/// Copies the value under `key` to `value`; says whether there is one. Both must be as long as the map's, and a per-CPU
/// map's value as long as all CPUs' together.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..Element::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut element) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes one element, as [`lookup`] reads it.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        flags,
        ..Element::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut element).map(drop)
}

/// Every key there was when the walk came by. A key that is removed meanwhile may start the walk of a hash map anew,
/// so a key may come twice; the walk ends after `most` steps.
pub(super) fn keys(map: BorrowedFd<'_>, key_size: usize, most: usize) -> io::Result<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut next = vec![0; key_size];
    while keys.len() < most {
        // `next_key` is where `value` is.
        let mut element = Element {
            map_fd: map.as_raw_fd() as u32,
            key: keys.last().map_or(0, |key| key.as_ptr() as u64),
            value: next.as_mut_ptr() as u64,
            ..Element::default()
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut element) {
            Ok(_) => keys.push(next.clone()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        }
    }
    Ok(keys)
}

/// `union bpf_attr` for pins.
#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// What is pinned at `path`: a map, a program or a link.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, &mut Pin { path: path.as_ptr() as u64, ..Pin::default() })?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Pins a map, a program or a link.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = object.as_raw_fd() as u32;
    bpf(BPF_OBJ_PIN, &mut Pin { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
}

/// Two paths change places, in one step. By number: not every C library has a function for it.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let (one, other) = (CString::new(one.as_os_str().as_bytes())?, CString::new(other.as_os_str().as_bytes())?);
    // SAFETY: two NUL-terminated paths that outlive the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts another program into a link: from one packet to the next, never without one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // `link_fd`, `new_prog_fd`, `flags`, `old_prog_fd`.
    bpf(BPF_LINK_UPDATE, &mut [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0]).map(drop)
}

/// What the kernel says of an XDP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkState {
    pub id: u32,
    pub program: u32,
    /// 0 once the interface is gone.
    pub ifindex: u32,
}

/// `None` if it is no XDP link.
pub(super) fn link_state(link: BorrowedFd<'_>) -> io::Result<Option<LinkState>> {
    /// `BPF_LINK_TYPE_XDP`.
    const XDP: u32 = 6;
    let mut info = XdpLinkInfo::default();
    let mut request = InfoByFd {
        fd: link.as_raw_fd() as u32,
        length: size_of::<XdpLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok((info.kind == XDP).then_some(LinkState { id: info.id, program: info.program, ifindex: info.ifindex }))
}

/// Takes the program off the interface, now. Letting go of the last reference does the same, but some time later when
/// that reference was a pin.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut [link.as_raw_fd() as u32, 0]).map(drop)
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
        Ok(_) => return Ok(()),
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

/// The next entries of a hash map, `keys.len() / key_size` of them at most: how many there were, and where the next ones
/// begin; `None` after the last. Whoever is in the map throughout a walk is seen once; others once or not at all.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    key_size: usize,
    keys: &mut [u8],
    values: &mut [u8],
) -> io::Result<(usize, Option<u32>)> {
    let token = from.unwrap_or(0);
    let mut next = 0_u32;
    let mut batch = Batch {
        in_batch: if from.is_some() { std::ptr::from_ref(&token) as u64 } else { 0 },
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: (keys.len() / key_size) as u32,
        map_fd: map.as_raw_fd() as u32,
        ..Batch::default()
    };
    match bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => Ok((batch.count as usize, Some(next))),
        // The end was met; what came before it is there.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok((batch.count as usize, None)),
        Err(e) => Err(e),
    }
}

/// Empties a slot of an outer map.
pub(super) fn delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut element =
        Element { map_fd: map.as_raw_fd() as u32, key: std::ptr::from_ref(&key) as u64, ..Element::default() };
    bpf(BPF_MAP_DELETE_ELEM, &mut element).map(drop)
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

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes `new` where `expected` still is; whether it was.
    pub(super) fn exchange(&self, index: usize, expected: u64, new: u64) -> bool {
        self.word(index).compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Adds, modulo 2^64.
    pub(super) fn add(&self, index: usize, by: u64) {
        self.word(index).fetch_add(by, Ordering::AcqRel);
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
