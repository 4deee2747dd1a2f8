//! A copy of the checkout, in which one file at a time is a mutant.
//!
//! The trap: cargo believes in modification times. A file is written when its content changes and not otherwise, so a
//! copy is warm from one run to the next.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::judge::Judgement;
use super::object;

#[path = "../../../xtask/src/toolchain.rs"]
mod toolchain;

/// Far beyond what either takes; only a mutant that hangs does.
const HOST_SECONDS: u32 = 60;
const KERNEL_SECONDS: u32 = 900;

#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// The CPU its tests run on.
    cpu: usize,
}

/// The objects of a mutant.
#[derive(Debug)]
pub(super) struct Built {
    directory: PathBuf,
    /// Of what both of them do.
    pub(super) fingerprint: [u8; 32],
}

/// What became of tests that were to end.
#[derive(Debug)]
pub(super) enum Ended<T> {
    Said(T),
    TimedOut,
}

impl Tree {
    /// The copy with this number, made or brought up to date.
    pub(super) fn new(directory: &Path, number: usize) -> Result<Self> {
        // Whole, because cargo and the linker run elsewhere.
        let root = std::path::absolute(directory)?.join(format!("tree-{number}"));
        let checkout = super::checkout();
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        for part in ["Cargo.lock", "lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask"] {
            mirror(&checkout.join(part), &root.join(part)).with_context(|| format!("cannot copy {part}"))?;
        }
        // What a lint forbids is a fault too, and the tests are to find it.
        let manifest = fs::read_to_string(checkout.join("Cargo.toml"))?.replace("\"deny\"", "\"warn\"");
        write(&root.join("Cargo.toml"), manifest.as_bytes())?;
        let cpus = std::thread::available_parallelism()?.get();
        Ok(Self { root, cpu: number % cpus })
    }

    pub(super) fn put(&self, file: &str, source: &str) -> Result<()> {
        write(&self.root.join(file), source.as_bytes()).with_context(|| format!("cannot write {file}"))
    }

    /// Whether `lb-common` builds and its own tests pass; `None` if it does not build.
    pub(super) fn host_tests(&self) -> Result<Option<Ended<bool>>> {
        let cargo = |run: &[&str]| {
            let mut command = Command::new("timeout");
            command.args(["--kill-after=5", &HOST_SECONDS.to_string()]);
            command.arg(std::env::var_os("CARGO").as_deref().unwrap_or(OsStr::new("cargo")));
            command.args(["test", "--quiet", "--offline", "--package", "lb-common", "--lib"]).args(run);
            command.current_dir(&self.root).env("CARGO_TARGET_DIR", self.root.join("target"));
            // Said by cargo to what it runs; a compiler that inherits our library path may load the wrong libLLVM.
            command.env_remove("LD_LIBRARY_PATH").env_remove("CARGO_MANIFEST_DIR").env("RUST_BACKTRACE", "0");
            ended(&mut command)
        };
        match cargo(&["--no-run"])? {
            Ended::Said(output) if output.status.success() => {}
            _ => return Ok(None),
        }
        Ok(Some(match cargo(&[])? {
            Ended::Said(output) => Ended::Said(output.status.success()),
            Ended::TimedOut => Ended::TimedOut,
        }))
    }

    /// The objects; `Err` in the inside is what the compiler said.
    pub(super) fn objects(&self) -> Result<std::result::Result<Built, String>> {
        let target = toolchain::Target { little_endian: cfg!(target_endian = "little"), arch: std::env::consts::ARCH };
        let target_dir = self.root.join("target/bpf");
        fs::create_dir_all(&target_dir)?;
        let built = toolchain::build("lb-ebpf", &self.root, &target_dir, target, false, &mut |_| {});
        let directory = match built {
            Ok(directory) => directory,
            Err(why) => return Ok(Err(format!("{why:#}"))),
        };
        let mut hash = Sha256::new();
        for name in ["sluice-xdp", "sluice-decap"] {
            hash.update(object::fingerprint(&directory.join(name))?);
        }
        Ok(Ok(Built { directory, fingerprint: hash.finalize().into() }))
    }

    /// What the tests in the kernel say, run by another process of this program.
    pub(super) fn judge(&self, built: &Built) -> Result<Ended<Judgement>> {
        // SAFETY: geteuid cannot fail and touches nothing.
        let root = unsafe { libc::geteuid() } == 0;
        let mut command = if root {
            Command::new("timeout")
        } else {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "timeout"]);
            sudo
        };
        command.args(["--kill-after=5", &KERNEL_SECONDS.to_string()]).arg(std::env::current_exe()?);
        command.arg("--judge").arg(&built.directory).args(["--cpu", &self.cpu.to_string()]);
        match ended(&mut command)? {
            Ended::TimedOut => Ok(Ended::TimedOut),
            Ended::Said(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                match Judgement::told(output.status.code(), &said) {
                    Some(judgement) => Ok(Ended::Said(judgement)),
                    None => bail!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
                }
            }
        }
    }
}

/// Runs a command that starts with `timeout`.
fn ended(command: &mut Command) -> Result<Ended<Output>> {
    let output = command.stdin(Stdio::null()).output().context("cannot run `timeout`; install coreutils")?;
    Ok(if output.status.code() == Some(124) { Ended::TimedOut } else { Ended::Said(output) })
}

/// Makes `to` what `from` is, without what is built.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return write(to, &fs::read(from)?);
    }
    fs::create_dir_all(to)?;
    let names = |dir: &Path| -> io::Result<Vec<_>> { fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect() };
    let wanted: Vec<_> = names(from)?.into_iter().filter(|name| name != "target").collect();
    for name in names(to)?.into_iter().filter(|name| !wanted.contains(name)) {
        let old = to.join(name);
        if old.is_dir() { fs::remove_dir_all(old)? } else { fs::remove_file(old)? }
    }
    wanted.iter().try_for_each(|name| mirror(&from.join(name), &to.join(name)))
}

/// Writes a file unless it is so already.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content)
}
