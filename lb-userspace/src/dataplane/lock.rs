//! One controller per host: a lock file that names its holder and is released by the kernel when it dies.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::error::DataplaneError;

/// Held as long as the controller runs.
#[derive(Debug)]
pub struct HostLock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Takes the lock, or says who has it.
pub fn acquire(run_dir: &Path) -> Result<HostLock, DataplaneError> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::PermissionDenied => DataplaneError::NotPermitted,
        _ => DataplaneError::Directory { path: run_dir.to_owned(), why: e.to_string() },
    };
    fs::create_dir_all(run_dir).map_err(failed)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(run_dir.join("lock"))
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0)?;
            held.rewind()?;
            writeln!(held, "{}", std::process::id())?;
            Ok(HostLock(held))
        }
        Err((mut file, _)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let holder = if pid.trim().is_empty() { String::new() } else { format!(" (pid {})", pid.trim()) };
            Err(DataplaneError::Locked(holder))
        }
    }
}
