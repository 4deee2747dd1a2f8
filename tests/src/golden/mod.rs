//! Golden packets: one frame in, and everything that must come of it — the verdict, every byte out, and every
//! counter that changed.
//!
//! A [`Case`] is one row of a table and one test; its name is the sentence that must hold. What is expected is
//! written with the packet builders from what the RFCs and ARCHITECTURE.md say, never copied from what the
//! program did. All cases run in one [`world`]: one loaded program, one set of services, one network namespace.

pub mod cases;
mod distribution;
mod flows;
mod forget;
pub mod more;
pub mod oracle;
pub mod world;

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, anyhow, bail};

use lb_common::counters::DropReason;

use crate::packet::{Packet, decode, diff, pcap};
use crate::progrun::{Counts, Outcome, Program, Settings, Verdict, counted};

use distribution::weighted_ring_shares;
use world::World;

type Run = Box<dyn FnOnce(&mut World) -> Result<()> + Send>;

/// One test: a sentence, and what finds out whether it holds.
pub struct Test {
    pub name: String,
    pub run: Run,
}

impl Test {
    fn new(name: impl Into<String>, run: impl FnOnce(&mut World) -> Result<()> + Send + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Test").field(&self.name).finish()
    }
}

/// Every test, for a furnished world of these settings; those of single packets first.
pub fn all(settings: &Settings) -> Vec<Test> {
    let rows = cases::all(&settings.hash_key).into_iter();
    let rows = rows.map(|case| Test::new(case.name.clone(), move |world| case.run(world)));
    let sweeps = cases::sweeps(&settings.hash_key).into_iter();
    let sweeps = sweeps.map(|sweep| Test::new(sweep.name.clone(), move |world| sweep.run(world)));
    let decap =
        decapsulator(|| Program::load_decap(&cases::decap::VIPS), cases::decap::cases(), cases::decap::sweeps());
    let load = || Program::load_decap_with(&cases::decap::VIPS, &cases::decap::ELSEWHERE);
    let decap = decap.into_iter().chain(decapsulator(load, cases::decap::elsewhere(), Vec::new()));
    let more = more::TESTS.map(|(name, run)| Test::new(name, run));
    let shares = Test::new("a ring of weights 10 and 1 shares 200,000 random flows 90.9 % to 9.1 %", |world| {
        weighted_ring_shares(world, 200_000)
    });
    rows.chain(sweeps).chain(decap).chain(flows::tests()).chain(forget::tests()).chain(more).chain([shares]).collect()
}

/// Tests of a decapsulator, which is loaded when the first of them runs: that takes longer than all their packets.
fn decapsulator(load: fn() -> Result<Program>, cases: Vec<Case>, sweeps: Vec<Sweep>) -> Vec<Test> {
    let program: Arc<Mutex<Option<Program>>> = Arc::default();
    let test = |sweep: Sweep| {
        let program = Arc::clone(&program);
        Test::new(sweep.name.clone(), move |_| {
            let mut program = program.lock().map_err(|_| anyhow!("an earlier test panicked"))?;
            let loaded = match &mut *program {
                Some(loaded) => loaded,
                none => none.insert(load()?),
            };
            sweep.cases.iter().try_for_each(|case| case.run_by(loaded).with_context(|| case.name.clone()))
        })
    };
    let single = cases.into_iter().map(|case| Sweep { name: case.name.clone(), cases: vec![case] });
    single.chain(sweeps).map(test).collect()
}

/// What must become of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The host gets it, byte for byte.
    Pass,
    /// The host gets these bytes.
    PassAs(Vec<u8>),
    /// Dropped; the reason is in the counters.
    Drop,
    /// Sent out of this interface, as these bytes.
    Send(u32, Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub ingress: u32,
    pub frame: Vec<u8>,
    /// Bytes of headroom that are taken.
    pub metadata: usize,
    pub expect: Expect,
    /// Every counter that changes, and by how much.
    pub counts: Counts,
    /// What is counted as the packet's bytes: the IP packet's length.
    length: u64,
}

/// Many cases of one sentence, which are one test.
#[derive(Clone, Debug)]
pub struct Sweep {
    pub name: String,
    pub cases: Vec<Case>,
}

impl Sweep {
    /// Runs all cases up to the first that fails.
    pub fn run(&self, world: &mut World) -> Result<()> {
        self.cases.iter().try_for_each(|case| case.run(world).with_context(|| case.name.clone()))
    }
}

/// A case by the sentence that must hold. Unless told otherwise its frame passes untouched, counted as the host's.
pub fn case(name: impl Into<String>) -> Case {
    Case {
        name: name.into(),
        ingress: 0,
        frame: Vec::new(),
        metadata: 0,
        expect: Expect::Pass,
        counts: Counts::default(),
        length: 0,
    }
}

impl Case {
    /// The packet comes in on this interface.
    #[must_use]
    pub fn enters(mut self, ingress: u32, packet: impl Into<Packet>) -> Self {
        let packet = packet.into();
        self.length = packet.inner_bytes().len() as u64;
        self.enters_as_bytes(ingress, packet.bytes())
    }

    /// As [`Case::enters`], for bytes that are no packet anyone would build.
    #[must_use]
    pub fn enters_as_bytes(mut self, ingress: u32, frame: Vec<u8>) -> Self {
        let length = frame.len() as u64;
        (self.ingress, self.frame) = (ingress, frame);
        self.count([("service 0 packets".into(), 1), ("service 0 bytes".into(), length)])
    }

    /// These counters change and no others.
    fn count<const N: usize>(mut self, counts: [(String, u64); N]) -> Self {
        self.counts = counted(counts);
        self
    }

    /// It leaves through this interface as this packet.
    #[must_use]
    pub fn leaves(mut self, interface: u32, packet: impl Into<Packet>) -> Self {
        self.expect = Expect::Send(interface, packet.into().bytes());
        self
    }

    /// It counts as a client's packet on its way to a backend.
    #[must_use]
    pub fn forwarded(self, service: u32, backend: u16) -> Self {
        let length = self.length;
        self.count([
            (format!("service {service} packets"), 1),
            (format!("service {service} bytes"), length),
            (format!("backend {backend} packets"), 1),
            (format!("backend {backend} bytes"), length),
        ])
    }

    /// It counts as a backend's packet on its way to a client.
    #[must_use]
    pub fn replied(self, service: u32, backend: u16) -> Self {
        let length = self.length;
        self.count([
            (format!("service {service} reply_packets"), 1),
            (format!("service {service} reply_bytes"), length),
            (format!("backend {backend} reply_packets"), 1),
            (format!("backend {backend} reply_bytes"), length),
        ])
    }

    /// For the decapsulator: the host gets this packet.
    #[must_use]
    pub fn unwrapped(mut self, packet: impl Into<Packet>) -> Self {
        self.expect = Expect::PassAs(packet.into().bytes());
        self.count([("decap unwrapped".into(), 1)])
    }

    /// For the decapsulator: the host gets the packet as it came, counted as a tunnel to somebody unlisted.
    #[must_use]
    pub fn unlisted(self) -> Self {
        self.count([("decap unlisted".into(), 1)])
    }

    /// For the decapsulator: the host gets the packet as it came, and nothing is counted.
    #[must_use]
    pub fn ignored(self) -> Self {
        self.count([])
    }

    /// It is dropped for this reason, on account of this service.
    #[must_use]
    pub fn dropped(mut self, service: u32, reason: DropReason) -> Self {
        self.expect = Expect::Drop;
        self.count([(format!("service {service} drops {}", reason.name()), 1)])
    }

    /// It is sent back as an answer, which is nobody's traffic.
    #[must_use]
    pub fn answered(self) -> Self {
        self.count([])
    }

    /// It is too big for its way, and its sender is told so by this packet.
    #[must_use]
    pub fn told_too_big(self, service: u32, answer: impl Into<Packet>) -> Self {
        let ingress = self.ingress;
        self.dropped(service, DropReason::TooBig).counting(service, "flows too_bigs").leaves(ingress, answer)
    }

    /// On top of what is counted already.
    #[must_use]
    pub fn counting(mut self, service: u32, counter: &str) -> Self {
        self.counts.add(format!("service {service} {counter}"), 1);
        self
    }

    /// The driver left this little less room in front of the frame.
    #[must_use]
    pub fn behind_metadata(mut self, bytes: usize) -> Self {
        self.metadata = bytes;
        self
    }

    /// Runs the case. The error is everything a person needs: what differed, both packets, a capture.
    pub fn run(&self, world: &mut World) -> Result<()> {
        self.run_by(&mut world.program)
    }

    /// As [`Case::run`], by a program of its own.
    pub fn run_by(&self, program: &mut Program) -> Result<()> {
        // With one device in the map, "redirect" can only mean that one.
        match &self.expect {
            Expect::Send(interface, _) if *interface != self.ingress => program.set_devices(&[*interface])?,
            Expect::Send(..) | Expect::Drop => program.set_devices(&world::DEVICES)?,
            Expect::Pass | Expect::PassAs(_) => {}
        }
        let before = program.counters()?;
        let outcome = program.run_behind(&self.frame, self.ingress, self.metadata)?;
        let counts = program.counters()?.since(&before);
        self.judge(&outcome, &counts)
    }

    fn verdict(&self) -> Verdict {
        match &self.expect {
            Expect::Pass | Expect::PassAs(_) => Verdict::Pass,
            Expect::Drop => Verdict::Drop,
            Expect::Send(interface, _) if *interface == self.ingress => Verdict::Tx,
            Expect::Send(..) => Verdict::Redirect,
        }
    }

    /// Compares what happened with what must.
    fn judge(&self, outcome: &Outcome, counts: &Counts) -> Result<()> {
        let mut wrong = Vec::new();
        if outcome.verdict != self.verdict() {
            wrong.push(format!("verdict: expected {:?}, actual {:?}", self.verdict(), outcome.verdict));
        }
        // What becomes of a dropped frame's bytes is nobody's business.
        let expected = match &self.expect {
            Expect::Drop => None,
            Expect::Pass => Some(&self.frame),
            Expect::PassAs(frame) | Expect::Send(_, frame) => Some(frame),
        };
        if expected.is_some_and(|expected| *expected != outcome.frame) {
            wrong.push("bytes: the frame that left is not the one expected".to_owned());
        }
        if *counts != self.counts {
            wrong.push(format!("counters: expected {}\n          actual   {counts}", self.counts));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let packets = match expected {
            None => format!("input:\n{}\n", decode::text(&self.frame)),
            Some(expected) => diff::report(&self.frame, expected, &outcome.frame),
        };
        let frames: Vec<&[u8]> =
            std::iter::once(&self.frame).chain(expected).chain([&outcome.frame]).map(Vec::as_slice).collect();
        let capture = match pcap::save("golden", &self.name, &frames) {
            Ok(path) => format!("capture (input, expected, actual): {}", path.display()),
            Err(why) => format!("no capture: {why}"),
        };
        bail!("{}\n\n{packets}\n{capture}", wrong.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Mac, ethernet, raw};

    fn outcome(verdict: Verdict, frame: &[u8]) -> Outcome {
        Outcome { verdict, frame: frame.to_vec() }
    }

    /// The judge must be able to say no.
    #[test]
    fn a_wrong_verdict_byte_or_counter_fails_and_all_right_does_not() {
        let frame = ethernet(Mac::local(1), Mac::local(2)) / raw(*b"for the host");
        let bytes = frame.bytes();
        let case = case("a frame of the judge's own test").enters(10, frame);
        let counts = case.counts.clone();
        assert!(case.judge(&outcome(Verdict::Pass, &bytes), &counts).is_ok());

        let why = |o: &Outcome, c: &Counts| case.judge(o, c).map_err(|e| e.to_string()).expect_err("must fail");
        let text = why(&outcome(Verdict::Drop, &bytes), &counts);
        assert!(text.contains("verdict: expected Pass, actual Drop"), "{text}");

        let mut changed = bytes.clone();
        changed[20] ^= 1;
        let text = why(&outcome(Verdict::Pass, &changed), &counts);
        assert!(text.contains("bytes that differ") && text.contains(".pcap"), "{text}");

        let mut more = counts.clone();
        more.add("service 3 packets".into(), 1);
        let text = why(&outcome(Verdict::Pass, &bytes), &more);
        assert!(text.contains("service 3 packets +1"), "{text}");
        assert!(case.judge(&outcome(Verdict::Pass, &bytes), &Counts::default()).is_err());
    }
}
