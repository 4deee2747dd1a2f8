//! `sluice flows`: the flows that are written down.

use std::net::IpAddr;

use crate::api::types::{Flow, FlowFilter, FlowPhase, FlowRow, FlowTable, Flows};
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format};
use crate::exit::Exit;

/// List the flows that are written down: who, to which backend, since when silent
///
/// These are not all flows, unless the service has `tracking: full`. Rows that have settled keep no list of their flows,
/// which is why a packet costs the same with one flow and with a million. What is listed are the flows that showed a packet
/// while their row moved: after a change of backends or weights, until the row has settled again; and those that are
/// tracked, under TABLE. With no changes for a while, and nothing tracked, the list is empty.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice flows\n  \
    sluice flows --service web --backend 10.0.0.11\n  \
    sluice flows --client 192.0.2.7 -o json | jq '.flows[].backend'")]
pub struct FlowsVerb {
    /// Of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// From this client
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// On this backend, by its name or address
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    /// List at most so many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(..=200_000))]
    limit: u64,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl FlowsVerb {
    pub fn execute(self) -> Ended {
        let Self { service, client, backend, limit, connection, output } = self;
        let filter = FlowFilter { service, client, backend, limit };
        let flows = connection.talk(async |client| client.flows(&filter).await)?;
        output::data(output, &flows, people)?;
        if matches!(output, Format::Table | Format::Wide) {
            let listed = flows.flows.len() as u64;
            if flows.total > listed {
                output::talk(&format!("{listed} of {} flows; --limit lists more", flows.total));
            } else if listed == 0 {
                output::talk(
                    "no flow is written down: all rows have settled, or nobody sent a packet since they moved; `tracking: full` \
                     lists every flow of a service",
                );
            }
        }
        Ok(Exit::Ok)
    }
}

fn people(flows: &Flows) -> String {
    if flows.flows.is_empty() {
        return String::new();
    }
    let head = ["SERVICE", "PROTO", "CLIENT", "VIP", "BACKEND", "PHASE", "SILENT", "ROW", "TABLE"].map(str::to_owned);
    let lines: Vec<[String; 9]> = std::iter::once(head).chain(flows.flows.iter().map(line)).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            text.push_str(&format!("{cell:<width$}  "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn line(flow: &Flow) -> [String; 9] {
    let phase = match flow.phase {
        FlowPhase::Opening => "opening",
        FlowPhase::Established => "established",
        FlowPhase::Closing => "closing",
    };
    let row = match flow.row {
        FlowRow::Moving => "moving",
        FlowRow::Exceptions => "exceptions",
        FlowRow::Steady => "steady",
    };
    let table = match flow.table {
        FlowTable::Row => "row",
        FlowTable::Tracked => "tracked",
    };
    [
        if flow.service.is_empty() { "-".to_owned() } else { flow.service.clone() },
        flow.protocol.name().to_owned(),
        flow.client.to_string(),
        flow.vip.to_string(),
        flow.backend.clone(),
        phase.to_owned(),
        format!("{}s", flow.silent_seconds),
        row.to_owned(),
        table.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn a_flow_is_a_line_under_its_columns() {
        let flow = Flow {
            service: "web".to_owned(),
            protocol: Protocol::Tcp,
            client: "192.0.2.7:54321".parse().unwrap(),
            vip: "203.0.113.10:443".parse().unwrap(),
            backend: "10.0.0.11".to_owned(),
            phase: FlowPhase::Established,
            silent_seconds: 3,
            row: FlowRow::Moving,
            table: FlowTable::Row,
        };
        let text = people(&Flows { flows: vec![flow], total: 1 });
        assert_eq!(
            text,
            "SERVICE  PROTO  CLIENT           VIP               BACKEND    PHASE        SILENT  ROW     TABLE\n\
             web      tcp    192.0.2.7:54321  203.0.113.10:443  10.0.0.11  established  3s      moving  row\n"
        );
        assert_eq!(people(&Flows::default()), "");
    }
}
