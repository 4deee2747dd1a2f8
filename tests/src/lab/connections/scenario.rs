//! One fleet of connections, and a script of changes that must not be felt by any of them.
//!
//! A step makes its change, then keeps watching until every connection has asked several times. The table says for
//! each step what broke *while it was watched*; the verdict at the end holds all records of both ends together. Steps go
//! on after a broken connection: which later changes break more is worth knowing, and the verdict forgets nothing.

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use sluice::api::types::{BackendStatus, Health, Status};
use sluice::model::BackendState;

use super::PORT;
use super::check::{Verdict, broken, report};
use super::config::Config;
use super::fleet::{Connection, Counts, Fleet, Plan};
use super::kernel::Tcp;
use super::log::Log;
use super::placement::SECRET;
use super::servers::{Ended, Servers};
use super::site::{Site, VIP};
use super::sniff;
use crate::lab::daemon::{Daemon, Launcher, Place};
use crate::lab::{process::Process, signals};

/// How long thousands of new backends may take until all of them are up.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a step is watched: four requests of each connection at a request a second.
pub const WATCH: Duration = Duration::from_secs(4);

/// How many rows of each kind the rings of a node have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub steady: u64,
    pub moving: u64,
    pub exceptions: u64,
}

impl Rows {
    fn of(status: &Status) -> Self {
        let mut sum = Self::default();
        for ring in status.services.iter().flat_map(|s| &s.rings) {
            sum.steady += u64::from(ring.rows_steady);
            sum.moving += u64::from(ring.rows_moving);
            sum.exceptions += u64::from(ring.rows_exceptions);
        }
        sum
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
struct Line {
    step: String,
    took: Duration,
    /// Connections that were opened in it.
    opened: u32,
    answers: u64,
    broken: u32,
    moved: u32,
    /// RSTs of the hosts' kernels, also to health checks and after the end.
    resets: u64,
    retransmitted: u64,
    slowest: Duration,
}

/// Everything that runs.
#[derive(Debug)]
pub struct Scenario {
    // Fields are dropped in this order.
    fleet: Option<Fleet>,
    pub daemons: Vec<Daemon>,
    /// Nodes whose controller is not to run now.
    stopped: BTreeSet<usize>,
    _decap: Vec<Process>,
    pub servers: Servers,
    pub config: Config,
    pub log: Log,
    lines: Vec<Line>,
    pub site: Site,
}

/// What counts up, at one moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    counts: Counts,
    hosts: Tcp,
    clients: Tcp,
}

impl Scenario {
    /// Builds the site, starts servers, unwraps tunnels where the configuration wants it, and waits until every node
    /// has every backend up. `change` makes the configuration what this scenario needs.
    pub fn start(nodes: usize, backends: u16, change: impl FnOnce(&mut Config)) -> Result<Self> {
        let site = Site::new(nodes)?;
        let servers = Servers::start(&site.hosts)?;
        let mut config = Config::new(site.dir(), backends);
        change(&mut config);
        let secret: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&config.hash_key, secret)?;
        let launcher = Launcher::beside_us()?;
        let mut decap = Vec::new();
        if config.forward != "nat" {
            site.direct_return()?;
            for (h, host) in site.hosts.iter().enumerate() {
                decap.push(launcher.decap_in(host, &site.dir().join(format!("h{h}-decap.log")))?);
            }
        }
        let mut scenario = Self {
            fleet: None,
            daemons: Vec::new(),
            stopped: BTreeSet::new(),
            _decap: decap,
            servers,
            config,
            log: Log::new(),
            lines: Vec::new(),
            site,
        };
        for node in 0..nodes {
            let daemon = scenario.launch(node)?;
            scenario.daemons.push(daemon);
        }
        scenario.in_force()?;
        Ok(scenario)
    }

    /// Starts Sluice on a node, as its operator would, and does not wait.
    fn launch(&self, node: usize) -> Result<Daemon> {
        let node = &self.site.nodes[node];
        let place = Place { ns: &node.ns, name: self.site.name(), dir: &node.dir };
        Daemon::spawn_in(place, Launcher::beside_us()?, &self.config.yaml(node))
    }

    /// Opens the connections that stay, half of them to the IPv4 address, and waits until each was answered.
    pub fn open(&mut self, connections: u32) -> Result<()> {
        self.open_as(connections, |_| {})
    }

    /// As [`Self::open`], with another plan.
    pub fn open_as(&mut self, connections: u32, change: impl FnOnce(&mut Plan)) -> Result<()> {
        let mut plan = Plan::new(connections, VIP.both().map(|ip| SocketAddr::new(ip, PORT)).to_vec());
        change(&mut plan);
        self.log.note(format!("{} connections open", plan.connections));
        let before = Mark {
            at: Instant::now(),
            counts: Counts::default(),
            hosts: Tcp::of(&self.site.hosts)?,
            clients: Tcp::of(&self.site.clients)?,
        };
        self.fleet = Some(Fleet::settle(&self.site.clients, plan)?);
        self.write_line("open", before)
    }

    pub fn fleet(&self) -> Result<&Fleet> {
        self.fleet.as_ref().context("no connections were opened")
    }

    /// Every connection so far.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        Ok(self.fleet()?.connections())
    }

    fn mark(&self) -> Result<Mark> {
        Ok(Mark {
            at: Instant::now(),
            counts: self.fleet()?.lap(),
            hosts: Tcp::of(&self.site.hosts)?,
            clients: Tcp::of(&self.site.clients)?,
        })
    }

    fn write_line(&mut self, step: &str, before: Mark) -> Result<()> {
        let after = self.mark()?;
        self.lines.push(Line {
            step: step.to_owned(),
            took: after.at - before.at,
            opened: after.counts.connections - before.counts.connections,
            answers: after.counts.answers - before.counts.answers,
            broken: after.counts.broken - before.counts.broken,
            moved: after.counts.moved - before.counts.moved,
            resets: after.hosts.resets_sent - before.hosts.resets_sent,
            retransmitted: after.clients.retransmitted - before.clients.retransmitted,
            slowest: after.counts.slowest,
        });
        Ok(())
    }

    /// Makes a change, then watches the connections for `watch`.
    pub fn step_for(
        &mut self,
        watch: Duration,
        what: &str,
        change: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let before = self.mark()?;
        self.log.note(what);
        change(self).with_context(|| format!("step `{what}`"))?;
        std::thread::sleep(watch);
        signals::check()?;
        for node in self.running() {
            self.daemons[node].alive()?;
        }
        self.write_line(what, before)
    }

    /// Makes a change, then watches the connections until each has asked a few times.
    pub fn step(&mut self, what: &str, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.step_for(WATCH, what, change)
    }

    /// Nodes whose controller runs.
    fn running(&self) -> Vec<usize> {
        (0..self.daemons.len()).filter(|node| !self.stopped.contains(node)).collect()
    }

    /// Writes the configuration as it is now on every node and reloads it, without waiting for what comes of it.
    pub fn reload(&mut self) -> Result<()> {
        for node in self.running() {
            self.daemons[node].edit(&self.config.yaml(&self.site.nodes[node]))?;
        }
        for node in self.running() {
            self.daemons[node].cli_ok(&["reload"])?;
        }
        Ok(())
    }

    /// Reloads, and waits until every node does what the configuration says.
    pub fn apply(&mut self) -> Result<()> {
        self.reload()?;
        self.in_force()
    }

    /// Waits until every node does what the configuration says: all backends up, with their shares.
    pub fn in_force(&mut self) -> Result<()> {
        let backends =
            self.config.backends.len() + self.config.backends.keys().filter(|&&n| n < self.config.dual_stack).count();
        for node in self.running() {
            self.wait(node, "the configuration is in force", PATIENCE, |status| {
                let all = || status.services.iter().flat_map(|s| &s.backends);
                all().filter(|b| !b.leaving).count() == backends && all().all(as_configured)
            })?;
        }
        Ok(())
    }

    /// Asks a node for its status until it is as wished.
    pub fn wait(
        &mut self,
        node: usize,
        what: &str,
        patience: Duration,
        wished: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let deadline = Instant::now() + patience;
        // Thousands of backends make a long status: not too often.
        let pace = Duration::from_millis(if self.config.backends.len() < 100 { 5 } else { 50 });
        let daemon = &mut self.daemons[node];
        loop {
            signals::check()?;
            daemon.alive()?;
            match daemon.status() {
                Ok(status) if wished(&status) => return Ok(status),
                _ if Instant::now() < deadline => std::thread::sleep(pace),
                Ok(status) => {
                    let all = status.services.iter().flat_map(|s| &s.backends);
                    let odd: Vec<&BackendStatus> = all.filter(|b| !as_configured(b)).take(5).collect();
                    bail!(
                        "after {patience:?} it is not true that {what}; rings {:?}, not as configured {odd:?}\n\
                         the end of its log:\n{}",
                        status.services.iter().flat_map(|s| &s.rings).collect::<Vec<_>>(),
                        daemon.log(20)
                    )
                }
                Err(e) => bail!("after {patience:?} sluice does not answer: {e:#}\n{}", daemon.log(20)),
            }
        }
    }

    /// The rows of a node's rings by kind.
    pub fn rows(&self, node: usize) -> Result<Rows> {
        Ok(Rows::of(&self.daemons[node].status()?))
    }

    /// Waits until a node's rows are as wished, and says what they are.
    pub fn wait_rows(&mut self, what: &str, patience: Duration, wished: impl Fn(Rows) -> bool) -> Result<Rows> {
        let status = self.wait(0, what, patience, |status| wished(Rows::of(status)))?;
        let rows = Rows::of(&status);
        self.log.note(format!("{what}: {rows:?}"));
        Ok(rows)
    }

    /// Ends a node's controller, as a crash would.
    pub fn kill(&mut self, node: usize) {
        self.stopped.insert(node);
        self.daemons[node].kill();
    }

    /// Ends a node's controller in good order.
    pub fn stop(&mut self, node: usize) -> Result<()> {
        self.stopped.insert(node);
        let status = self.daemons[node].stop()?;
        anyhow::ensure!(status.success(), "sluice ended with {status}:\n{}", self.daemons[node].log(20));
        Ok(())
    }

    /// Starts the controller of a node again, and waits until it does what the configuration says.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        // The last life's log is kept beside the new one's.
        let log = self.site.nodes[node].dir.join("sluice.log");
        let kept = (1..).map(|n| log.with_extension(format!("{n}.log"))).find(|path| !path.exists());
        std::fs::rename(&log, kept.context("a name for the old log")?)?;
        self.daemons[node] = self.launch(node)?;
        self.stopped.remove(&node);
        self.in_force()
    }

    /// Sends a node's controller a signal.
    pub fn signal(&mut self, node: usize, signal: Signal) {
        self.daemons[node].signal(signal);
    }

    /// Closes all connections, and judges. Prints the table, and on failure the stories of what broke.
    pub fn verdict(&mut self) -> Result<Verdict> {
        let before = self.mark()?;
        self.log.note("all connections close");
        let fleet = self.fleet.take().context("no connections were opened")?;
        let counts = fleet.counts();
        let clients = fleet.stop()?;
        // The servers' ends follow by the time a packet takes.
        let deadline = Instant::now() + Duration::from_secs(3);
        let gone: HashSet<u32> = clients.iter().filter(|c| broken(c).is_some()).map(|c| c.number).collect();
        let mut servers = self.servers.records();
        while Instant::now() < deadline
            && servers.iter().any(|a| a.ended.is_none() && a.connection.is_none_or(|c| !gone.contains(&c)))
        {
            std::thread::sleep(Duration::from_millis(20));
            servers = self.servers.records();
        }
        let hosts = Tcp::of(&self.site.hosts)?;
        let now_broken = clients.iter().filter(|c| broken(c).is_some()).count() as u32;
        self.lines.push(Line {
            step: "close".into(),
            took: before.at.elapsed(),
            opened: clients.len() as u32 - before.counts.connections,
            answers: clients.iter().map(|c| u64::from(c.answered)).sum::<u64>() - before.counts.answers,
            broken: now_broken - before.counts.broken,
            moved: clients.iter().map(|c| c.moved.len() as u32).sum::<u32>() - before.counts.moved,
            resets: hosts.resets_sent - before.hosts.resets_sent,
            retransmitted: Tcp::of(&self.site.clients)?.retransmitted - before.clients.retransmitted,
            slowest: counts.slowest,
        });
        self.site.finish_captures();
        let resets = sniff::resets(&sniff::read(self.site.dir(), "ends")?);
        let verdict = Verdict::of(&clients, &servers, resets);
        print!("{}", self.table());
        println!("{verdict}");
        if !verdict.is_clean() {
            print!("{}", report(&verdict, &clients, &servers, &self.log));
            let left = servers.iter().filter(|a| a.ended.is_none()).count();
            let reset = servers.iter().filter(|a| matches!(a.ended, Some(Ended::Broken(_)))).count();
            println!("of the servers' {} connections {left} are still open and {reset} were reset", servers.len());
        }
        Ok(verdict)
    }

    fn table(&self) -> String {
        let width = self.lines.iter().map(|l| l.step.chars().count()).max().unwrap_or(0).max(4);
        let mut out = format!(
            "{:width$} {:>7} {:>7} {:>8} {:>7} {:>6} {:>6} {:>8} {:>9}\n",
            "step", "seconds", "opened", "answers", "broken", "moved", "RSTs", "retrans.", "slowest"
        );
        for l in &self.lines {
            out += &format!(
                "{:width$} {:>7.1} {:>7} {:>8} {:>7} {:>6} {:>6} {:>8} {:>6} ms\n",
                l.step,
                l.took.as_secs_f64(),
                l.opened,
                l.answers,
                l.broken,
                l.moved,
                l.resets,
                l.retransmitted,
                l.slowest.as_millis()
            );
        }
        out
    }
}

/// A backend has what the configuration promises: it is up, and new flows come exactly if they may.
fn as_configured(backend: &BackendStatus) -> bool {
    let wanted = backend.weight > 0 && backend.state == BackendState::Active && !backend.leaving;
    matches!(backend.health, Health::Up | Health::Unchecked) && (backend.share > 0.0) == wanted
}
