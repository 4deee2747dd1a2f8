//! What the verbs that talk to the daemon have in common.

use std::path::PathBuf;
use std::str::FromStr;

use crate::api::client::Client;
use crate::cli::Ended;
use crate::cli::output::{self, Format};
use crate::exit::{Exit, Failure};
use crate::model::BackendState;

#[derive(Debug, clap::Args)]
pub struct Connection {
    /// The daemon's admin socket
    #[arg(
        long,
        value_name = "PATH",
        env = "SLUICE_SOCKET",
        hide_env_values = true,
        default_value = "/run/sluice/admin.sock"
    )]
    socket: PathBuf,
}

impl Connection {
    /// Runs a conversation with the daemon.
    pub fn talk<T>(&self, conversation: impl AsyncFnOnce(Client) -> Result<T, Failure>) -> Result<T, Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot start: {e}")))?
            .block_on(conversation(Client::new(&self.socket)))
    }

    /// Moves a backend to `state` and says what that did.
    pub fn set_backend_state(&self, target: Target, state: BackendState, format: Format) -> Ended {
        let answer = self.talk(async |client| client.set_backend_state(target.service, target.backend, state).await)?;
        output::data(format, &answer, |answer| {
            let name = format!("{}/{}", answer.service, answer.backend);
            match (answer.state, answer.changed) {
                (BackendState::Drain, true) => format!("{name} is draining: out of the ring, no new connections\n"),
                (BackendState::Drain, false) => format!("{name} was draining already\n"),
                (BackendState::Active, true) => format!("{name} takes new connections again\n"),
                (BackendState::Active, false) => format!("{name} was active already\n"),
            }
        })?;
        Ok(Exit::Ok)
    }
}

/// A backend as the operator names it: `SERVICE/BACKEND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub service: String,
    pub backend: String,
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((service, backend)) if !service.is_empty() && !backend.is_empty() => {
                Ok(Self { service: service.to_owned(), backend: backend.to_owned() })
            }
            _ => Err("name the service and the backend, as in `web/10.0.0.11`; `sluice status` lists them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_needs_both_names() {
        let target: Target = "web/[2001:db8::1]:80".parse().unwrap();
        assert_eq!((target.service.as_str(), target.backend.as_str()), ("web", "[2001:db8::1]:80"));
        for bad in ["web", "web/", "/b1", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} was accepted");
        }
    }
}
