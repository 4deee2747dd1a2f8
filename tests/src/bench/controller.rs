//! What the controller takes for its own work: building rings, and bringing a changed file into the kernel.
//!
//! Times of a whole, not of a packet, so they are held to limits in milliseconds. The best of a few runs counts: what
//! else the machine does can only add.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use lb_common::ring::{CLASSES, rows};
use sluice::control::desired::{self, Ids, Rings, View};
use sluice::control::leaving::Leaving;
use sluice::dataplane::{Dataplane, Options, Sizes, Tunables, pins};
use sluice::model::Model;
use sluice::net::NetState;
use sluice::ring::{self, Member, Seed};

use crate::progrun::Settings;

/// One figure.
#[derive(Clone, Debug)]
pub struct Cost {
    pub case: &'static str,
    pub took: Duration,
    pub limit: Duration,
}

const RUNS: usize = 5;

fn best(mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let times: Vec<Duration> = (0..RUNS).map(|_| run()).collect::<Result<_>>()?;
    times.into_iter().min().context("nothing was timed")
}

pub fn measure() -> Result<Vec<Cost>> {
    let ms = Duration::from_millis;
    Ok(vec![
        Cost { case: "ring/100x16384", took: best(|| build(100, 14))?, limit: ms(5) },
        Cost { case: "ring/1000x131072", took: best(|| build(1_000, 17))?, limit: ms(300) },
        Cost { case: "reload/200x20", took: reload()?, limit: ms(1_000) },
    ])
}

/// A ring of equals.
fn build(members: u16, log2: u32) -> Result<Duration> {
    let class = CLASSES.iter().position(|k| *k == log2).context("no class has so many rows")?;
    let members: Vec<Member> =
        (1..=members).map(|i| Member::new(Ipv4Addr::from(0x0a00_0000 + u32::from(i)).into(), 8080, 100)).collect();
    let seed = Seed::from(&Settings::everything().hash_key);
    let start = Instant::now();
    let built = ring::build(&seed, class, &members).context("a pool of equals has no ring")?;
    let took = start.elapsed();
    ensure!(built.len() == rows(class) as usize, "the ring has {} rows", built.len());
    Ok(took)
}

/// 200 services with 20 backends each, the first of which has `weight`.
fn model(weight: u32) -> Result<Model> {
    let mut text = "version: 1\nnode: { interfaces: [lo] }\nservices:\n".to_owned();
    for service in 0..200 {
        writeln!(text, "  - name: s{service}\n    listen: 203.0.{}.{}:80", service / 100, service % 100)?;
        writeln!(text, "    health: none\n    backends:")?;
        for backend in 0..20 {
            let weight = if backend == 0 { weight } else { 100 };
            writeln!(text, "      - {{ address: 10.1.{service}.{backend}, port: 8080, weight: {weight} }}")?;
        }
    }
    sluice::config::parse("reload.yaml", &text).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// From a valid model to the last write, for a change of weight in every service: the slowest of the runs, because a
/// reload that must wait is the one people meet.
fn reload() -> Result<Duration> {
    let settings = Settings::everything();
    let key = settings.hash_key;
    let first = model(100)?;
    let features = desired::features(&first);
    let options = Options {
        bpf_dir: Path::new("/sys/fs/bpf").join(format!("sluice-bench-reload-{}", std::process::id())),
        sizes: Sizes::new(&first.limits, features),
        tunables: Tunables { hash_key: key, tunnel_source_mask4: 0, tunnel_source_mask6: 0 },
    };
    let opened = Dataplane::open(options.clone(), features);
    pins::remove(&options.bpf_dir)?;
    let mut dataplane = opened.context("cannot load the product's program; are you root?")?;
    let (verdicts, overrides, leaving) = (HashMap::new(), BTreeMap::new(), Leaving::default());
    let view = View { verdicts: &verdicts, overrides: &overrides, leaving: &leaving };
    let (net, seed) = (NetState::default(), Seed::from(&key));
    let (mut ids, mut rings) = (Ids::new(options.sizes), Rings::new());
    let mut slowest = Duration::ZERO;
    for run in 0..=RUNS {
        let next = model(100 - 10 * run as u32)?;
        let start = Instant::now();
        let desired = desired::compute(&next, view, &net, &seed, &mut ids, &rings, start)
            .map_err(|failure| anyhow::anyhow!("{failure}"))?;
        dataplane.apply(desired.tables)?;
        desired::release_slots(&mut ids, &desired.rings, start);
        rings = desired.rings;
        // The first one makes everything.
        if run > 0 {
            slowest = slowest.max(start.elapsed());
        }
    }
    Ok(slowest)
}
