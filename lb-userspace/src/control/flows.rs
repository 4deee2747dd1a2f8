//! The flows that are written down, for `sluice flows`.
//!
//! They are those that showed a packet while their row moved, and those that are tracked. Of other flows there is no
//! list, which is what makes a packet cost the same whatever their number.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use lb_common::flow::{PHASE_CLOSING, PHASE_ESTABLISHED};

use crate::api::types::{Flow, FlowFilter, FlowPhase, FlowRow, FlowTable, Flows};
use crate::dataplane::clock;
use crate::dataplane::flows::{Cursor, Table};
use crate::exit::{Exit, Failure};
use crate::model::{Backend, Protocol, Tracking};

use super::controller::Controller;

impl Controller {
    /// How many flows each backend has that are tracked, by service id and backend id.
    pub(super) fn count_tracked(&self) -> Result<HashMap<u32, BTreeMap<u16, u64>>, Failure> {
        let mut counts: HashMap<u32, BTreeMap<u16, u64>> = HashMap::new();
        let mut cursor = Cursor::new(Table::Tracked);
        while self.model.services.iter().any(|s| s.tracking == Tracking::Full) && !cursor.is_done() {
            for (_, entry) in self.dataplane.read_flows(&mut cursor)?.into_iter().filter(|(_, e)| e.state.is_taken()) {
                *counts.entry(entry.service).or_default().entry(entry.state.life().backend()).or_default() += 1;
            }
        }
        Ok(counts)
    }

    /// Those that the filter wants, at most `filter.limit` of them.
    pub(super) fn flows(&self, filter: &FlowFilter) -> Result<Flows, Failure> {
        if let Some(name) = &filter.service
            && !self.model.services.iter().any(|s| s.name == *name)
        {
            return Err(Failure::new(Exit::Usage, format!("there is no service called {name}"))
                .hint("`sluice status` lists them"));
        }
        let services: HashMap<u32, &str> =
            self.model.services.iter().filter_map(|s| Some((self.ids.service(&s.name)?, s.name.as_str()))).collect();
        let all =
            self.model.services.iter().flat_map(|s| self.view().backends(s).map(move |b| (s, b)).collect::<Vec<_>>());
        let backends: HashMap<u16, &Backend> =
            all.filter_map(|(service, backend)| Some((self.ids.backend(service, backend)?, backend))).collect();
        let now = clock::seconds();
        let mut out = Flows::default();
        let mut cursor = Cursor::new(Table::Rows);
        loop {
            if cursor.is_done() {
                if cursor.table() == Table::Tracked {
                    break;
                }
                cursor = Cursor::new(Table::Tracked);
            }
            for (key, entry) in self.dataplane.read_flows(&mut cursor)? {
                if !entry.state.is_taken() {
                    continue;
                }
                let id = entry.state.life().backend();
                let backend = backends.get(&id);
                let (client, vip) = key.ends();
                let service = services.get(&entry.service).copied().unwrap_or_default();
                if !wanted(filter, service, client, backend.copied()) {
                    continue;
                }
                // Its row has the last word, and has been listed.
                if cursor.table() == Table::Tracked && self.dataplane.is_written_down(&key, &entry)? {
                    continue;
                }
                out.total += 1;
                if out.flows.len() as u64 >= filter.limit {
                    continue;
                }
                let tcp = key.ring(entry.service).protocol == Protocol::Tcp.number();
                out.flows.push(Flow {
                    service: service.to_owned(),
                    protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                    client,
                    vip,
                    backend: backend.map_or_else(|| format!("id {id}"), |b| b.name.clone()),
                    phase: match entry.state.phase() {
                        PHASE_ESTABLISHED => FlowPhase::Established,
                        PHASE_CLOSING => FlowPhase::Closing,
                        _ => FlowPhase::Opening,
                    },
                    silent_seconds: now.saturating_sub(entry.state.last()),
                    row: match self.dataplane.row_of(&key, &entry) {
                        Some(row) if row.is_moving(now) => FlowRow::Moving,
                        Some(row) if !row.is_steady() => FlowRow::Exceptions,
                        _ => FlowRow::Steady,
                    },
                    table: match cursor.table() {
                        Table::Rows => FlowTable::Row,
                        Table::Tracked => FlowTable::Tracked,
                    },
                });
            }
        }
        out.flows.sort_by(|a, b| (&a.service, a.client, a.vip).cmp(&(&b.service, b.client, b.vip)));
        Ok(out)
    }
}

fn wanted(filter: &FlowFilter, service: &str, client: SocketAddr, backend: Option<&Backend>) -> bool {
    let is = |name: &String, backend: &Backend| {
        backend.name == *name || name.parse::<IpAddr>().is_ok_and(|ip| ip == backend.address)
    };
    filter.service.as_ref().is_none_or(|name| name == service)
        && filter.client.is_none_or(|ip| ip == client.ip())
        && filter.backend.as_ref().is_none_or(|name| backend.is_some_and(|backend| is(name, backend)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BackendState;

    #[test]
    fn a_filter_takes_what_all_its_parts_take() {
        let all = FlowFilter { service: None, client: None, backend: None, limit: 10 };
        let backend = Backend {
            name: "b".to_owned(),
            address: [10, 0, 0, 1].into(),
            port: None,
            inner_mac: None,
            fallback: false,
            weight: 100,
            state: BackendState::Active,
        };
        let client = "192.0.2.7:1234".parse().unwrap();
        let named = |name: &str| Some(name.to_owned());
        for (filter, taken) in [
            (all.clone(), true),
            (FlowFilter { service: named("web"), ..all.clone() }, true),
            (FlowFilter { service: named("dns"), ..all.clone() }, false),
            (FlowFilter { client: Some([192, 0, 2, 7].into()), backend: named("b"), ..all.clone() }, true),
            (FlowFilter { client: Some([192, 0, 2, 8].into()), backend: named("b"), ..all.clone() }, false),
            (FlowFilter { backend: named("10.0.0.1"), ..all.clone() }, true),
            (FlowFilter { backend: named("10.0.0.2"), ..all.clone() }, false),
        ] {
            assert_eq!(wanted(&filter, "web", client, Some(&backend)), taken, "{filter:?}");
        }
        assert!(!wanted(&FlowFilter { backend: named("b"), ..all }, "web", client, None), "nobody's");
    }
}
