//! Builds the eBPF programs and hands their paths to `dataplane/object.rs`, which embeds them.

#[path = "../xtask/src/embed.rs"]
mod embed;

use std::process::ExitCode;

fn main() -> ExitCode {
    embed::run("lb-ebpf", &["sluice-xdp", "sluice-decap"], &["lb-ebpf", "lb-common"])
}
