//! The wrapper program around a program under test, and what a run through it costs.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{MapData, ProgramArray};
use aya::programs::xdp::Xdp;
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::object;
use super::traffic::{FRAME_LENGTH, Traffic};
use crate::progrun::{Outcome, Verdict};

/// A wrapper that leads into one program. One per case: its template is part of the verified program.
pub struct Wrapper {
    object: Ebpf,
    frame: Vec<u8>,
}

impl fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapper")
    }
}

impl Wrapper {
    pub fn new(traffic: &Traffic, under_test: &ProgramFd) -> Result<Self> {
        let t = traffic.template();
        let length = FRAME_LENGTH as u64;
        let mut object = EbpfLoader::new()
            .override_global("TEMPLATE", &t.words, true)
            .override_global("FRAME_LENGTH", &length, true)
            .override_global("FLOW_MASK", &t.flow_mask, true)
            .override_global("CLIENT_OFFSET", &t.client_offset, true)
            .override_global("CLIENT_WORD", &t.client_word, true)
            .override_global("PORTS_OFFSET", &t.ports_offset, true)
            .override_global("PORTS_WORD", &t.ports_word, true)
            .override_global("COMPLEMENT_OFFSET", &t.complement_offset, true)
            .override_global("ID_OFFSET", &t.id_offset, true)
            .load(object::WRAPPER)
            .context("cannot load the wrapper; are you root?")?;
        xdp_mut(&mut object, "wrapper")?.load().context("the verifier refused the wrapper")?;
        let slots = object.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
        ProgramArray::try_from(slots)?.set(0, under_test, 0).context("the program cannot be called by the wrapper")?;
        Ok(Self { object, frame: traffic.frame(0) })
    }

    /// Makes `packets` packets, one after the other, and returns what became of the last, and the CPU time of one.
    pub fn run(&self, packets: u32) -> Result<(Outcome, f64)> {
        run(xdp(&self.object, "wrapper")?, &self.frame, packets)
    }
}

/// Runs a program on one frame, over and over.
pub fn run(program: &Xdp, frame: &[u8], packets: u32) -> Result<(Outcome, f64)> {
    let mut output = vec![0; frame.len() + 256];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut output), repeat: packets, ..TestRunOptions::new() };
    let before = thread_time()?;
    let result = program.test_run(options);
    let spent = (thread_time()? - before).as_nanos() as f64;
    let result = result.context("BPF_PROG_TEST_RUN")?;
    output.truncate(result.data_size_out as usize);
    Ok((Outcome { verdict: Verdict::from(result.return_value), frame: output }, spent / f64::from(packets)))
}

/// CPU time of this thread. Wall-clock time would count what others did with the CPU.
fn thread_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// The CPUs this process may run on.
pub fn cpus() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false)).collect();
    ensure!(!cpus.is_empty(), "this process may run on no CPU");
    Ok(cpus)
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    keep_to(&[cpu])
}

/// Keeps the calling thread, and those it starts, on these CPUs.
pub fn keep_to(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot keep to CPUs {cpus:?}"))
}

/// A loaded object's program.
pub fn xdp<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    Ok(object.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

pub fn xdp_mut<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(object.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// One of the maps of a loaded program, by the kernel's account.
pub fn map(program: &Xdp, name: &str) -> Result<MapData> {
    for id in program.info()?.map_ids()?.context("kernels tell since 4.15")? {
        let map = MapData::from_id(id)?;
        if map.info()?.name_as_str() == Some(name) {
            return Ok(map);
        }
    }
    bail!("the program has no map {name}")
}
