//! Builds the eBPF programs that only tests and benchmarks run; `src/bench/object.rs` embeds them.

#[path = "../xtask/src/embed.rs"]
mod embed;

use std::process::ExitCode;

fn main() -> ExitCode {
    embed::run("lb-tests-ebpf", &["reference", "wrapper"], &["tests/ebpf"])
}
