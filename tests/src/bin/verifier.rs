//! `cargo xtask verifier` runs this.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use lb_tests::verifier::Costs;

/// Loads every variant of every program and compares what it costs with what is recorded.
#[derive(Debug, Parser)]
struct Arguments {
    /// Record what it costs now
    #[arg(long)]
    bless: bool,
}

fn main() -> ExitCode {
    run(&Arguments::parse()).unwrap_or_else(|why| {
        eprintln!("error: {why:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let now = Costs::measure()?;
    print!("{now}");
    if arguments.bless {
        now.write()?;
        println!("recorded in {}", Costs::path().display());
        return Ok(ExitCode::SUCCESS);
    }
    let recorded = Costs::read()?;
    if !now.same_kernel(&recorded) {
        println!(
            "RECORDED ON ANOTHER KERNEL ({}): only verified instructions are compared, and only for more than twice as many",
            recorded.kernel
        );
    }
    let worse = now.worse_than(&recorded);
    if worse.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}\nif that is meant, record it: cargo xtask verifier --bless", worse.join("\n"));
    Ok(ExitCode::FAILURE)
}
