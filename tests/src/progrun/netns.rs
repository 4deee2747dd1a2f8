//! A network namespace without a name: it and all in it vanish with the process, however that ends.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread, and every thread and process it starts from now on, into a new network namespace.
/// Call it before starting threads: those already running stay where they were.
pub fn enter_private() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace; are you root?")
}

/// Runs `ip` commands, one per line, in the calling thread's namespace; stops at the first that fails.
pub fn ip(script: &str) -> Result<()> {
    batch(&[], script)
}

/// As [`ip`], where the family does not follow from an address.
pub fn ip6(script: &str) -> Result<()> {
    batch(&["-6"], script)
}

fn batch(options: &[&str], script: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`; install iproute2")?;
    child.stdin.take().context("ip has no standard input")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip failed: {}\nin\n{script}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Lets a veth receive redirected frames: without GRO (or an XDP program) on the receiving end it has no NAPI, and
/// what is redirected to it is silently lost.
pub fn receive_redirects(interface: &str) -> Result<()> {
    let output = Command::new("ethtool")
        .args(["-K", interface, "gro", "on"])
        .output()
        .context("cannot run `ethtool`; install ethtool")?;
    if !output.status.success() {
        bail!("ethtool -K {interface} gro on: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes a setting below `/proc/sys/net`, which shows the namespace of whoever opens it.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}
