//! The demo as a newcomer runs it: it keeps its promises, and it leaves nothing behind however it ends.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_tests::lab::Lab;
use lb_tests::lab::daemon::Launcher;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_demo"))
}

#[test]
#[ignore = "needs root"]
fn the_demo_keeps_its_promises_and_says_so_in_json() {
    let Launcher::Binary(sluice) = Launcher::beside_us().unwrap() else { panic!("a binary") };
    let output = demo().arg("--json").arg("--sluice").arg(sluice).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert_eq!(out.lines().count(), 1, "only the object is on standard output:\n{out}");
    let result: Value = serde_json::from_str(&out).unwrap();
    let number = |key: &str| result[key].as_u64().unwrap_or_else(|| panic!("no {key} in {out}"));
    assert!(number("requests") >= 5000, "{out}");
    assert_eq!(number("failed_after_failover"), 0, "{out}");
    assert!(number("failover_ms") <= number("failover_limit_ms"), "{out}");
    assert_eq!(number("failed_in_ring_changes"), 0, "connections never move: {out}");
    assert!(number("failed") < number("requests") / 20, "{out}");
    assert_eq!(result["xdp_mode"], "native", "{out}");
    assert_eq!(result["broken_promises"], Value::Array(Vec::new()), "{out}");
    for backend in ["b1", "b2", "b3"] {
        let share = |key: &str| result["share"][backend][key].as_f64().unwrap_or_else(|| panic!("no share in {out}"));
        assert!((share("expected") - share("measured")).abs() < 0.06, "{backend}: {out}");
    }
    for kind in ["http/ipv4", "http/ipv6", "dns/ipv4", "dns/ipv6"] {
        assert!(result["by_kind"][kind]["requests"].as_u64() > Some(1000), "{kind}: {out}");
    }
    assert!(err.contains("version: 1") && err.contains("Summary"), "the story is on standard error:\n{err}");
}

#[test]
#[ignore = "needs root"]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    let sleeper = Sleeper::new();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut child = sleeper.demo();
        wait_until("its namespaces are there", || !left_by(&child).is_empty() && sleeper.runs());
        kill(pid(&child), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{signal}");
        assert_eq!(left_by(&child), [""; 0], "{signal}");
    }
}

#[test]
#[ignore = "needs root"]
fn what_a_killed_demo_left_is_swept_by_the_next_lab() {
    let sleeper = Sleeper::new();
    let mut child = sleeper.demo();
    wait_until("its namespaces are there", || !left_by(&child).is_empty() && sleeper.runs());
    // A lab does not sweep another one that is alive.
    drop(Lab::new().unwrap());
    let before = left_by(&child);
    assert!(before.len() > 10, "{before:?}");
    kill(pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    assert_eq!(left_by(&child), before);
    drop(Lab::new().unwrap());
    assert_eq!(left_by(&child), [""; 0]);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&format!("slc-{}-", child.id())), "{mounts}");
}

#[test]
#[ignore = "needs root"]
fn a_sluice_that_does_not_start_is_shown_with_its_last_words() {
    let dir = Scratch::new();
    let broken = dir.script("echo 'the flux capacitor is empty' >&2; exit 6");
    let output = demo().arg("--sluice").arg(broken).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("exit status: 6") && err.contains("the flux capacitor is empty"), "{err}");
    let kept = err.split_once("are in ").map(|(_, path)| PathBuf::from(path.trim())).expect("it says where logs are");
    assert!(kept.join("sluice.log").exists() && kept.join("sluice.yaml").exists(), "{}", kept.display());
    std::fs::remove_dir_all(kept).unwrap();
}

/// A `sluice` that starts and then does nothing.
struct Sleeper {
    dir: Scratch,
    script: PathBuf,
}

impl Sleeper {
    fn new() -> Self {
        let dir = Scratch::new();
        let script = dir.script(&format!("touch {}/runs; exec sleep 60", dir.0.display()));
        Self { dir, script }
    }

    fn demo(&self) -> Child {
        let _ = std::fs::remove_file(self.dir.0.join("runs"));
        demo().arg("--sluice").arg(&self.script).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn runs(&self) -> bool {
        self.dir.0.join("runs").exists()
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let number: String = thread.chars().filter(char::is_ascii_digit).collect();
        let dir = std::env::temp_dir().join(format!("sluice-demo-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn script(&self, body: &str) -> PathBuf {
        let path = self.0.join("sluice");
        let mut file = std::fs::File::create(&path).unwrap();
        writeln!(file, "#!/bin/sh\n{body}").unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Namespaces and directories that carry a child's name, sorted.
fn left_by(child: &Child) -> Vec<String> {
    let prefix = format!("slc-{}-", child.id());
    let mut left: Vec<String> = ["/run/netns", "/run/sluice-lab"]
        .iter()
        .flat_map(|dir| std::fs::read_dir(Path::new(dir)).into_iter().flatten().flatten())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect();
    left.sort();
    left
}

fn wait_until(what: &str, wished: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !wished() {
        assert!(Instant::now() < deadline, "after 20 s it is not true that {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
