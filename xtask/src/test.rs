//! `cargo xtask test`: every check and test, fast ones first, one count at the end.
//!
//! Test binaries are run one by one, not by `cargo test`: a binary that crashes or hangs before it prints its result
//! must count as a failure by name, and cargo's exit code alone would not say which.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{self, as_root, is_root, say};
use crate::setup::{self, Group};
use crate::workspace::{self, cargo};
use crate::{image, lint};

/// No test binary takes this long unless it hangs; all of them together fit into 30 minutes.
const LIMIT: Duration = Duration::from_secs(900);

pub fn run(filter: Option<&str>) -> Result<ExitCode> {
    setup::ensure(&[Group::Build, Group::Lab])?;
    workspace::build_programs(&[workspace::PRODUCT, workspace::TESTS])?;
    let mut suite = Suite { filter, count: Count::default(), failures: Vec::new(), skipped: Vec::new() };

    for (name, mut command) in lint::checks() {
        suite.check(name, || Ok(command.status()?.success()));
    }

    let tests = match Tests::build() {
        Ok(tests) => tests,
        Err(why) => {
            // Nothing more can run, and a suite that does not build has failed.
            suite.check("the tests build", || Err(why));
            return Ok(suite.finish());
        }
    };
    for binary in &tests.binaries {
        suite.binary(&tests, binary)?;
    }
    suite.documentation()?;
    suite.check("systemd unit", systemd_unit);
    suite.check("demo in a container", || container(&tests.demo));
    Ok(suite.finish())
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

#[derive(Debug)]
struct Suite<'a> {
    filter: Option<&'a str>,
    count: Count,
    /// Names for the summary.
    failures: Vec<String>,
    /// Tests that this machine is not for. They never count as passed.
    skipped: Vec<String>,
}

impl Suite<'_> {
    /// A check that is no libtest binary: one test by name.
    fn check(&mut self, name: &str, run: impl FnOnce() -> Result<bool>) {
        if self.filter.is_some_and(|filter| !name.contains(filter)) {
            return;
        }
        heading(name);
        let started = Instant::now();
        let passed = run().unwrap_or_else(|why| {
            eprintln!("{why:#}");
            false
        });
        println!("test {name} ... {} ({:.1} s)", if passed { "ok" } else { "FAILED" }, started.elapsed().as_secs_f32());
        if passed {
            self.count.passed += 1;
        } else {
            self.fail(name, 1);
        }
    }

    /// Tests that need root are marked `#[ignore = "needs root"]`, so that a plain `cargo test` works for everybody.
    /// Here they run: with everything else for root, else by themselves through sudo.
    fn binary(&mut self, tests: &Tests, binary: &Binary) -> Result<()> {
        heading(&binary.name);
        // The name of a whole binary asks for all of it.
        let filter = self.filter.filter(|filter| !binary.name.contains(filter));
        let mut command = Command::new("env");
        tests.prepare(&mut command, binary);
        if is_root() {
            command.arg("--include-ignored");
            return self.libtest(&binary.name, command.args(filter));
        }
        self.libtest(&binary.name, command.args(filter))?;
        let mut command = as_root("env");
        tests.prepare(&mut command, binary);
        self.libtest(&format!("{} as root", binary.name), command.arg("--ignored").args(filter))
    }

    /// Examples in the documentation of the libraries.
    fn documentation(&mut self) -> Result<()> {
        heading("examples in the documentation");
        let mut command = cargo("test");
        command
            .args(["--quiet", "--doc", "--package", "lb-common", "--package", "lb-userspace", "--"])
            .args(self.filter);
        self.libtest("examples in the documentation", &mut command)
    }

    /// Runs something that speaks libtest's language, shows it as it speaks, and counts.
    fn libtest(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let (sender, output) = std::sync::mpsc::channel();
        // Left behind if something the tests started keeps the pipe open after they ended.
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut chunk) {
                let _ = std::io::stdout().write_all(&chunk[..n]).and_then(|()| std::io::stdout().flush());
                if sender.send(chunk[..n].to_vec()).is_err() {
                    return;
                }
            }
        });

        let started = Instant::now();
        let mut said = Vec::new();
        let mut status = None;
        loop {
            match output.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => said.extend(chunk),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) if status.is_some() => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            }
            if status.is_none() {
                status = child.try_wait()?;
            }
            if status.is_none() && started.elapsed() > LIMIT {
                say(&format!("{name} did not end within {} s; ending it", LIMIT.as_secs()));
                child.kill()?;
            }
        }
        let status = match status {
            Some(status) => status,
            None => child.wait()?,
        };

        let text = String::from_utf8_lossy(&said);
        let count = results(&text);
        self.count.passed += count.passed;
        self.skipped.extend(skipped(&text));
        let failed: Vec<&str> = failed_names(&text).collect();
        if count.failed > 0 {
            let names = if failed.is_empty() { String::new() } else { format!(" {}", failed.join(", ")) };
            self.fail(&format!("{name}:{names}"), count.failed);
        } else if !status.success() {
            self.fail(&format!("{name}: ended with {status} before all tests had a result"), 1);
        }
        Ok(())
    }

    fn fail(&mut self, what: &str, tests: u64) {
        self.count.failed += tests;
        self.failures.push(what.to_owned());
    }

    fn finish(self) -> ExitCode {
        println!();
        for test in &self.skipped {
            println!("skipped: {test}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        if self.count == Count::default() {
            println!("no test has a name with `{}` in it", self.filter.unwrap_or_default());
        }
        println!("{} passed, {} failed", self.count.passed, self.count.failed);
        let ok = self.count.failed == 0 && self.count.passed > 0;
        if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn heading(name: &str) {
    println!("\n──── {name}");
    let _ = std::io::stdout().flush();
}

/// Sums libtest's `test result: ok. 12 passed; 0 failed; …` lines; several, for examples in documentation.
pub fn results(text: &str) -> Count {
    let mut count = Count::default();
    for line in text.lines().filter_map(|line| line.split_once("test result: ")) {
        let number = |what: &str| -> u64 {
            let words: Vec<&str> = line.1.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        count.passed += number("passed");
        count.failed += number("failed");
    }
    count
}

pub fn failed_names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
}

/// Tests that found out when they ran that they cannot run here, each with its reason in parentheses. (Those that nobody
/// asked for are ignored without, or with a comma.)
pub fn skipped(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let (name, reason) = line.strip_prefix("test ")?.split_once(" ... ignored (")?;
        Some(format!("{} ({reason}", name.trim_end()))
    })
}

/// What cargo built.
#[derive(Debug, Default)]
pub struct Tests {
    pub binaries: Vec<Binary>,
    /// The daemon that end-to-end tests start.
    sluice: PathBuf,
    demo: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Binary {
    /// `lb-tests golden`, as people would ask for it.
    pub name: String,
    executable: PathBuf,
    /// Tests expect to run in their crate's directory.
    pub dir: PathBuf,
}

impl Tests {
    pub fn build() -> Result<Self> {
        say("building the tests");
        let mut command = cargo("test");
        command.args(["--no-run", "--message-format=json-render-diagnostics"]);
        let mut tests = Self::default();
        for message in process::output(&mut command)?.lines() {
            tests.read(message);
        }
        tests.binaries.sort_by_key(|binary| (rank(&binary.name), binary.name.clone()));
        Ok(tests)
    }

    /// One of cargo's messages.
    fn read(&mut self, message: &str) -> Option<()> {
        let message: Value = serde_json::from_str(message).ok()?;
        let executable = PathBuf::from(message["executable"].as_str()?);
        let (kind, target) = (message["target"]["kind"][0].as_str()?, message["target"]["name"].as_str()?);
        if message["profile"]["test"] != true {
            match target {
                "sluice" => self.sluice = executable,
                "demo" => self.demo = executable,
                _ => {}
            }
            return Some(());
        }
        let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
        let directory = dir.file_name()?.to_str()?;
        let krate = match directory {
            "tests" => "lb-tests",
            "rows" => "lb-tests-rows",
            other => other,
        };
        let name = match kind {
            "lib" => krate.to_owned(),
            "bin" => format!("{krate} (program {target})"),
            _ => format!("{krate} {target}"),
        };
        self.binaries.push(Binary { name, executable, dir });
        Some(())
    }

    /// What a test finds in its environment; as arguments of `env`, because sudo drops variables.
    pub fn prepare(&self, command: &mut Command, binary: &Binary) {
        command.current_dir(&binary.dir).env_remove("LD_LIBRARY_PATH");
        command.arg(assignment("CARGO_MANIFEST_DIR", &binary.dir)).arg(assignment("SLUICE_BIN", &self.sluice));
        if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
            command.arg(assignment("RUST_BACKTRACE", &backtrace));
        }
        command.arg(&binary.executable);
    }
}

fn assignment(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut assignment = OsString::from(name);
    assignment.push("=");
    assignment.push(value);
    assignment
}

/// Fast ones first: a failure should show early. The lab takes long, and thousands of connections that wait for rows
/// to come to rest take longest.
fn rank(name: &str) -> u8 {
    match name.strip_prefix("lb-tests") {
        None => 0,
        Some("") => 1,
        Some(" connections") => 4,
        Some(" demo" | " lab") => 3,
        Some(_) => 2,
    }
}

/// The unit file means what it says. systemd ignores what it does not know, with a message and exit code 0.
fn systemd_unit() -> Result<bool> {
    let unit = workspace::root().join("deploy/systemd/sluice.service");
    let text = std::fs::read_to_string(&unit)?;
    // Verified in a copy that starts a program this machine has.
    let dir = workspace::target_dir()?.join("systemd");
    std::fs::create_dir_all(&dir)?;
    let copy = dir.join("sluice.service");
    std::fs::write(&copy, text.replace("/usr/bin/sluice", "/bin/true"))?;
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output();
    let done = verify.context("systemd-analyze (Debian: package systemd) checks the unit")?;
    let said = String::from_utf8_lossy(&done.stderr);
    eprint!("{said}");
    Ok(done.status.success() && said.trim().is_empty())
}

/// The image is built, and the whole demo passes with Sluice in it.
fn container(demo: &Path) -> Result<bool> {
    image::build()?;
    let mut command = as_root("env");
    command.arg(demo).args(["--json", "--container", image::NAME, "--engine", image::ENGINE]);
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{}", said.trim_end());
    let last: Value = said.trim_end().lines().last().map(serde_json::from_str).transpose()?.unwrap_or_default();
    Ok(done.status.success()
        && last["requests"].as_u64() >= Some(5000)
        && last["failed_after_failover"] == 0
        && last["xdp_mode"] == "native")
}

#[cfg(test)]
mod tests {
    use super::{Count, Tests, failed_names, rank, results, skipped};

    #[test]
    fn results_of_every_binary_are_summed() {
        let said = "running 3 tests\ntest a ... ok\ntest b ... FAILED\n\
            test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s\n";
        assert_eq!(results(said), Count { passed: 42, failed: 1 });
        assert_eq!(failed_names(said).collect::<Vec<_>>(), ["b"]);
        let ignored = "test a ... ignored\ntest b ... ignored, needs root\ntest c d    ... ignored (no such device)\n";
        assert_eq!(skipped(ignored).collect::<Vec<_>>(), ["c d (no such device)"]);
        assert_eq!(results("Segmentation fault"), Count::default());
    }

    #[test]
    fn suites_run_in_the_order_of_their_length() {
        let names = ["lb-common", "lb-tests", "lb-tests golden", "lb-tests lab", "lb-tests connections"];
        assert!(names.map(rank).is_sorted_by(|a, b| a <= b) && rank(names[3]) < rank(names[4]));
    }

    #[test]
    fn test_binaries_and_programs_are_told_apart() {
        let mut tests = Tests::default();
        for (test, dir, kind, target) in [
            (true, "lb-common", "lib", "lb_common"),
            (true, "tests", "test", "golden"),
            (true, "lb-userspace", "bin", "sluice"),
            (false, "lb-userspace", "bin", "sluice"),
            (false, "tests", "bin", "demo"),
        ] {
            tests.read(&format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/{dir}/Cargo.toml","profile":{{"test":{test}}},
                    "target":{{"kind":["{kind}"],"name":"{target}"}},"executable":"/w/target/{target}"}}"#
            ));
        }
        tests.read(r#"{"reason":"build-finished","success":true}"#);
        let names: Vec<&str> = tests.binaries.iter().map(|binary| binary.name.as_str()).collect();
        assert_eq!(names, ["lb-common", "lb-tests golden", "lb-userspace (program sluice)"]);
        assert_eq!((tests.sluice, tests.demo), ("/w/target/sluice".into(), "/w/target/demo".into()));
    }
}
