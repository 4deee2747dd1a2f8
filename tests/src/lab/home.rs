//! Where a lab lives and how it is removed: always, also by the next run when this one was killed.
//!
//! Everything a lab makes on the host carries its name, `slc-PID-N`: a directory under `/run/sluice-lab` (logs,
//! configuration, a bpffs of its own) and its namespaces. Whoever holds the lock on `NAME.lock` owns it all. The
//! kernel lets go of that lock when the owner dies, however it dies, so a lab whose lock is free belongs to nobody
//! and is swept. A process id alone would not do: it may have been given to somebody else since.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::run;

const LABS: &str = "/run/sluice-lab";
const NETNS: &str = "/run/netns";

/// Names of this process's labs, for the signal handler.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A lab's directory and its claim on the name.
#[derive(Debug)]
pub struct Home {
    name: String,
    dir: PathBuf,
    /// Held until everything is removed.
    _claim: Flock<File>,
}

impl Home {
    /// Sweeps what dead runs left, then claims a fresh name.
    pub fn claim() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(LABS).with_context(|| format!("making {LABS}"))?;
        sweep();
        let name = format!("slc-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let claim = claim(&name)?;
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        let home = Self { dir: Path::new(LABS).join(&name), name, _claim: claim };
        fs::create_dir_all(home.bpf_root()).with_context(|| format!("making {}", home.dir.display()))?;
        mount(Some("bpf"), &home.bpf_root(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting a BPF file system on {}", home.bpf_root().display()))?;
        Ok(home)
    }

    /// `slc-PID-N`, the prefix of every namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Logs, configuration, sockets.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A BPF file system of the lab's own: pins go with it, and it is there on hosts that mount none.
    pub fn bpf_root(&self) -> PathBuf {
        self.dir.join("bpf")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.name);
        LIVE.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Removes every lab of this process; for the signal handler, which ends the process afterwards.
pub fn remove_all_of_this_process() {
    let names = LIVE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for name in names {
        remove(&name);
    }
}

/// Removes labs whose owner is gone.
fn sweep() {
    let Ok(entries) = fs::read_dir(LABS) else { return };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(name) = file.to_str().and_then(|f| f.strip_suffix(".lock")) else { continue };
        if let Ok(Some(_claim)) = lock(name, false) {
            remove(name);
        }
    }
}

/// The lock of a new lab. Another run's sweep may see the file before we hold its lock, take it for a leftover and
/// remove it; then there is a new file to lock.
fn claim(name: &str) -> Result<Flock<File>> {
    for _ in 0..200 {
        if let Some(claim) = lock(name, true)? {
            return Ok(claim);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("{LABS}/{name}.lock is in use")
}

/// The lock of a lab, or `None` if somebody else has it.
fn lock(name: &str, create: bool) -> Result<Option<Flock<File>>> {
    let path = Path::new(LABS).join(format!("{name}.lock"));
    let file = match File::options().read(true).write(true).create(create).truncate(false).open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
    };
    let Ok(claim) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { return Ok(None) };
    // Its owner may have removed the file between our open and our lock; then it names nothing any more.
    let current = fs::metadata(&path).map(|m| m.ino()).ok();
    Ok((current == claim.metadata().map(|m| m.ino()).ok()).then_some(claim))
}

/// Removes everything named after `name`. Keeps going on errors: whatever can go, goes.
fn remove(name: &str) {
    let namespaces: Vec<PathBuf> = fs::read_dir(NETNS)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(&format!("{name}-"))))
        .map(|e| e.path())
        .collect();
    end_processes_in(&namespaces);
    for path in &namespaces {
        if let Some(namespace) = path.file_name() {
            let _ = run(Command::new("ip").args(["netns", "del"]).arg(namespace));
        }
    }
    let dir = Path::new(LABS).join(name);
    let _ = umount2(&dir.join("bpf"), MntFlags::MNT_DETACH);
    let _ = fs::remove_dir_all(&dir);
    let _ = fs::remove_file(Path::new(LABS).join(format!("{name}.lock")));
}

/// Ends processes that live in these namespaces. They are the lab's: nobody else knows these namespaces.
fn end_processes_in(namespaces: &[PathBuf]) {
    let inodes: BTreeSet<u64> = namespaces.iter().filter_map(|p| fs::metadata(p).ok()).map(|m| m.ino()).collect();
    if inodes.is_empty() {
        return;
    }
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let lives_there = fs::metadata(entry.path().join("ns/net")).is_ok_and(|m| inodes.contains(&m.ino()));
        if lives_there && pid.unsigned_abs() != std::process::id() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
