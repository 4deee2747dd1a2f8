//! The real binary, as an operator and a script meet it.

mod common;

use std::fs::{File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use common::{Directory, admin, healthy, status};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    for variable in ["SLUICE_SOCKET", "SLUICE_LOG", "SLUICE_LOG_FORMAT", "NO_COLOR", "JOURNAL_STREAM"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end: exit code, stdout, stderr.
async fn run(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().expect("killed by a signal"), text(stdout), text(stderr))
}

fn with_socket<'a>(arguments: &[&'a str], socket: &'a Path) -> Command {
    let mut command = sluice(arguments);
    command.arg("--socket").arg(socket);
    command
}

#[tokio::test]
async fn help_teaches_and_goes_to_stdout() {
    let (code, stdout, stderr) = run(sluice(&["--help"])).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    for wanted in ["sudo sluice run -c sluice.yaml", "Exit codes:", "4  no daemon answers on the admin socket"] {
        assert!(stdout.contains(wanted), "no {wanted:?} in:\n{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "colour on a pipe");
    let (code, stdout, _) = run(sluice(&["drain", "--help"])).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("sluice drain web/10.0.0.11") && stdout.contains("SLUICE_SOCKET"), "{stdout}");
}

#[tokio::test]
async fn mistakes_on_the_command_line_are_exit_2_and_leave_stdout_empty() {
    let table: [&[&str]; 15] = [
        &[],
        &["backends"],
        &["config"],
        &["config", "show"],
        &["config", "show", "-c", "x.yaml", "-o", "table"],
        &["balance"],
        &["run"],
        &["run", "-c", "x.yaml", "--log-level", "debgu"],
        &["check", "-c", "x.yaml", "-o", "xml"],
        &["drain", "web"],
        &["drain", "web/"],
        &["status", "--watch=0"],
        &["decap"],
        &["decap", "--interface", "lo", "--gue-port", "0"],
        &["decap", "--interface", "lo", "--vni", "16777216"],
    ];
    for arguments in table {
        let (code, stdout, stderr) = run(sluice(arguments)).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("Usage:") || stderr.contains("--help"), "{arguments:?}: {stderr}");
    }
}

#[tokio::test]
async fn without_a_daemon_every_client_verb_is_exit_4_with_the_socket_and_a_hint() {
    let directory = Directory::new();
    let socket = directory.join("none.sock");
    let table: [&[&str]; 15] = [
        &["backends", "list"],
        &["backends", "list", "--watch"],
        &["backends", "events", "--follow"],
        &["drops"],
        &["drops", "--watch"],
        &["status"],
        &["status", "-o", "json"],
        &["plan"],
        &["flows"],
        &["confirm"],
        &["rollback"],
        &["reload", "--dry-run"],
        &["reload"],
        &["drain", "web/one"],
        &["undrain", "web/one"],
    ];
    for arguments in table {
        let mut command = sluice(arguments);
        command.env("SLUICE_SOCKET", &socket);
        let (code, stdout, stderr) = run(command).await;
        assert_eq!((code, stdout.as_str()), (4, ""), "{arguments:?}: {stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        assert!(lines[0].starts_with("error: cannot reach the daemon at "), "{stderr}");
        assert!(lines[0].contains(socket.to_str().unwrap()), "{stderr}");
        assert!(lines[1].starts_with("hint: is the daemon running?"), "{stderr}");
    }
}

#[tokio::test]
async fn a_good_file_is_ok_and_its_memory_is_known() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/minimal.yaml");
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file])).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("OK: 1 service, 2 backends, 1 interface\n"), "{stdout}");
    assert!(stdout.contains("\nmemory: "), "{stdout}");

    let (code, stdout, _) = run(sluice(&["check", "-c", file, "-o", "json"])).await;
    assert_eq!(code, 0);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["valid"], &report["backends"]), (&true.into(), &2.into()));
    assert!(report["memory"]["bytes"].as_u64().unwrap() > 1 << 20, "{stdout}");
}

#[tokio::test]
async fn a_file_to_start_from_is_written_once_and_check_accepts_it() {
    let directory = Directory::new();
    let path = directory.join("sluice.yaml");
    let file = path.to_str().unwrap();
    let (code, stdout, stderr) = run(sluice(&["config", "init", file])).await;
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    assert!(stderr.starts_with(&format!("wrote {file} (interface ")), "{stderr}");
    let written = std::fs::read_to_string(&path).unwrap();
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file])).await;
    assert_eq!((code, stderr.as_str()), (0, ""), "no errors, no warnings");
    assert!(stdout.starts_with("OK: 1 service, 2 backends, 1 interface\n"), "{stdout}");

    for arguments in [&["config", "init"][..], &["config", "init", "-"]] {
        let (code, stdout, stderr) = run(sluice(arguments)).await;
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, written.as_str(), ""));
    }

    // Somebody's work.
    std::fs::write(&path, "version: 1 # mine\n").unwrap();
    let (code, stdout, stderr) = run(sluice(&["config", "init", file])).await;
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.starts_with(&format!("error: {file} exists; it was not touched\nhint: ")), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "version: 1 # mine\n");

    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let link = directory.join("link.yaml");
    std::os::unix::fs::symlink("sluice.yaml", &link).unwrap();
    let (code, _, stderr) = run(sluice(&["config", "init", "--force", link.to_str().unwrap()])).await;
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written, "through the link");
    assert!(link.is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "nothing is left beside it");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_an_error_with_a_hint() {
    let directory = Directory::new();
    let nowhere = directory.join("no/such/sluice.yaml");
    let table = [
        (nowhere.to_str().unwrap(), false, "its directory does not exist"),
        (directory.join("").to_str().unwrap(), true, "Is a directory"),
        ("/dev/full", true, "No space left"),
    ]
    .map(|(file, force, wanted)| (file.to_owned(), force, wanted));
    for (file, force, wanted) in table {
        let mut command = sluice(&["config", "init", &file]);
        command.args(force.then_some("--force"));
        let (code, stdout, stderr) = run(command).await;
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.starts_with(&format!("error: cannot write {file}: ")) && stderr.contains(wanted), "{stderr}");
    }
}

#[tokio::test]
async fn the_whole_configuration_is_shown_as_a_file_that_means_the_same() {
    let directory = Directory::new();
    let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/minimal.yaml");
    let mut shown = Vec::new();
    for format in ["yaml", "json"] {
        let (code, stdout, stderr) = run(sluice(&["config", "show", "-c", minimal, "-o", format])).await;
        assert_eq!((code, stderr.as_str()), (0, ""));
        let path = directory.join(format);
        std::fs::write(&path, &stdout).unwrap();
        shown.push(sluice::config::load(&path).unwrap());
        for wanted in ["hash_key", "/etc/sluice/hash.key", "tcp_established", "15m", "maglev", "10%"] {
            assert!(stdout.contains(wanted), "no {wanted} in\n{stdout}");
        }
    }
    let read = sluice::config::load(Path::new(minimal)).unwrap();
    assert_eq!(shown, [read.clone(), read]);

    let bad = directory.join("bad.yaml");
    std::fs::write(&bad, "version: 1\n").unwrap();
    let (code, stdout, stderr) = run(sluice(&["config", "show", "-c", bad.to_str().unwrap()])).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("bad.yaml:1:1: error: `node` is missing"), "{stderr}");
}

#[tokio::test]
async fn the_schema_goes_to_stdout() {
    let (code, stdout, stderr) = run(sluice(&["config", "schema"])).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout == sluice::config::json_schema::text(), "{stdout}");
}

#[tokio::test]
async fn warnings_are_talk_in_a_table_and_data_in_json() {
    let directory = Directory::new();
    let file = directory.join("quiet.yaml");
    std::fs::write(&file, "version: 1\nnode: { interfaces: [eth0] }\nservices: []\n").unwrap();
    let file = file.to_str().unwrap();
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file])).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.starts_with("warning: ") && !stdout.contains("warning"), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file, "-o", "json"])).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["warnings"].as_array().unwrap().len(), 1, "{stdout}");
}

#[tokio::test]
async fn a_bad_file_is_exit_3_with_every_error_and_its_line() {
    let directory = Directory::new();
    let file = directory.join("bad.yaml");
    let text = "version: 1\nnode: { interfaces: [eth0] }\nservices:\n  - name: web\n    listen: 203.0.113.10\n    \
                weigth: 5\n    backends: [{ address: nonsense }]\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file])).await;
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    for line in [5, 6, 7] {
        let place = format!("{file}:{line}:");
        assert!(stderr.lines().any(|said| said.starts_with(&place)), "nothing about line {line} in:\n{stderr}");
    }
    let (code, stdout, stderr) = run(sluice(&["check", "-c", file, "-o", "json"])).await;
    assert_eq!((code, stderr.as_str()), (3, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["valid"], false);
    assert!(report["errors"].as_array().unwrap().len() >= 3, "{stdout}");

    let (code, _, stderr) = run(sluice(&["check", "-c", directory.join("missing.yaml").to_str().unwrap()])).await;
    assert_eq!(code, 3);
    assert!(stderr.contains("missing.yaml"), "{stderr}");
}

/// A configuration that keeps to `directory` and names an interface no host has.
fn nowhere(directory: &Directory) -> std::path::PathBuf {
    let file = directory.join("nowhere.yaml");
    let text = format!(
        "version: 1\nnode: {{ interfaces: [no-such-if0], run_dir: {run}, bpf_dir: {bpf} }}\n\
         admin: {{ socket: {socket}, http: off }}\nhash_key: {key}\nservices: []\n",
        run = directory.join("run").display(),
        bpf = directory.join("bpf").display(),
        socket = directory.join("admin.sock").display(),
        key = directory.join("hash.key").display(),
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why_and_leaves_nothing_behind() {
    let directory = Directory::new();
    let bad = directory.join("bad.yaml");
    std::fs::write(&bad, "version: 1\nservice: []\n").unwrap();
    let (code, stdout, stderr) = run(sluice(&["run", "-c", bad.to_str().unwrap()])).await;
    assert_eq!((code, stdout.as_str()), (3, ""), "{stderr}");
    assert!(stderr.contains("bad.yaml:2:1: error: unknown key `service`"), "{stderr}");

    let file = nowhere(&directory);
    let (code, stdout, stderr) = run(sluice(&["run", "-c", file.to_str().unwrap()])).await;
    assert_eq!((code, stdout.as_str()), (6, ""), "{stderr}");
    assert!(stderr.contains("no-such-if0") && stderr.contains("\nhint: "), "{stderr}");
    for leftover in ["admin.sock", "hash.key", "bpf"] {
        assert!(!directory.join(leftover).exists(), "{leftover} is left behind");
    }
}

#[tokio::test]
async fn a_second_daemon_is_refused_by_the_first_ones_pid() {
    let directory = Directory::new();
    let file = nowhere(&directory);
    std::fs::create_dir(directory.join("run")).unwrap();
    let lock = directory.join("run/lock");
    std::fs::write(&lock, "4242\n").unwrap();
    let _held =
        nix::fcntl::Flock::lock(File::open(&lock).unwrap(), nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    let (code, stdout, stderr) = run(sluice(&["run", "-c", file.to_str().unwrap()])).await;
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("another sluice is running on this host (pid 4242)"), "{stderr}");
    assert!(stderr.contains("\nhint: "), "{stderr}");
}

#[tokio::test]
async fn status_says_the_same_in_every_format() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let wanted = serde_json::to_value(status()).unwrap();

    let (code, stdout, stderr) = run(with_socket(&["status", "-o", "json"], &socket)).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap(), wanted);
    let (_, stdout, _) = run(with_socket(&["status", "-o", "yaml"], &socket)).await;
    assert_eq!(serde_yaml::from_str::<serde_json::Value>(&stdout).unwrap(), wanted);
    for format in ["table", "wide"] {
        let (_, stdout, _) = run(with_socket(&["status", "-o", format], &socket)).await;
        assert!(stdout.contains("DOWN: HTTP 503, expected 200-299 (3 in a row)"), "{stdout}");
        assert!(!stdout.contains('\x1b'), "colour on a pipe: {stdout}");
    }
}

#[tokio::test]
async fn check_of_the_status_is_exit_5_when_degraded() {
    let directory = Directory::new();
    for (name, status, wanted) in [("bad.sock", status(), 5), ("good.sock", healthy(), 0)] {
        let socket = directory.join(name);
        let _served = admin(&socket, status);
        assert_eq!(run(with_socket(&["status", "--check"], &socket)).await.0, wanted);
        assert_eq!(run(with_socket(&["status"], &socket)).await.0, 0, "only --check judges");
    }
}

#[tokio::test]
async fn reload_says_what_changed_or_why_not() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let (code, stdout, _) = run(with_socket(&["reload"], &socket)).await;
    assert_eq!((code, stdout.as_str()), (0, "applied generation 5\n  web: weight of canary 5 → 10\n"));
    let (code, stdout, stderr) = run(with_socket(&["reload"], &socket)).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.starts_with("error: sluice.yaml:12:5: unknown key"), "{stderr}");
    assert!(stderr.ends_with("hint: did you mean `weight`?\n"), "{stderr}");
}

#[tokio::test]
async fn a_reload_can_be_tried_confirmed_and_taken_back() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let (code, stdout, _) = run(with_socket(&["reload", "--confirm", "2m"], &socket)).await;
    let wanted =
        "applied generation 5\n  web: weight of canary 5 → 10\ngoes back in 120 s, unless `sluice confirm` comes\n";
    assert_eq!((code, stdout.as_str()), (0, wanted));
    let (code, stdout, stderr) = run(with_socket(&["confirm"], &socket)).await;
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "generation 5 stays\n", ""));
    let (code, stdout, stderr) = run(with_socket(&["rollback"], &socket)).await;
    assert_eq!((code, stdout.as_str()), (0, "rolled back, now generation 6\n  web: weight of canary 10 → 5\n"));
    assert!(stderr.starts_with("the file still says what was rolled back"), "{stderr}");
    let (code, stdout, stderr) = run(with_socket(&["rollback", "-o", "json"], &socket)).await;
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["generation"], 6);
    for time in ["60", "0s", "25h", "soon"] {
        let (code, stdout, stderr) = run(with_socket(&["reload", "--confirm", time], &socket)).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{time}: {stderr}");
    }
}

#[tokio::test]
async fn a_plan_is_made_by_the_daemon_of_a_file_that_was_checked_here() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/minimal.yaml");
    let (code, stdout, stderr) = run(with_socket(&["plan", "-c", minimal], &socket)).await;
    assert_eq!((code, stdout.as_str()), (4, ""));
    assert!(
        stderr.starts_with(&format!("error: {minimal} is valid, and what it would change is not known")),
        "{stderr}"
    );
    assert!(stderr.contains("\nhint: is the daemon running?"), "{stderr}");

    let _served = admin(&socket, status());
    let bad = directory.join("bad.yaml");
    std::fs::write(&bad, "version: 1\n").unwrap();
    let (code, stdout, stderr) = run(with_socket(&["plan", "-c", bad.to_str().unwrap()], &socket)).await;
    assert_eq!((code, stdout.as_str()), (3, ""));
    assert!(stderr.contains("bad.yaml:1:1: error: `node` is missing"), "{stderr}");

    for (arguments, file) in [
        (&["plan", "-c", minimal][..], minimal),
        (&["plan"], "its own file"),
        (&["reload", "--dry-run"], "its own file"),
    ] {
        let (code, stdout, stderr) = run(with_socket(arguments, &socket)).await;
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(stdout.starts_with("compared with what runs (generation 4):\n"), "{stdout}");
        assert!(stdout.contains(&format!("~ interfaces: eth0 → {file}\n")), "{stdout}");
        assert!(stdout.contains("  - service dns: all to 203.0.113.53:53/udp: the service is removed\n"), "{stdout}");
    }
    let (_, stdout, _) = run(with_socket(&["plan", "-o", "json"], &socket)).await;
    let plan: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(plan["breaks"][0]["service"], "dns");
}

#[tokio::test]
async fn drain_and_undrain_say_what_they_did() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (_served, asked) = admin(&socket, status());
    let table = [
        ("drain", "web/canary is draining: out of the ring, no new connections\n"),
        ("drain", "web/canary was draining already\n"),
        ("undrain", "web/canary takes new connections again\n"),
    ];
    for (verb, wanted) in table {
        let (code, stdout, stderr) = run(with_socket(&[verb, "web/canary"], &socket)).await;
        assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, wanted, ""));
    }
    assert_eq!(asked.lock().unwrap().len(), 3);
    let (code, stdout, stderr) = run(with_socket(&["drain", "web/nobody"], &socket)).await;
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_eq!(stderr, "error: service web has no backend nobody\nhint: it has 10.0.0.11 and canary\n");
}

#[tokio::test]
async fn a_drain_that_is_waited_for_says_how_far_it_is_and_how_it_ended() {
    let directory = Directory::new();
    for (name, arguments, said) in [
        ("idle", &["--idle", "30s"][..], "silent for 30 s count as gone"),
        ("late", &["--timeout", "1s"], "busy UDP flows that go to other backends now: 1\n"),
    ] {
        let socket = directory.join(name);
        let _served = admin(&socket, status());
        let mut command = with_socket(&["drain", "web/canary", "--wait"], &socket);
        command.args(arguments);
        let (code, stdout, stderr) = run(command).await;
        assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
        assert!(stderr.contains("web/canary: 1 flow left, silent ones may turn up for 0:01\n"), "{stderr}");
        assert!(stderr.contains(said) && stderr.ends_with("web/canary has no flows left\n"), "{stderr}");
    }
    let socket = directory.join("json");
    let _served = admin(&socket, status());
    let (_, stdout, _) =
        run(with_socket(&["drain", "web/canary", "--wait", "--idle", "1s", "-o", "json"], &socket)).await;
    let lines: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["flows"], &lines[0]["done"]), (&1.into(), &false.into()));
    assert_eq!(lines.last().unwrap()["done"], true);
    let (code, _, stderr) = run(with_socket(&["drain", "web/canary", "--timeout", "5m"], &socket)).await;
    assert_eq!(code, 2, "{stderr}");
}

/// `sluice … | head -0`, without the race: the reader is gone before the writer starts.
#[tokio::test]
async fn a_reader_that_left_is_no_error() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let minimal = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/minimal.yaml");
    let table: [(&[&str], i32); 5] = [
        (&["status"], 0),
        (&["status", "-o", "json"], 0),
        (&["status", "--check"], 5),
        (&["status", "--watch=0.1"], 0),
        (&["drain", "web/canary"], 0),
    ];
    for (arguments, wanted) in table {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = with_socket(arguments, &socket);
        command.stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().await.unwrap();
        assert_eq!(output.status.code(), Some(wanted), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
    let quiet: [&[&str]; 6] = [
        &["check", "-c", minimal],
        &["config", "init"],
        &["config", "show", "-c", minimal],
        &["config", "schema"],
        &["version"],
        &["status", "--socket", "/nonexistent"],
    ];
    for arguments in quiet {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = sluice(arguments);
        // Nobody reads the talk either: the exit code is what is left.
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let code = command.spawn().unwrap().wait().await.unwrap().code();
        assert_eq!(code, Some(if arguments[0] == "status" { 4 } else { 0 }), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error() {
    let mut command = sluice(&["version"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to stdout"));
}

#[tokio::test]
async fn watching_survives_a_restart_of_the_daemon() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (served, _) = admin(&socket, status());
    let mut command = with_socket(&["status", "-o", "json", "--watch=0.1"], &socket);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut talk = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next_line().await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["pid"], 4242);
    }
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
    let line = talk.next_line().await.unwrap().unwrap();
    assert!(line.contains("waiting for it to come back"), "{line}");

    let _served = admin(&socket, healthy());
    let back = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("the watch ended");
            if serde_json::from_str::<serde_json::Value>(&line).unwrap()["degraded"].as_array().unwrap().is_empty() {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), back).await.expect("it did not come back");
    drop(lines);
    let code = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.expect("it watches on").unwrap();
    assert_eq!(code.code(), Some(0));
}

/// Runs the command on a terminal of 100 columns and returns what that shows.
fn on_a_terminal(mut command: Command) -> String {
    let size = nix::pty::Winsize { ws_row: 50, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = nix::pty::openpty(Some(&size), None).unwrap();
    let slave = File::from(terminal.slave);
    command.env("TERM", "xterm").stdout(slave.try_clone().unwrap()).stderr(slave);
    let mut child = command.spawn().unwrap();
    // The last copies of the terminal's other side: when the child ends, reading does too.
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // EIO is how a terminal says that nobody is left (pty(7)).
        let _ = File::from(terminal.master).read_to_end(&mut shown);
        String::from_utf8(shown).unwrap()
    });
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(child.wait())).unwrap();
    reader.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn colour_is_for_terminals_that_want_it() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let shown = on_a_terminal(with_socket(&["status"], &socket));
    assert!(shown.contains("\x1b[1;31m"), "no red on a terminal: {shown:?}");

    let mut command = with_socket(&["status"], &socket);
    command.env("NO_COLOR", "1");
    let shown = on_a_terminal(command);
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert!(shown.contains("DOWN"), "{shown}");
    for line in shown.lines() {
        assert!(line.chars().count() <= 100, "wider than the terminal: {line:?}");
    }
}

#[tokio::test]
async fn version_is_data_too() {
    let (code, stdout, _) = run(sluice(&["version", "-o", "json"])).await;
    assert_eq!(code, 0);
    let about: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    let (_, stdout, _) = run(sluice(&["--version"])).await;
    assert_eq!(stdout, format!("sluice {}\n", env!("CARGO_PKG_VERSION")));
}
