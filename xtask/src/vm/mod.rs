//! `cargo xtask vm`: the packet suite, the verifier, kernel devices and chosen scenarios on other kernels than the host's.
//!
//! For each kernel one virtual machine is booted on the host's own root, so that it runs the very test binaries that the
//! host has built, with the servers and tools of the host. A kernel that cannot be had is reported as such and never counts
//! as passed.

mod initramfs;
mod kernels;
mod machine;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::process::{find_program, say};
use crate::setup::{self, Group};
use crate::test::{Binary, Tests, failed_names, results, skipped};
use crate::workspace::{self, PRODUCT, TESTS};
use kernels::{KERNELS, Kernel, Unpacked};
use machine::{Accelerator, Heard, MARK, Machine, Place};

/// Exit code where nothing failed, but a kernel that was asked for could not be had.
const NOT_RUN: u8 = 3;
/// From switching a machine on to its first word, translated and on a busy host.
const BOOT: Duration = Duration::from_secs(240);
/// No binary takes this long on a translated CPU that is shared, unless it hangs.
const LIMIT: Duration = Duration::from_secs(2400);
/// What ends the test inside does so first.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Vm {
    /// One of these: 5.10, 6.1, 6.12, 6.18, newest (Debian's); several with several options; all if none is given
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Kernel>,
    /// Look for newer packages of these kernels first
    #[arg(long)]
    update: bool,
    /// Tests whose name contains this, or all of a binary whose name does; without it, those that the kernel matters to
    filter: Option<String>,
}

/// Binaries and their arguments.
type Usual = [(&'static str, &'static [&'static str])];

/// What runs without a filter, with the arguments.
const USUAL: [(&str, &[&str]); 5] = [
    // `verifier` loads what configurations can ask for; every combination there is takes ten times as long.
    ("lb-tests golden", &["--skip", "every combination of load-time settings"]),
    ("lb-tests verifier", &[]),
    ("lb-tests kernels", &[]),
    ("lb-tests devices", &[]),
    (
        "lb-tests lab",
        &[
            "every_kind_of_request_reaches_the_backends_by_weight",
            "a_reload_that_needs_a_feature_replaces_the_program_inside_its_links",
            "tunnelled_requests_are_unwrapped_by_decap_and_answered_directly",
            "what_is_for_no_service_passes_untouched",
        ],
    ),
];

/// What runs without a filter on a kernel that is too old for Sluice.
const TOO_OLD: [(&str, &[&str]); 1] = [("lb-tests kernels", &[])];

/// A test binary with what it is asked for.
#[derive(Debug)]
struct Job<'a> {
    binary: &'a Binary,
    arguments: Vec<&'a str>,
}

impl Vm {
    pub fn run(self) -> Result<ExitCode> {
        anyhow::ensure!(std::env::consts::ARCH == "x86_64", "the machines run on x86-64 only, so far");
        setup::ensure(&[Group::Build, Group::Lab, Group::Vm])?;
        workspace::build_programs(&[PRODUCT, TESTS])?;
        let tests = Tests::build()?;
        let qemu = find_program("qemu-system-x86_64").context("no qemu-system-x86_64")?;
        let accelerator = Accelerator::find(&qemu);
        if accelerator == Accelerator::Tcg {
            say("KVM does not work here: the machines are translated, some ten times slower");
        }
        let kernels = if self.kernel.is_empty() { KERNELS.to_vec() } else { self.kernel };
        let mut reports = Vec::new();
        for kernel in kernels {
            let place = Place { dir: workspace::target_dir()?.join("vm").join(kernel.name) };
            let usual: &Usual = if kernel.too_old { &TOO_OLD } else { &USUAL };
            let jobs = jobs(&tests, self.filter.as_deref(), usual)?;
            let outcome = kernel
                .unpacked(&place.dir, self.update)
                .and_then(|unpacked| run_on(kernel, &unpacked, &place, &qemu, accelerator, &tests, &jobs));
            reports.push((kernel, outcome));
        }
        Ok(summary(&reports))
    }
}

/// What to run. With a filter, what the host's suite would run of the tests that meet a kernel.
fn jobs<'a>(tests: &'a Tests, filter: Option<&'a str>, usual: &Usual) -> Result<Vec<Job<'a>>> {
    let mut jobs = Vec::new();
    for binary in tests.binaries.iter().filter(|binary| binary.name.starts_with("lb-tests ")) {
        let arguments = match filter {
            None => match usual.iter().find(|(name, _)| *name == binary.name) {
                Some((_, names)) => names.to_vec(),
                None => continue,
            },
            Some(filter) if binary.name.contains(filter) => Vec::new(),
            Some(filter) => {
                let mut list = Command::new("env");
                tests.prepare(&mut list, binary);
                let said = list.args(["--list", filter]).output()?;
                if !String::from_utf8_lossy(&said.stdout).contains(": test") {
                    continue;
                }
                vec![filter]
            }
        };
        jobs.push(Job { binary, arguments });
    }
    Ok(jobs)
}

/// What became of a kernel.
#[derive(Debug, Default)]
struct Report {
    version: String,
    passed: u64,
    failed: u64,
    /// Names of tests that did not pass, and why binaries did not end.
    failures: Vec<String>,
    /// Tests that said that this kernel is not for them.
    skipped: Vec<String>,
    took: Duration,
}

fn run_on(
    kernel: Kernel,
    unpacked: &Unpacked,
    place: &Place,
    qemu: &Path,
    accelerator: Accelerator,
    tests: &Tests,
    jobs: &[Job<'_>],
) -> Result<Report> {
    println!("\n──── Linux {}", unpacked.version);
    let started = Instant::now();
    let machine = Machine::start(qemu, accelerator, unpacked, place, &script(tests, jobs, accelerator))?;
    let mut report = Report { version: unpacked.version.clone(), ..Report::default() };
    let mut said = String::new();
    // What is under way, and until when.
    let (mut job, mut deadline) = (None, Instant::now() + BOOT);
    let mut done = 0;
    let trouble = loop {
        match machine.hear(deadline) {
            Heard::Line(line) => {
                println!("{:<6} {line}", kernel.name);
                said += &line;
                said.push('\n');
            }
            Heard::Mark(words) => {
                let words: Vec<&str> = words.split(' ').collect();
                match words[..] {
                    ["begin", index] => {
                        job = index.parse().ok().and_then(|index: usize| jobs.get(index));
                        deadline = Instant::now() + LIMIT + GRACE;
                        said.clear();
                        let name = job.map_or("?", |job| &job.binary.name);
                        println!("{:<6} ── {name} ({:.0} s)", kernel.name, started.elapsed().as_secs_f32());
                    }
                    ["end", _, code] => {
                        report.count(job.map_or("?", |job| &job.binary.name), &said, code);
                        (job, deadline, done) = (None, Instant::now() + GRACE, done + 1);
                    }
                    ["done"] => break None,
                    _ => {}
                }
            }
            Heard::Silence => break Some("was ended, because nothing was heard of it in time"),
            Heard::End => break Some("ended"),
        }
    };
    report.took = started.elapsed();
    if let Some(trouble) = trouble {
        let what = job.map_or("between two test binaries", |job| &job.binary.name);
        report.failed += 1;
        report.failures.push(format!("{what}: the machine {trouble}; {} of {} binaries were done", done, jobs.len()));
        println!("{:<6} the machine {trouble}; the end of what its kernel said:", kernel.name);
        let console = std::fs::read(place.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        for line in &lines[lines.len().saturating_sub(30)..] {
            println!("{:<6}   {line}", kernel.name);
        }
    }
    drop(machine);
    if report.failed > 0 && std::fs::read_dir(place.kept())?.next().is_some() {
        say(&format!("what failing tests kept: {}", place.kept().display()));
    }
    Ok(report)
}

impl Report {
    fn count(&mut self, name: &str, said: &str, code: &str) {
        let count = results(said);
        self.passed += count.passed;
        self.failed += count.failed;
        let names: Vec<&str> = failed_names(said).collect();
        if count.failed > 0 {
            self.failures.push(format!("{name}: {}", names.join(", ")));
        } else if code != "0" {
            self.failed += 1;
            self.failures.push(match code {
                "124" | "137" => format!("{name}: did not end within {} s", LIMIT.as_secs()),
                _ => format!("{name}: ended with exit code {code} before all tests had a result"),
            });
        }
        self.skipped.extend(skipped(said));
    }
}

/// How many times as long tests wait on a translated CPU: enough for one that is shared, too.
const SLOW: u32 = 8;

/// What the machine does: the jobs in turn, each told of before and after, and what they leave behind put aside.
fn script(tests: &Tests, jobs: &[Job<'_>], accelerator: Accelerator) -> String {
    let slow = if accelerator == Accelerator::Tcg { SLOW } else { 1 };
    let mut script = format!(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp SLUICE_DEVICES=required\n\
         export SLUICE_SLOW={slow}\n\
         for port in /dev/vport*; do exec 3>$port; done\n\
         mark() {{ printf '{MARK}%s\\n' \"$*\" >&3; }}\n\
         ip link set lo up\n"
    );
    let limit = LIMIT.as_secs();
    for (index, job) in jobs.iter().enumerate() {
        let mut command = Command::new("env");
        tests.prepare(&mut command, job.binary);
        command.arg("--include-ignored").args(&job.arguments);
        let dir = quoted(&job.binary.dir.to_string_lossy());
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| quoted(&word.to_string_lossy()))
            .collect();
        let words = words.join(" ");
        let _ = write!(
            script,
            "mark begin {index}\n\
             (cd {dir} && exec timeout -k 5 {limit} {words}) >&3 2>&1 </dev/null 3>&-\n\
             code=$?\n\
             [ $code = 0 ] || cp -r /tmp/sluice-* /run/kept/ 2>/dev/null\n\
             mark end {index} $code\n"
        );
    }
    script + "mark done\necho o > /proc/sysrq-trigger\nsleep 60\n"
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The table at the end, and what it means.
fn summary(reports: &[(Kernel, Result<Report>)]) -> ExitCode {
    println!();
    let (mut failed, mut not_run) = (false, false);
    let mut lines = Vec::new();
    for (kernel, outcome) in reports {
        let name = kernel.name;
        match outcome {
            Ok(report) => {
                for failure in &report.failures {
                    println!("failed on {name}: {failure}");
                }
                for test in &report.skipped {
                    println!("skipped on {name}: {test}");
                }
                let nothing = report.passed + report.failed == 0;
                failed |= report.failed > 0 || nothing;
                let Report { version, passed, skipped, took, .. } = report;
                let mut line = format!("{name:<7} {version:<24} {passed} passed, {} failed", report.failed);
                if !skipped.is_empty() {
                    let _ = write!(line, ", {} skipped", skipped.len());
                }
                if nothing {
                    line += " (no test has such a name)";
                }
                lines.push(format!("{line}, {} s", took.as_secs()));
            }
            Err(why) => {
                not_run = true;
                lines.push(format!("{name:<7} NOT RUN: {why:#}"));
            }
        }
    }
    for line in lines {
        println!("{line}");
    }
    match (failed, not_run) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(NOT_RUN),
        (false, false) => ExitCode::SUCCESS,
    }
}
