//! `cargo xtask mutants` runs this: one small fault at a time in the data plane, and the tests that must notice.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lb_tests::mutants::judge::judge;
use lb_tests::mutants::run::{Options, list, run};

/// Changes the data plane in one place at a time and tells which changes no test notices.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where copies of the checkout and results are kept
    #[arg(long, value_name = "DIR", default_value = "target/mutants")]
    directory: PathBuf,
    /// Only files whose path contains this; may be given several times
    #[arg(long = "file", value_name = "F")]
    files: Vec<String>,
    /// Print the mutants and run none
    #[arg(long)]
    list: bool,
    /// How many at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Go on with an interrupted run of the same sources and tests
    #[arg(long)]
    resume: bool,
    /// Keep what an earlier run of the same sources found caught, with whatever tests; try the rest
    #[arg(long)]
    missed: bool,
    /// Only files that have changed since all their mutants were tried
    #[arg(long)]
    changed: bool,
    /// Run the tests in the kernel on the objects in this directory; this program calls itself so for each mutant
    #[arg(long, value_name = "OBJECTS", hide = true)]
    judge: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0)]
    cpu: usize,
}

fn main() -> ExitCode {
    let Arguments { directory, files, list: only_list, jobs, resume, missed, changed, judge: objects, cpu } =
        Arguments::parse();
    let options = Options { directory, files, resume, missed, changed, jobs };
    let done = match objects {
        Some(objects) => judge(&objects, cpu).map(|judgement| judgement.tell()),
        None if only_list => list(&options).map(|()| ExitCode::SUCCESS),
        None => run(&options),
    };
    done.unwrap_or_else(|why| {
        eprintln!("error: {why:#}");
        ExitCode::FAILURE
    })
}
