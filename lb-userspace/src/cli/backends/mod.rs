//! `sluice backends`: who is fit to take traffic, and what happened to them.

mod events;
mod list;

use crate::api::types::Status;
use crate::cli::Ended;
use crate::exit::{Exit, Failure};

/// List backends with their health, and what happened to them
#[derive(Debug, clap::Args)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        sluice backends list                         every backend: health, since when, and why\n  \
        sluice backends events                       every change of health, with its reason\n  \
        sluice backends events --follow              and those to come"
)]
pub struct Backends {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    List(list::List),
    Events(events::EventsVerb),
}

impl Backends {
    pub fn execute(self) -> Ended {
        match self.verb {
            Verb::List(list) => list.execute(),
            Verb::Events(events) => events.execute(),
        }
    }
}

/// A service that is asked for has to exist: an empty list would say that it has no backends.
fn must_exist(service: Option<&str>, status: &Status) -> Result<(), Failure> {
    let Some(name) = service else { return Ok(()) };
    if status.services.iter().any(|service| service.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
    Err(Failure::new(Exit::Usage, format!("there is no service called {name}"))
        .hint(format!("services: {}", known.join(", "))))
}
