//! What a packet costs: CPU time per packet of the product, beside reference programs measured in the same minutes.
//! `docs/benchmark.md` says how to read the figures.
//!
//! The traps, all of which make figures too good. A program that is run again and again on one buffer measures its
//! own output ([`wrapper`]). A program that passes everything looks wonderfully fast, so every run is checked: the
//! verdict and all bytes of its last packet, and the counters of all its packets ([`cases`], [`node`]). And figures
//! taken one after the other compare the machine of one minute with the machine of another, so cases take turns.

mod cases;
mod controller;
mod node;
mod object;
mod report;
mod traffic;
mod wrapper;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Barrier;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{HashMap, PerCpuArray};
use aya::programs::ProgramFd;
use aya::{Ebpf, EbpfLoader};

use cases::{CASES, Case, FLOOR, LRU_BACKEND, REFERENCES, Reference, Subject, UNIT, Way, expected, twin};
use node::{Config, Hits, Node};
use object::Recorded;
use report::Row;
use traffic::{FRAME_LENGTH, L4, SLUICE, Traffic};
use wrapper::{Wrapper, cpus, keep_to, pin, xdp, xdp_mut};

use lb_common::addr::PROTO_TCP;

use crate::packet::diff;
use crate::progrun::Outcome;

/// Flows of the cases whose names end in `/1M`: 2^20.
const MANY: u32 = 1 << 20;

/// How far the ratio of the references may be from what is recorded, as a fraction of it.
const TOLERANCE: f64 = 0.15;

#[derive(Clone, Debug)]
pub struct Options {
    /// Cases whose names contain this; the one that has it for its whole name where there is one.
    pub pattern: Option<String>,
    pub rounds: u32,
    pub packets: u32,
    /// Where the figures are written as JSON.
    pub json: Option<PathBuf>,
    /// Record the references as they are now.
    pub rebaseline: bool,
}

/// How a run went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All within their limits.
    Within,
    Over,
    /// The references do not relate to each other as recorded, so nothing can be said.
    Invalid,
}

/// Prints what the controller's own work takes; the cases over their limit.
fn controller() -> Result<Vec<&'static str>> {
    let costs = controller::measure()?;
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    println!("\n{:16}  {:>9}  {:>9}", "the controller", "ms", "limit ms");
    for cost in &costs {
        println!("{:16}  {:>9.2}  {:>9.0}", cost.case, ms(cost.took), ms(cost.limit));
    }
    Ok(costs.iter().filter(|cost| cost.took > cost.limit).map(|cost| cost.case).collect())
}

/// Measures, prints the table, writes the files.
pub fn run(options: &Options) -> Result<Verdict> {
    if options.pattern.as_deref() == Some("controller") {
        return Ok(if controller()?.is_empty() { Verdict::Within } else { Verdict::Over });
    }
    let recorded = if options.rebaseline { None } else { Some(recorded()?) };
    let mut bench = Bench::new(options.pattern.as_deref(), MANY)?;
    let rows = bench.measure(options.rounds, options.packets, &mut progress)?;
    let table = report::Table::new(&rows)?;
    print!("{table}");
    if let Some(path) = &options.json {
        std::fs::write(path, table.json()?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let ratio = report::cost_of(&rows, UNIT)? / report::cost_of(&rows, FLOOR)?;
    let processor = object::processor()?;
    let Some(recorded) = recorded else {
        let mut fresh = Recorded::read().unwrap_or_default();
        let hash = object::source_hash();
        if fresh.source_sha256 != hash {
            // Ratios of other programs.
            fresh = Recorded { source_sha256: hash, ..Recorded::default() };
        }
        println!("recorded in {}: on {processor}, {UNIT} is {ratio:.2} × {FLOOR}", Recorded::path().display());
        fresh.lru_over_drop.insert(processor, (ratio * 1e3).round() / 1e3);
        fresh.write()?;
        return Ok(if table.over().is_empty() { Verdict::Within } else { Verdict::Over });
    };
    let Some(expected) = recorded.lru_over_drop.get(&processor) else {
        println!(
            "{UNIT} is {ratio:.2} × {FLOOR}\n\
             INVALID: what it should be on {processor} is not recorded. If nothing disturbs this machine, record it \
             with --rebaseline."
        );
        return Ok(Verdict::Invalid);
    };
    println!("{UNIT} is {ratio:.2} × {FLOOR}; recorded on {processor}: {expected:.2}");
    if (ratio / expected - 1.0).abs() > TOLERANCE {
        println!(
            "INVALID: that is more than {:.0} % away, so something disturbed this run. Run again when it is quiet; if the \
             machine is what changed, record it with --rebaseline.",
            TOLERANCE * 100.0
        );
        return Ok(Verdict::Invalid);
    }
    // A pattern is about packets.
    let mut over = table.over();
    if options.pattern.is_none() {
        // The controller is no packet, and works with as many threads as it likes.
        keep_to(&bench.cpus)?;
        over.extend(controller()?);
    }
    match over.as_slice() {
        [] => Ok(Verdict::Within),
        over => {
            println!("over the limit: {}", over.join(", "));
            Ok(Verdict::Over)
        }
    }
}

/// What is checked in, if it is about the programs we run.
fn recorded() -> Result<Recorded> {
    let recorded = Recorded::read()?;
    let hash = object::source_hash();
    ensure!(
        recorded.source_sha256 == hash,
        "the reference programs changed: the sources in tests/ebpf hash to {hash}, and {} has {}.\n\
         All figures are ratios to them, so they are frozen. Undo the change, or, if it is meant, record it: \
         cargo xtask bench --rebaseline",
        Recorded::path().display(),
        recorded.source_sha256
    );
    Ok(recorded)
}

/// Runs every case for a few packets, with all its checks; figures so small mean nothing and are thrown away.
pub fn check(packets: u32) -> Result<()> {
    recorded()?;
    Bench::new(None, 1 << 12)?.measure(1, packets, &mut |_, _, _| ()).map(drop)
}

fn progress(round: u32, rounds: u32, name: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[Kround {} of {rounds}: {name}", round + 1);
        if name.is_empty() {
            let _ = write!(stderr, "\r\x1b[K");
        }
    } else if name == FLOOR {
        let _ = writeln!(stderr, "round {} of {rounds}", round + 1);
    }
}

/// A case ready to be run.
struct Ready {
    case: Case,
    traffic: Traffic,
    /// None for what runs without one.
    wrapper: Option<Wrapper>,
    /// Packets sent so far, by CPU.
    sent: BTreeMap<usize, u64>,
}

struct Bench {
    references: Ebpf,
    nodes: Vec<Node>,
    ready: Vec<Ready>,
    /// Rows of the table: index of the case, whether on two CPUs.
    rows: Vec<(usize, bool)>,
    cpus: Vec<usize>,
}

impl Bench {
    fn new(pattern: Option<&str>, many: u32) -> Result<Self> {
        let cpus = cpus()?;
        let mut references =
            EbpfLoader::new().load(object::REFERENCE).context("cannot load the references; are you root?")?;
        for reference in [Reference::Drop, Reference::Noop, Reference::Grow, Reference::Lru] {
            let program = xdp_mut(&mut references, reference.program())?;
            program.load().with_context(|| format!("the verifier refused {}", reference.program()))?;
        }
        let mut bench = Self { references, nodes: Vec::new(), ready: Vec::new(), rows: Vec::new(), cpus };
        // The table is filled to its last entry from this one CPU: what lay in another's free list would be missing.
        pin(bench.cpus[0])?;
        for case in REFERENCES {
            bench.prepare(case, many)?;
            bench.rows.push((bench.ready.len() - 1, false));
        }
        bench.fill_lru(many)?;

        let exact = pattern.filter(|p| CASES.iter().any(|case| case.name == *p || twin(case.name) == *p));
        let wanted = |name: &str| match (exact, pattern) {
            (Some(exact), _) => name == exact,
            (None, Some(pattern)) => name.contains(pattern),
            (None, None) => true,
        };
        for case in CASES {
            // A twin's limit is a multiple of what its case costs. They take their turns one after the other.
            let both = bench.cpus.len() > 1 && wanted(&twin(case.name));
            if both || wanted(case.name) {
                bench.prepare(case, many)?;
                bench.rows.push((bench.ready.len() - 1, false));
            }
            if both {
                bench.rows.push((bench.ready.len() - 1, true));
            }
        }
        if bench.ready.len() == REFERENCES.len()
            && pattern.is_some_and(|p| !REFERENCES.iter().any(|c| c.name.contains(p)))
        {
            let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
            bail!(
                "no case has `{}` in its name; there are {}, each also as 2cpu/…",
                pattern.unwrap_or(""),
                names.join(", ")
            );
        }
        if bench.cpus.len() < 2 {
            eprintln!("this process may run on one CPU only: the 2cpu cases are left out");
        }
        Ok(bench)
    }

    fn prepare(&mut self, case: Case, many: u32) -> Result<()> {
        let traffic = case.traffic(many);
        let program: ProgramFd = match case.subject {
            Subject::Reference(reference) => xdp(&self.references, reference.program())?.fd()?.try_clone()?,
            Subject::Product(config, _) => {
                if !self.nodes.iter().any(|node| node.config == config) {
                    self.nodes.push(Node::open(config)?);
                }
                let node = self.nodes.iter_mut().find(|node| node.config == config).context("no such node")?;
                node.program()?
            }
        };
        let wrapped = case.subject != Subject::Reference(Reference::Drop);
        let wrapper = if wrapped { Some(Wrapper::new(&traffic, &program)?) } else { None };
        self.ready.push(Ready { case, traffic, wrapper, sent: BTreeMap::new() });
        Ok(())
    }

    /// Every flow has an entry in the reference's table. Keys and values are spelled out as `reference.rs` lays them out.
    fn fill_lru(&mut self, many: u32) -> Result<()> {
        let unit = REFERENCES.iter().find(|case| case.name == UNIT).context("no unit")?;
        let traffic = Case { many: true, ..*unit }.traffic(many);
        let (vip, vip_port) = traffic.destination;
        let mut target = [0; 24];
        target[..4].copy_from_slice(&node::backend4(LRU_BACKEND).octets());
        target[4..6].copy_from_slice(&node::BACKEND_PORT.to_be_bytes());
        target[8..14].copy_from_slice(&node::backend_mac(LRU_BACKEND).0);
        target[14..20].copy_from_slice(&SLUICE.0);
        let map = self.references.map_mut("FLOWS").context("no map FLOWS")?;
        let mut flows: HashMap<_, [u8; 16], [u8; 24]> = HashMap::try_from(map)?;
        for flow in 0..many {
            let sender = traffic.sender(flow);
            let (IpAddr::V4(client), IpAddr::V4(vip)) = (sender.address, vip) else { bail!("references are IPv4") };
            let mut key = [0; 16];
            key[..4].copy_from_slice(&client.octets());
            key[4..8].copy_from_slice(&vip.octets());
            key[8..10].copy_from_slice(&sender.port.to_be_bytes());
            key[10..12].copy_from_slice(&vip_port.to_be_bytes());
            key[12] = PROTO_TCP;
            flows.insert(key, target, 0)?;
        }
        Ok(())
    }

    /// Cases take turns; each has one figure per round and CPU. A case on one CPU runs on one and then on the other, so
    /// that its twin has as many figures, and of the same CPUs.
    fn measure(&mut self, rounds: u32, packets: u32, progress: &mut dyn FnMut(u32, u32, &str)) -> Result<Vec<Row>> {
        let (rows, cpus) = (self.rows.clone(), self.cpus[..self.cpus.len().min(2)].to_vec());
        for &(index, _) in &rows {
            // One packet first, so that the figures are of a program that is known to work.
            self.turn(index, &cpus[..1], 1)?;
        }
        let mut samples = vec![Vec::new(); rows.len()];
        for round in 0..rounds {
            for (&(index, two), samples) in rows.iter().zip(&mut samples) {
                progress(round, rounds, self.ready[index].case.name);
                for cpus in cpus.chunks(if two { 2 } else { 1 }) {
                    samples.extend(self.turn(index, cpus, packets)?);
                }
            }
        }
        progress(rounds, rounds, "");
        Ok(rows
            .iter()
            .zip(samples)
            .map(|(&(index, two), samples)| {
                let case = self.ready[index].case;
                Row { name: if two { twin(case.name) } else { case.name.to_owned() }, case, two, samples }
            })
            .collect())
    }

    /// Runs a case on these CPUs at once, checks everything, and returns the CPU time of a packet on each.
    fn turn(&mut self, index: usize, cpus: &[usize], packets: u32) -> Result<Vec<f64>> {
        if self.ready[index].case.l4 == L4::Later {
            self.teach(index)?;
        }
        let before = self.hits(index)?;
        let ready = &self.ready[index];
        let start = Barrier::new(cpus.len());
        let run = |cpu: usize| -> Result<(Outcome, f64)> {
            pin(cpu)?;
            start.wait();
            match &ready.wrapper {
                Some(wrapper) => wrapper.run(packets),
                None => {
                    let program = xdp(&self.references, Reference::Drop.program())?;
                    wrapper::run(program, &ready.traffic.frame(0), packets)
                }
            }
        };
        let results: Vec<Result<(Outcome, f64)>> = match cpus {
            [cpu] => vec![run(*cpu)],
            _ => std::thread::scope(|scope| {
                let threads: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || run(cpu))).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or_else(|_| bail!("a measuring thread panicked")))
                    .collect()
            }),
        };
        let mut figures = Vec::new();
        for (&cpu, result) in cpus.iter().zip(results) {
            let name = self.ready[index].case.name;
            let (outcome, nanoseconds) = result.with_context(|| name.to_owned())?;
            let sent = self.ready[index].sent.entry(cpu).or_default();
            *sent += u64::from(packets);
            let last = *sent - 1;
            self.check_outcome(index, last, &outcome)?;
            figures.push(nanoseconds);
        }
        self.check_hits(index, before, u64::from(packets) * cpus.len() as u64)?;
        Ok(figures)
    }

    /// Sends the first fragment of those that the case sends, which is remembered for half a minute.
    fn teach(&mut self, index: usize) -> Result<()> {
        let Ready { case, traffic, .. } = &self.ready[index];
        let first = Traffic { l4: L4::First, ..*traffic }.frame(0);
        let Subject::Product(config, _) = case.subject else { bail!("{}: references know no fragments", case.name) };
        let node = self.nodes.iter_mut().find(|node| node.config == config).context("no such node")?;
        let (outcome, _) = wrapper::run(node.xdp()?, &first, 1)?;
        ensure!(outcome.verdict == crate::progrun::Verdict::Tx, "the first fragment was not forwarded: {outcome:?}");
        Ok(())
    }

    fn node(&self, index: usize) -> Option<&Node> {
        match self.ready[index].case.subject {
            Subject::Product(config, _) => self.nodes.iter().find(|node| node.config == config),
            Subject::Reference(_) => None,
        }
    }

    /// The packet of this number left as it must.
    fn check_outcome(&self, index: usize, number: u64, outcome: &Outcome) -> Result<()> {
        let Ready { case, traffic, .. } = &self.ready[index];
        let flow = traffic.flow_of(number);
        let mut expected = expected(case, traffic, self.node(index), flow);
        let mut got = outcome.clone();
        if case.subject == Subject::Reference(Reference::Grow) {
            // The new bytes in front are nobody's.
            ensure!(got.frame.len() == FRAME_LENGTH + 20, "{}: {} bytes came out", case.name, got.frame.len());
            got.frame.drain(..20);
            expected.frame = traffic.frame(flow);
        }
        if got != expected {
            bail!(
                "{}: packet {number} (flow {flow}) came out wrong: {:?} instead of {:?}\n{}",
                case.name,
                got.verdict,
                expected.verdict,
                diff::report(&traffic.frame(flow), &expected.frame, &got.frame)
            );
        }
        Ok(())
    }

    fn hits(&self, index: usize) -> Result<Hits> {
        if let Some(node) = self.node(index) {
            return node.hits();
        }
        let misses: PerCpuArray<_, u64> = PerCpuArray::try_from(self.references.map("MISSES").context("no MISSES")?)?;
        Ok(Hits { other: misses.get(&0, 0)?.iter().sum(), ..Hits::default() })
    }

    /// All packets went the way of the case, and were counted there and nowhere else.
    fn check_hits(&self, index: usize, before: Hits, packets: u64) -> Result<()> {
        let case = &self.ready[index].case;
        let mut hits = self.hits(index)?.since(before);
        let lookups = std::mem::take(&mut hits.lookups);
        let all = match case.subject {
            Subject::Product(Config::AllMoving4, _) => packets..=packets,
            Subject::Product(Config::Moving4, _) if !case.many => packets..=packets,
            // One row in a hundred; a few packets may miss them all.
            Subject::Product(Config::Moving4, _) => u64::from(packets > 10_000)..=packets / 50 + 10,
            _ => 0..=0,
        };
        ensure!(all.contains(&lookups), "{}: {lookups} of {packets} packets were looked up", case.name);
        let expected = match case.subject {
            Subject::Reference(_) => Hits::default(),
            Subject::Product(_, Way::Pass) => Hits { passed: packets, ..Hits::default() },
            Subject::Product(_, Way::Reply) => Hits { replied: [packets; 2], ..Hits::default() },
            Subject::Product(_, Way::Forward) => {
                Hits { forwarded: [packets; 2], syns: if case.l4 == L4::Syn { packets } else { 0 }, ..Hits::default() }
            }
        };
        ensure!(hits == expected, "{}: counted {hits:?} of {packets} packets, not {expected:?}", case.name);
        Ok(())
    }
}
