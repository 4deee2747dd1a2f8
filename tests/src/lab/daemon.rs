//! Sluice in the lab: started as an operator starts it, asked over its admin socket, stopped by a signal.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use sluice::api::client::Client;
use sluice::api::types::{Health, Status};

use super::netns::NetNs;
use super::process::Process;
use super::{Backend, Lab, netns, signals, slowness};

/// How Sluice is run.
#[derive(Clone, Debug)]
pub enum Launcher {
    /// This binary.
    Binary(PathBuf),
    /// An OCI image that has `sluice` in its PATH and as its entry point.
    Container {
        /// The engine and the options before its verb: `podman --runtime runc`.
        engine: Vec<String>,
        image: String,
    },
}

impl Launcher {
    /// The binary beside the running test or demo, as cargo builds it; `SLUICE_BIN` names another one.
    pub fn beside_us() -> Result<Self> {
        if let Some(path) = std::env::var_os("SLUICE_BIN") {
            return Ok(Self::Binary(path.into()));
        }
        let us = std::env::current_exe()?;
        let found = us.ancestors().skip(1).take(2).map(|dir| dir.join("sluice")).find(|path| path.is_file());
        found.map(Self::Binary).with_context(|| {
            format!("there is no `sluice` beside {}; build it with `cargo build`, or set SLUICE_BIN", us.display())
        })
    }

    /// Starts `sluice decap` on a backend's interface; it runs until dropped.
    pub fn decap(&self, lab: &Lab, backend: &Backend) -> Result<Process> {
        self.decap_in(&backend.ns, &lab.dir().join(format!("{}-decap.log", backend.name)))
    }

    /// As [`Self::decap`], on the `eth0` of any namespace.
    pub fn decap_in(&self, ns: &NetNs, log: &Path) -> Result<Process> {
        let Self::Binary(sluice) = self else { bail!("decap runs on backends, from the binary") };
        let mut command = ns.command(sluice)?;
        command.args(["decap", "--interface", "eth0"]);
        let mut decap = Process::start("sluice decap", command, log, Signal::SIGTERM)?;
        let deadline = Instant::now() + Duration::from_secs(10) * slowness();
        while !ns.ip_show("link show dev eth0")?.contains("xdp") {
            if decap.ended().is_some() || Instant::now() > deadline {
                bail!("sluice decap does not attach in {}:\n{}", ns.name(), decap.tail(20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(decap)
    }

    /// `sluice ARGUMENTS`, in `ns` if given. `name` is the container's, `daemon` whether it is the one to start.
    fn command(&self, ns: Option<&NetNs>, name: &str, dir: &Path, daemon: bool) -> Result<Command> {
        let command = |program: &OsStr| match ns {
            Some(ns) => ns.command(program),
            None => Ok(Command::new(program)),
        };
        match self {
            Self::Binary(path) => command(path.as_os_str()),
            Self::Container { engine, image } => {
                let (program, options) = engine.split_first().context("the container engine has no name")?;
                let mut command = command(OsStr::new(program))?;
                command.args(options);
                if daemon {
                    // The lab's directory carries the configuration, the admin socket and the lab's BPF file system.
                    let dir = dir.display();
                    command.args(["run", "--rm", "--replace", "--name", name, "--privileged", "--network", "host"]);
                    command.args(["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]);
                    command.arg("--volume").arg(format!("{dir}:{dir}")).arg(image);
                } else {
                    command.args(["exec", name, "sluice"]);
                }
                Ok(command)
            }
        }
    }
}

/// Where a Sluice runs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub ns: &'a NetNs,
    /// The container's name, if it is one.
    pub name: &'a str,
    /// Its configuration, log and admin socket.
    pub dir: &'a Path,
}

impl<'a> From<&'a Lab> for Place<'a> {
    fn from(lab: &'a Lab) -> Self {
        Self { ns: &lab.lb, name: lab.name(), dir: lab.dir() }
    }
}

/// A running `sluice run`.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    launcher: Launcher,
    name: String,
    dir: PathBuf,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Daemon {
    /// Writes `yaml` to the lab's `sluice.yaml`, starts `sluice run` on it in the lab's `lb`, and waits until it
    /// answers and every backend is up.
    pub fn start(lab: &Lab, launcher: Launcher, yaml: &str) -> Result<Self> {
        let mut daemon = Self::spawn(lab, launcher, yaml)?;
        // A verdict is known before the ring follows it; a request in between may see its backend change.
        daemon.wait("every backend is up and has its share", Duration::from_secs(30), |status| {
            status
                .services
                .iter()
                .flat_map(|s| &s.backends)
                .all(|b| matches!(b.health, Health::Up | Health::Unchecked) && (b.share > 0.0 || b.weight == 0))
        })?;
        Ok(daemon)
    }

    /// As [`Self::start`], without waiting.
    pub fn spawn(lab: &Lab, launcher: Launcher, yaml: &str) -> Result<Self> {
        Self::spawn_in(lab.into(), launcher, yaml)
    }

    /// As [`Self::spawn`], anywhere.
    pub fn spawn_in(place: Place<'_>, launcher: Launcher, yaml: &str) -> Result<Self> {
        let dir = place.dir.to_owned();
        let config = dir.join("sluice.yaml");
        std::fs::write(&config, yaml)?;
        let mut command = launcher.command(Some(place.ns), place.name, &dir, true)?;
        command.arg("run").arg("-c").arg(&config);
        let process = Process::start("sluice", command, &dir.join("sluice.log"), Signal::SIGTERM)?;
        let client = Client::new(&dir.join("admin.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { process, launcher, name: place.name.to_owned(), dir, client, runtime })
    }

    /// Where its configuration is.
    pub fn config(&self) -> PathBuf {
        self.dir.join("sluice.yaml")
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it says about itself, over the admin socket.
    pub fn status(&self) -> Result<Status> {
        Ok(self.runtime.block_on(self.client.status())?)
    }

    /// An error with the end of its log if it is not running any more.
    pub fn alive(&mut self) -> Result<()> {
        match self.process.ended() {
            Some(status) => bail!("sluice ended with {status}; the end of its log:\n{}", self.log(30)),
            None => Ok(()),
        }
    }

    /// Asks for the status until it is as wished; that status.
    pub fn wait(&mut self, what: &str, patience: Duration, wished: impl Fn(&Status) -> bool) -> Result<Status> {
        let patience = patience * slowness();
        let deadline = Instant::now() + patience;
        loop {
            signals::check()?;
            self.alive()?;
            let status = self.status();
            match status {
                Ok(status) if wished(&status) => return Ok(status),
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                Ok(status) => bail!(
                    "after {patience:?} it is not true that {what}; status: {}\nthe end of its log:\n{}",
                    serde_json::to_string(&status)?,
                    self.log(30)
                ),
                Err(e) => {
                    bail!("after {patience:?} sluice does not answer: {e:#}\nthe end of its log:\n{}", self.log(30))
                }
            }
        }
    }

    /// Writes a new configuration over the old one, the way editors do; `sluice reload` makes it count.
    pub fn edit(&self, yaml: &str) -> Result<()> {
        let new = self.dir.join("sluice.yaml.new");
        std::fs::write(&new, yaml)?;
        Ok(std::fs::rename(new, self.config())?)
    }

    /// Runs a verb of the command line against this daemon, and gives back what it printed.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.launcher.command(None, &self.name, &self.dir, false)?;
        command.args(arguments).arg("--socket").arg(self.dir.join("admin.sock"));
        command.output().with_context(|| format!("running sluice {}", arguments.join(" ")))
    }

    /// Runs a verb that must succeed; its standard output.
    pub fn cli_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("sluice {} ended with {}: {out}{err}", arguments.join(" "), output.status);
        }
        Ok(out.into_owned())
    }

    /// The last lines of its log.
    pub fn log(&self, lines: usize) -> String {
        self.process.tail(lines)
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as a crash would, with no chance to tidy up.
    pub fn kill(&mut self) {
        self.process.end();
    }

    /// Stops it in good order.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop(Duration::from_secs(10))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.stop(Duration::from_secs(5));
        if let Launcher::Container { engine, .. } = &self.launcher
            && let Some((program, options)) = engine.split_first()
        {
            // `--rm` removes it, unless the engine itself was killed.
            let _ = netns::run(Command::new(program).args(options).args(["rm", "--force", "--ignore", &self.name]));
        }
    }
}
