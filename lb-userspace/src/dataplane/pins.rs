//! Where everything is pinned: a directory on a bpffs, ours alone.
//!
//! ```text
//! node.bpf_dir/
//!   maps/NAME        the maps that the program in the links works with
//!   maps/state       what the controller knows and the maps do not say (see [`super::state`])
//!   maps-new/NAME    those of a start under way whose maps differ, until they change places with maps/
//!   links/IFINDEX    the program on an interface
//!   programs/sluice  that program
//! ```
//!
//! The kernel keeps what is pinned, with or without a controller. Nothing survives a reboot.
//!
//! The trap: a bpffs refuses names with a dot in them, and says EPERM.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use super::error::DataplaneError;
use super::sys;

pub const MAPS: &str = "maps";
pub const NEW_MAPS: &str = "maps-new";
pub const LINKS: &str = "links";
pub const PROGRAMS: &str = "programs";

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;
/// Where a bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Makes the directories, mounting the bpffs when `/sys/fs/bpf` has none. What is pinned there stays.
pub fn prepare(dir: &Path) -> Result<(), DataplaneError> {
    let failed = |why: String| DataplaneError::Directory { path: dir.to_owned(), why };
    if dir.starts_with(BPFFS) && !on_bpffs(Path::new(BPFFS)) {
        fs::create_dir_all(BPFFS).map_err(|e| failed(e.to_string()))?;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(|e| {
            if e == nix::errno::Errno::EPERM {
                DataplaneError::NotPermitted
            } else {
                failed(format!("no bpffs is mounted, and mounting one failed: {e}"))
            }
        })?;
    }
    for part in [MAPS, LINKS, PROGRAMS] {
        fs::create_dir_all(dir.join(part)).map_err(|e| {
            if e.kind() == io::ErrorKind::PermissionDenied {
                DataplaneError::NotPermitted
            } else {
                failed(e.to_string())
            }
        })?;
    }
    if on_bpffs(dir) { Ok(()) } else { Err(failed("it is not on a bpffs".into())) }
}

/// Removes every pin and the directory. What is attached by a pinned link is detached some time later, when the kernel
/// gets to it.
pub fn remove(dir: &Path) -> Result<(), DataplaneError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(DataplaneError::NotPermitted),
        Err(e) => Err(DataplaneError::Directory { path: dir.to_owned(), why: e.to_string() }),
    }
}

/// The pins in a directory; none if there is no directory.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let failed = |e: io::Error| DataplaneError::Directory { path: dir.to_owned(), why: e.to_string() };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// Pins an object in place of whatever was pinned at `path`: everybody sees the old one or the new one.
pub(super) fn replace(object: BorrowedFd<'_>, fresh: &Path, path: &Path) -> Result<(), DataplaneError> {
    let pinned = || {
        match fs::remove_file(fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        sys::pin(object, fresh)?;
        fs::rename(fresh, path)
    };
    pinned().map_err(|e| DataplaneError::Directory { path: path.to_owned(), why: format!("pinning: {e}") })
}

/// Pins that make room for new ones of the same names: they come back unless they are forgotten.
#[derive(Debug)]
pub(super) struct SetAside {
    /// Where it was, and where it is.
    pins: Vec<(PathBuf, PathBuf)>,
}

impl SetAside {
    pub(super) fn new(dir: &Path, names: &[&str]) -> Result<Self, DataplaneError> {
        let mut aside = Self { pins: Vec::new() };
        for name in names {
            let (path, old) = (dir.join(name), dir.join(format!("{name}-old")));
            fs::rename(&path, &old)
                .map_err(|e| DataplaneError::Directory { path: path.clone(), why: format!("setting it aside: {e}") })?;
            aside.pins.push((path, old));
        }
        Ok(aside)
    }

    /// The new ones are in use.
    pub(super) fn forget(mut self) {
        for (_, old) in std::mem::take(&mut self.pins) {
            // One that stays is removed with the directory, and costs the memory of a table until then.
            let _ = fs::remove_file(old);
        }
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        for (path, old) in &self.pins {
            let _ = fs::rename(old, path);
        }
    }
}

/// The new maps and the old ones change places, in one step.
pub(super) fn exchange_maps(dir: &Path) -> Result<(), DataplaneError> {
    let (old, new) = (dir.join(MAPS), dir.join(NEW_MAPS));
    sys::exchange(&old, &new).map_err(|e| DataplaneError::Directory {
        path: old.clone(),
        why: format!("putting the new maps in their place: {e}"),
    })
}

/// Held as long as a data plane uses the directory, whatever `node.run_dir` its controller has.
#[derive(Debug)]
pub(super) struct DirLock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Takes the directory, or says that somebody has it.
pub(super) fn lock(dir: &Path) -> Result<DirLock, DataplaneError> {
    let file = File::open(dir).map_err(|e| DataplaneError::Directory { path: dir.to_owned(), why: e.to_string() })?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(DirLock(held)),
        Err(_) => Err(DataplaneError::Locked(format!(", with the same node.bpf_dir ({})", dir.display()))),
    }
}

fn on_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| i128::from(fs.filesystem_type().0) == BPF_FS_MAGIC)
}
