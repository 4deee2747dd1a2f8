//! The `sluice` binary: read the command line, do one verb, say how it ended. Everything else is in the library.

use std::process::ExitCode;

use sluice::cli::{self, Verb};

fn main() -> ExitCode {
    let ended = match cli::parse() {
        Verb::Run(run) => run.execute(),
        Verb::Check(check) => check.execute(),
        Verb::Config(config) => config.execute(),
        Verb::Plan(plan) => plan.execute(),
        Verb::Reload(reload) => reload.execute(),
        Verb::Confirm(confirm) => confirm.execute(),
        Verb::Rollback(rollback) => rollback.execute(),
        Verb::Status(status) => status.execute(),
        Verb::Backends(backends) => backends.execute(),
        Verb::Drain(drain) => drain.execute(),
        Verb::Undrain(undrain) => undrain.execute(),
        Verb::Flows(flows) => flows.execute(),
        Verb::Drops(drops) => drops.execute(),
        Verb::Detach(detach) => detach.execute(),
        Verb::Decap(decap) => decap.execute(),
        Verb::Version(version) => version.execute(),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            cli::output::report(&failure);
            failure.exit.into()
        }
    }
}
