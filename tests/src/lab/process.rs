//! A process of the lab: its output in a file, ended when its owner lets go, and when its owner dies.
//!
//! The trap is PR_SET_PDEATHSIG: it fires when the *thread* that started the child ends, not the process. Start
//! processes from a thread that lives as long as the lab.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::unistd::Pid;

/// A running child in a process group of its own, so that a Ctrl-C at the terminal reaches only us and we end it in order.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both its outputs go to `log`. `on_our_death` is what it gets if we vanish.
    pub fn start(name: &str, mut command: Command, log: &Path, on_our_death: Signal) -> Result<Self> {
        let out = File::create(log).with_context(|| format!("making {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
                set_pdeathsig(on_our_death).map_err(Into::into)
            });
        }
        let program = command.get_program().display().to_string();
        let child = command.spawn().with_context(|| format!("starting `{program}`: is it installed?"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal to its group, unless it has ended (its number may be somebody else's by now).
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Asks it to stop and waits; kills it after `patience`.
    pub fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.end();
        anyhow::bail!("{} did not stop within {patience:?} and was killed; see {}", self.name, self.log.display())
    }

    /// The last lines it wrote.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Ends it the way a crash would: at once, with no chance to say goodbye.
    pub fn end(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
