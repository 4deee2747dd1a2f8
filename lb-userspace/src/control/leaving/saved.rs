//! Leaving backends as they are saved for the next controller.

use std::net::IpAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Leaver, Leaving, key};
use crate::model::{Backend, BackendState, Mac};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedLeaver {
    service: String,
    name: String,
    address: IpAddr,
    port: Option<u16>,
    #[serde(default)]
    inner_mac: Option<Mac>,
    weight: u32,
    state: BackendState,
}

impl Leaving {
    pub fn save(&self) -> Vec<SavedLeaver> {
        let saved = |((service, ..), Leaver { backend, .. }): (&super::Key, &Leaver)| SavedLeaver {
            service: service.clone(),
            name: backend.name.clone(),
            address: backend.address,
            port: backend.port,
            inner_mac: backend.inner_mac,
            weight: backend.weight,
            state: backend.state,
        };
        self.0.iter().map(saved).collect()
    }

    /// As they were saved; scans that began before do not count.
    pub fn restore(saved: &[SavedLeaver], now: Instant) -> Self {
        let leaver = |saved: &SavedLeaver| {
            let SavedLeaver { service, name, address, port, inner_mac, weight, state } = saved.clone();
            // It gets no new flows, so that it does not matter when it did.
            let backend = Backend { name, address, port, inner_mac, weight, state, fallback: false };
            (key(&service, &backend), Leaver { backend, since: now })
        };
        Self(saved.iter().map(leaver).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_leaving_still_leaves_after_a_restart() {
        let now = Instant::now();
        let backend = Backend {
            name: "b@10.0.0.2:80".into(),
            address: "10.0.0.2".parse().unwrap(),
            port: Some(80),
            inner_mac: Some(Mac([2, 0, 0, 0, 0, 9])),
            weight: 7,
            state: BackendState::Drain,
            fallback: false,
        };
        let leaving = Leaving([(key("web", &backend), Leaver { backend, since: now })].into());
        let text = serde_json::to_string(&leaving.save()).unwrap();
        assert_eq!(Leaving::restore(&serde_json::from_str::<Vec<_>>(&text).unwrap(), now), leaving);
    }
}
