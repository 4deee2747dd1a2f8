//! Running other programs so that a person is never left guessing: what runs, for how long, and why it failed.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Says what happens now, on stderr.
pub fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// Runs a long, talkative command quietly: one line when it starts, one now and then, its own words only if it fails
/// or outlasts `limit`.
pub fn step(what: &str, command: &mut Command, limit: Duration) -> Result<()> {
    say(what);
    let mut log = scratch_file()?;
    let (out, err): (OwnedFd, OwnedFd) = (log.try_clone()?.into(), log.try_clone()?.into());
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;

    const REMIND: Duration = Duration::from_secs(20);
    let mut next = REMIND;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let passed = started.elapsed();
        if passed >= limit {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        if passed >= next {
            say(&format!("  … {} s", passed.as_secs()));
            next += REMIND;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    if status.is_some_and(|s| s.success()) {
        return Ok(());
    }
    let mut said = Vec::new();
    log.rewind()?;
    log.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().collect();
    // The reason is at the end; a compiler's or apt's whole output would push it off the screen.
    let tail = lines[lines.len().saturating_sub(30)..].join("\n");
    match status {
        Some(status) => bail!("{} failed ({status}):\n{tail}", shown(command)),
        None => bail!("{} did not end within {} s:\n{tail}", shown(command), limit.as_secs()),
    }
}

/// Runs a command with our own streams.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// What a command prints on stdout; its stderr passes through.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !done.status.success() {
        bail!("{} failed ({})", shown(command), done.status);
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The same command with root's rights: as it is for root, else through sudo.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    if !std::io::stdin().is_terminal() {
        command.arg("-n");
    }
    command.arg(program);
    command
}

pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where a program is, on the path or where root's programs live: many users have no sbin on theirs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A file without a name: gone when closed, whatever happens.
fn scratch_file() -> Result<File> {
    let path = std::env::temp_dir().join(format!("sluice-xtask-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.with_context(|| format!("cannot create {}", path.display()))?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
