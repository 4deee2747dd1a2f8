//! Packet captures, kept only when something fails.
//!
//! They are taken on the far ends of Sluice's veths: on Sluice's own interfaces a capture sees nothing of what XDP
//! sends or redirects, because XDP runs before the place where captures listen.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::netns::NetNs;
use super::process::Process;

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture(Process);

impl Capture {
    /// Starts capturing headers on `interface` into `dir/NAME.pcap`; `None` where there is no tcpdump.
    pub fn start(ns: &NetNs, interface: &str, dir: &Path, name: &str) -> Result<Option<Self>> {
        Self::filtered(ns, interface, dir, name, "")
    }

    /// As [`Self::start`], of packets that `filter` (tcpdump's language) lets through.
    pub fn filtered(ns: &NetNs, interface: &str, dir: &Path, name: &str, filter: &str) -> Result<Option<Self>> {
        let file = dir.join(format!("{name}.pcap"));
        let mut command = ns.command("tcpdump")?;
        // Two files of 16 MB at most: the last minutes are what matters.
        command.args(["-n", "-i", interface, "-s", "160", "-B", "4096", "-C", "16", "-W", "2", "-Z", "root", "-w"]);
        command.arg(file).arg(filter);
        Ok(Process::start(name, command, &dir.join(format!("{name}-tcpdump.log")), Signal::SIGTERM).ok().map(Self))
    }

    /// Ends captures so that everything seen is in their files.
    pub fn finish_all(captures: Vec<Self>) {
        // The kernel hands packets over in blocks, at the latest once a second; what is not handed over is lost.
        std::thread::sleep(Duration::from_millis(1100));
        for mut capture in captures {
            let _ = capture.0.stop(Duration::from_secs(2));
        }
    }
}
