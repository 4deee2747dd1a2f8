//! Where programs and maps are pinned: a directory on a bpffs, ours alone.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;

use super::error::DataplaneError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: i128 = 0xcafe_4a11;
/// Where a bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Makes the directory, mounting the bpffs when `/sys/fs/bpf` has none, and removes what a dead controller left.
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
    remove(dir)?;
    fs::create_dir_all(dir.join("maps")).map_err(|e| {
        if e.kind() == io::ErrorKind::PermissionDenied { DataplaneError::NotPermitted } else { failed(e.to_string()) }
    })?;
    if on_bpffs(dir) { Ok(()) } else { Err(failed("it is not on a bpffs".into())) }
}

/// Removes every pin and the directory.
pub fn remove(dir: &Path) -> Result<(), DataplaneError> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(DataplaneError::NotPermitted),
        Err(e) => Err(DataplaneError::Directory { path: dir.to_owned(), why: e.to_string() }),
    }
}

fn on_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| i128::from(fs.filesystem_type().0) == BPF_FS_MAGIC)
}
