//! A network namespace, and ways to do things inside it: on a thread of its own, or as a process.
//!
//! The trap is `ip netns exec`: it remounts `/sys`, and every BPF pin made outside is suddenly not there. Here a
//! thread or a child enters the network namespace alone with `setns` and keeps everything else.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace under `/run/netns`. It is removed by its lab's [`super::home::Home`], not by `Drop`:
/// one place removes everything, whoever made it.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes the namespace and brings its loopback up. IPv6 addresses work at once (no duplicate address
    /// detection), no router is asked for anything, and reverse-path filtering is off: direct server return is
    /// asymmetric on purpose.
    pub fn create(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let file = File::open(Path::new("/run/netns").join(&name)).with_context(|| format!("opening {name}"))?;
        let ns = Self { name, file };
        ns.sysctl(&[
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/default/send_redirects", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/dad_transmits", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
            ("net/ipv6/conf/default/router_solicitations", "0"),
        ])?;
        ns.ip("link set lo up\n")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted, for `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and gives back what it returns. Sockets opened there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter()?;
                Ok(work())
            });
            match inside.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering namespace {}", self.name))
    }

    /// A second handle to the same namespace, for a thread that outlives the borrow.
    pub fn handle(&self) -> Result<Self> {
        Ok(Self { name: self.name.clone(), file: self.file.try_clone()? })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.file.try_clone()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only `setns` is called, which is a bare system call.
        unsafe {
            command.pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        Ok(command)
    }

    /// Runs a batch of `ip` commands inside the namespace, one per line.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.ip_with(&[], batch)
    }

    /// As [`Self::ip`], for the few commands that do not see from an address that they are about IPv6.
    pub fn ip6(&self, batch: &str) -> Result<()> {
        self.ip_with(&["-6"], batch)
    }

    fn ip_with(&self, options: &[&str], batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(options)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting `ip` (package iproute2)")?;
        child.stdin.take().context("`ip` has no stdin")?.write_all(batch.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("`ip` in {} refused:\n{batch}{}", self.name, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// What one `ip` command prints.
    pub fn ip_show(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        run(&mut command)
    }

    /// Writes sysctls of the namespace: `("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                // `/proc/sys/net` shows the namespace of the thread that looks.
                let path = Path::new("/proc/sys").join(key);
                std::fs::write(&path, value).with_context(|| format!("writing {value} to {}", path.display()))?;
            }
            Ok(())
        })?
    }
}

/// Runs a command to its end; what it printed, or an error that shows the command and its complaint.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting `{}`: is it installed?", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
