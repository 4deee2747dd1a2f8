//! The project's commands. A local command and the CI command are the same one.
//!
//! stdout belongs to what a verb runs (test output, the demo's JSON); everything xtask itself says goes to stderr.

mod apt;
mod demo;
mod dist;
mod fuzz;
mod image;
mod lint;
mod measure;
mod mutants;
mod process;
mod setup;
mod test;
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Sluice's commands", disable_help_subcommand = true)]
enum Verb {
    /// Find or install what building, testing and the demo need; quick and silent when all is there
    Setup,
    /// Build the release binary, target/release/sluice
    Build,
    /// Show the product: a lab of network namespaces, real traffic, a failure and a reload
    Demo(demo::Demo),
    /// Run every check and test, or those whose own or whose binary's name contains FILTER; the last line counts them
    Test { filter: Option<String> },
    /// Measure what a packet costs, beside reference programs (docs/benchmark.md)
    Bench(measure::Bench),
    /// Compare what each program costs the verifier, and its size, with what is recorded
    Verifier(measure::Verifier),
    /// Hold the program to the reference model on random packets; stop at the first difference
    Fuzz(fuzz::Fuzz),
    /// Read broken files as configurations; stop at the first that panics, hangs or is told nonsense
    FuzzConfig(fuzz::FuzzConfig),
    /// Hold the rows to their promise in random histories; stop at the first in which a flow moves
    Rows(fuzz::Rows),
    /// Change the data plane in one place at a time; fail if a change that no test notices is not explained
    Mutants(mutants::Mutants),
    /// Run the packet suite and chosen scenarios on other kernels, in virtual machines; exit code 3 if one cannot be had
    Vm(vm::Vm),
    /// rustfmt and clippy, as the tests run them
    Lint,
    /// Make one stripped, self-contained binary in target/dist
    Dist,
    /// Build the OCI image around the binary of `dist`
    Image,
}

fn main() -> ExitCode {
    let done = match Verb::parse() {
        Verb::Setup => setup::ensure(&setup::Group::ALL).map(|()| ExitCode::SUCCESS),
        Verb::Build => workspace::build_release(&["sluice"]).map(|()| ExitCode::SUCCESS),
        Verb::Demo(demo) => demo.run(),
        Verb::Test { filter } => test::run(filter.as_deref()),
        Verb::Bench(bench) => bench.run(),
        Verb::Verifier(verifier) => verifier.run(),
        Verb::Fuzz(fuzz) => fuzz.run(),
        Verb::FuzzConfig(fuzz) => fuzz.run(),
        Verb::Rows(rows) => rows.run(),
        Verb::Mutants(mutants) => mutants.run(),
        Verb::Vm(vm) => vm.run(),
        Verb::Lint => lint::run(),
        Verb::Dist => dist::run().map(|_| ExitCode::SUCCESS),
        Verb::Image => image::build().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|why| {
        eprintln!("\nerror: {why:#}");
        ExitCode::FAILURE
    })
}
