//! The command line, one verb per file.
//!
//! stdout is data, stderr is talk. A verb parses its arguments into types here, does its work, and returns how the
//! process ends; only `main` exits.

pub mod backends;
pub mod check;
pub mod columns;
pub mod config;
pub mod confirm;
pub mod connection;
pub mod decap;
pub mod detach;
pub mod drain;
pub mod drops;
pub mod flows;
pub mod memory;
pub mod output;
pub mod plan;
pub mod reload;
pub mod rollback;
pub mod run;
pub mod status;
pub mod table;
pub mod undrain;
pub mod version;
pub mod watch;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// How a verb ends.
pub type Ended = Result<Exit, Failure>;

/// A kernel-bypass layer-4 load balancer: one binary, one YAML file.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    disable_help_subcommand = true,
    max_term_width = 120,
    after_help = "A first session:\n  \
        sluice config init sluice.yaml     a file to start from; put in your addresses\n  \
        sluice check -c sluice.yaml        is the file right? what will it need?\n  \
        sudo sluice run -c sluice.yaml     balance until told to stop\n  \
        sluice status --watch              in another terminal: who gets what, who is down\n  \
        sluice backends events             which backend went down or up, when, and why\n  \
        sluice drops                       what was dropped, and why\n  \
        sluice drain web/10.0.0.11         no new connections for one backend\n  \
        sluice plan -c sluice.yaml         after editing the file: what would change, and what would break?\n  \
        sluice reload                      apply it"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(run::Run),
    Check(check::Check),
    Config(config::Config),
    Plan(plan::PlanVerb),
    Reload(reload::Reload),
    Confirm(confirm::Confirm),
    Rollback(rollback::Rollback),
    Status(status::StatusVerb),
    Backends(backends::Backends),
    Drain(drain::Drain),
    Undrain(undrain::Undrain),
    Flows(flows::FlowsVerb),
    Drops(drops::DropsVerb),
    Detach(detach::Detach),
    Decap(decap::Decap),
    Version(version::Version),
}

/// Reads the command line; `--help` and mistakes end the process here.
pub fn parse() -> Verb {
    let matches = command().get_matches();
    match Args::from_arg_matches(&matches) {
        Ok(args) => args.verb,
        Err(e) => e.exit(),
    }
}

/// The whole command line as clap sees it.
pub fn command() -> clap::Command {
    let mut codes = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        codes.push_str(&format!("  {}  {}\n", exit as u8, exit.meaning()));
    }
    let command = Args::command();
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command.after_long_help(format!("{examples}\n\n{}", codes.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_every_verb_has_an_example() {
        let command = command();
        command.clone().debug_assert();
        every_verb_has_an_example(&command);
    }

    fn every_verb_has_an_example(command: &clap::Command) {
        for verb in command.get_subcommands() {
            let name = format!("{} {}", command.get_name(), verb.get_name());
            assert!(verb.get_about().is_some(), "{name} says nothing about itself");
            let examples = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&name), "{name} --help shows no example");
            every_verb_has_an_example(verb);
        }
    }
}
