//! The demo: what Sluice does, shown in half a minute to somebody who has never seen it.
//!
//! It proves what it shows. Whether the backend is out is asked of Sluice; whether requests fail is counted at the
//! clients, from the moment Sluice says it is out; and the demo fails when a figure is not what the README promises.

mod figures;
mod summary;
mod view;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use sluice::api::types::{Health, Status};

use crate::lab::config::Config;
use crate::lab::daemon::{Daemon, Launcher};
use crate::lab::signals::{self, Interrupted};
use crate::lab::traffic::{Outcome, Target, Traffic};
use crate::lab::{Lab, VIP};
use figures::Phase;
use summary::{Moments, Summary};
use view::View;

/// Time between two requests of one client; three clients make 300 requests a second.
const PACE: Duration = Duration::from_millis(10);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a run has at least.
const REQUESTS: usize = 5_000;
/// The backend that dies.
const VICTIM: &str = "b2";
/// Seconds until a change of the ring is everybody's: see [`lb_common::rows::GRACE`].
const BITE: u64 = lb_common::rows::GRACE as u64 + 2;

/// The backend whose weight is edited, and its new weight.
const EDITED: (&str, u32) = ("b3", 50);

/// How the demo shows itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// One JSON object, last, on standard output; everything else on standard error.
    pub json: bool,
}

/// Runs the demo and cleans up, whatever happens.
pub fn run(launcher: Result<Launcher>, options: &Options) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("error: the demo makes network namespaces and loads an XDP program, which only root may do");
        eprintln!("hint: sudo -E env \"PATH=$PATH\" cargo xtask demo");
        return ExitCode::from(1);
    }
    signals::end_in_order();
    let mut view = View::new(options.json);
    let result = launcher.and_then(|launcher| story(launcher, &mut view));
    // The lab is gone by now, whatever the result; only then is there anything to report.
    view.finish();
    match result {
        Ok(summary) => {
            view.say(&summary.text());
            let broken = summary.broken_promises();
            for promise in &broken {
                eprintln!("error: {promise}");
            }
            if options.json {
                println!("{}", summary.json());
            }
            ExitCode::from(u8::from(!broken.is_empty()))
        }
        Err(e) => match e.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                view.say("interrupted; everything is cleaned up");
                ExitCode::from(interrupted.exit_code)
            }
            None => {
                eprintln!("error: {e:#}");
                ExitCode::from(1)
            }
        },
    }
}

/// The whole story, from an empty machine to the figures; the lab is gone when it returns.
fn story(launcher: Launcher, view: &mut View) -> Result<Summary> {
    view.say("Building a lab of network namespaces: three clients, three backends, Sluice between them.");
    let lab = Lab::new()?;
    let config = Config::new(&lab);
    let yaml = config.yaml();
    view.say(&format!("\nThe whole configuration, {}:\n", lab.dir().join("sluice.yaml").display()));
    view.say(&indent(&yaml));
    view.say("Starting `sluice run`.");
    let begun = Instant::now();
    let daemon = match Daemon::start(&lab, launcher, &yaml) {
        Ok(daemon) => daemon,
        Err(e) => return Err(keep_evidence(lab, e)),
    };
    let status = daemon.status()?;
    let xdp: Vec<String> = status.interfaces.iter().map(|i| format!("{} ({} XDP)", i.name, i.xdp_mode)).collect();
    view.say(&format!(
        "Sluice {} runs on {}; all {} health checks pass after {:.1} s.\n",
        status.version,
        xdp.join(" and "),
        status.services.iter().map(|s| s.backends.len()).sum::<usize>(),
        begun.elapsed().as_secs_f64()
    ));

    let clients = [("client", &lab.client), ("away", &lab.away), ("branch", &lab.branch)];
    let traffic = match Traffic::start(&clients, &Target::all(VIP), PACE, PATIENCE) {
        Ok(traffic) => traffic,
        Err(e) => return Err(keep_evidence(lab, e)),
    };
    let mut run = Run {
        lab,
        daemon,
        traffic: Some(traffic),
        config,
        outcomes: Vec::new(),
        phases: Vec::new(),
        changes: Vec::new(),
        view,
    };
    match run.tell() {
        Ok(mut summary) => {
            if !summary.broken_promises().is_empty() {
                summary.evidence = run.lab.keep_evidence().ok();
            }
            Ok(summary)
        }
        Err(e) => {
            let Run { daemon, lab, .. } = run;
            drop(daemon);
            Err(keep_evidence(lab, e))
        }
    }
}

/// Adds to an error where logs and captures of the failed run are. An interruption is no failure.
fn keep_evidence(mut lab: Lab, error: anyhow::Error) -> anyhow::Error {
    if error.is::<Interrupted>() {
        return error;
    }
    match lab.keep_evidence() {
        Ok(kept) => anyhow!("{error:#}\nhint: logs, configuration and packet captures are in {}", kept.display()),
        Err(e) => anyhow!("{error:#}\nhint: logs and captures could not be kept: {e:#}"),
    }
}

/// The demo under way. Fields are dropped in this order: clients, Sluice, lab.
struct Run<'v> {
    traffic: Option<Traffic>,
    daemon: Daemon,
    lab: Lab,
    config: Config,
    outcomes: Vec<Outcome>,
    phases: Vec<Phase>,
    /// When the rings changed for another reason than the failover, from when to when.
    changes: Vec<(Instant, Instant)>,
    view: &'v mut View,
}

impl Run<'_> {
    fn tell(&mut self) -> Result<Summary> {
        let limit = Duration::from_millis(self.config.interval_ms) * (self.config.fall + 1);

        self.phase(
            "all backends up",
            "Traffic by weights: every request is a new connection, over IPv4 and IPv6.",
            &[],
        )?;
        self.run_for(Duration::from_secs(9))?;

        let pid = self.lab.backend(VICTIM).http_pid().context("the backend to kill has no server")?;
        self.phase(
            "a backend is dead",
            &format!("Killing {VICTIM}: its nginx (process {pid}) and its dnsmasq. Nobody tells Sluice."),
            &[VICTIM],
        )?;
        let killed = Instant::now();
        self.lab.backend_mut(VICTIM).kill_servers();
        self.wait("the dead backend is out", limit * 10, |s| {
            of(s, VICTIM).all(|b| b.health == Health::Down && b.share == 0.0)
        })?;
        let out = Instant::now();
        let failover = out - killed;
        self.view.say(&format!(
            "Sluice saw it and took {VICTIM} out {} ms after the kill (limit: {} ms). Requests go on.",
            failover.as_millis(),
            limit.as_millis()
        ));
        self.phase("failed over", "", &[VICTIM])?;
        self.run_for(Duration::from_secs(6))?;

        // Shares change in the middle of it.
        self.begin("the backend returns", &format!("Starting {VICTIM}'s servers again."), Vec::new())?;
        let returning = Instant::now();
        self.lab.revive(VICTIM)?;
        self.wait("the backend is back", Duration::from_secs(10), |s| {
            of(s, VICTIM).all(|b| b.health == Health::Up && b.share > 0.0)
        })?;
        self.changes.push((returning, Instant::now()));
        self.view.say(&format!(
            "{VICTIM} passed its checks. Nobody's connection moves; new ones follow in {BITE} seconds, when no SYN can be \
             the second try of one that another backend has seen."
        ));
        self.run_for(Duration::from_secs(BITE))?;
        self.phase("all backends up again", &format!("{VICTIM} takes its share again."), &[])?;
        self.run_for(Duration::from_secs(6))?;

        let (edited, weight) = EDITED;
        let before = self.config.weights().into_iter().find(|(name, _)| *name == edited).map_or(0, |(_, w)| w);
        self.config.set_weight(edited, weight);
        self.daemon.edit(&self.config.yaml())?;
        let reloading = Instant::now();
        let said = self.daemon.cli_ok(&["reload"]).context("reloading the edited configuration")?;
        self.changes.push((reloading, Instant::now()));
        let says = format!(
            "{edited}'s weight edited in the YAML, {before} → {weight}; `sluice reload` says:\n{}",
            indent(&said)
        );
        self.begin("a weight is edited", &says, Vec::new())?;
        self.run_for(Duration::from_secs(BITE))?;
        self.phase("a weight was edited", "New connections follow.", &[])?;
        self.run_for(Duration::from_secs(9))?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.outcomes.len() < REQUESTS && Instant::now() < deadline {
            self.run_for(Duration::from_millis(500))?;
        }

        let status = self.daemon.status()?;
        if let Some(phase) = self.phases.last_mut() {
            phase.ended = Some(Instant::now());
        }
        if let Some(traffic) = self.traffic.take() {
            self.outcomes.extend(traffic.stop()?);
        }
        let moments = Moments { killed, out, limit, changes: &self.changes };
        Ok(Summary::new(&self.outcomes, &self.phases, &status, &self.config, &moments))
    }

    /// Ends the phase under way and begins another, with the shares its weights promise while `dead` are out.
    fn phase(&mut self, name: &'static str, says: &str, dead: &[&str]) -> Result<()> {
        let expected = self.config.shares(|name| !dead.contains(&name));
        self.begin(name, says, expected)
    }

    /// As [`Self::phase`], with these shares.
    fn begin(&mut self, name: &'static str, says: &str, expected: Vec<(&'static str, f64)>) -> Result<()> {
        self.pump()?;
        let now = Instant::now();
        if let Some(last) = self.phases.last_mut() {
            last.ended = Some(now);
        }
        self.phases.push(Phase { name, began: now, ended: None, expected });
        if !says.is_empty() {
            self.view.say(says);
        }
        Ok(())
    }

    /// Lets traffic run for a while.
    fn run_for(&mut self, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        while Instant::now() < deadline {
            self.pump()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Lets traffic run until Sluice's status is as wished.
    fn wait(&mut self, what: &str, patience: Duration, wished: impl Fn(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.daemon.status()?;
            if wished(&status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "after {patience:?} it is not true that {what}; the end of Sluice's log:\n{}",
                    self.daemon.log(30)
                );
            }
            self.pump()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Collects outcomes, looks after Sluice and Ctrl-C, and redraws.
    fn pump(&mut self) -> Result<()> {
        signals::check()?;
        self.daemon.alive()?;
        if let Some(traffic) = &self.traffic {
            self.outcomes.extend(traffic.finished());
        }
        if let Some(phase) = self.phases.last() {
            self.view.show(phase, &self.outcomes, &self.config, REQUESTS);
        }
        Ok(())
    }
}

/// The entries of one backend host, in every service and family.
fn of<'s>(status: &'s Status, host: &'static str) -> impl Iterator<Item = &'s sluice::api::types::BackendStatus> {
    let all = status.services.iter().flat_map(|s| &s.backends);
    all.filter(move |b| b.name.split('-').next() == Some(host))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}
