//! `sluice plan`: what a reload would change, and which connections it would break.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::types::{BackendPlan, Change, Plan, PlanRequest, RingPlan, ServicePlan};
use crate::cli::Ended;
use crate::cli::connection::Connection;
use crate::cli::output::{self, Format, Paint};
use crate::config;
use crate::exit::{Exit, Failure};

/// Say what a reload would change, before anything is written
///
/// Services and backends that come, go and change; rows of rings that get another owner, and the part of the traffic
/// that is on them; connections that will break, and why. Connections on rows that get another owner stay where they
/// are: only new ones go to the new owner. How many there are is not known, and not guessed, because rows that have
/// settled keep no list of their flows; where a service has `tracking: full`, its flows are counted.
///
/// The daemon compares the file with what it serves. Without a daemon this checks the file, and ends with exit code 4.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice plan -c new.yaml\n  \
    sluice plan                                  of the daemon's own file, as `sluice reload --dry-run`\n  \
    sluice plan -c new.yaml -o json | jq -e '.breaks == []' && cp new.yaml /etc/sluice/sluice.yaml && sluice reload")]
pub struct PlanVerb {
    /// The new configuration; without it, the daemon's own file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl PlanVerb {
    pub fn execute(self) -> Ended {
        let request = self.config.as_deref().map(read).transpose()?;
        let plan = self.connection.talk(async |client| client.plan(request.as_ref()).await);
        let plan = plan.map_err(|failure| match &self.config {
            Some(file) if failure.exit == Exit::DaemonUnreachable => {
                let message = format!("{} is valid, and what it would change is not known: {failure}", file.display());
                Failure { message, ..failure }
            }
            _ => failure,
        })?;
        show(self.output, &plan)
    }
}

/// The file's text, if it is valid: what is wrong in it is better told with the name that was typed.
fn read(file: &Path) -> Result<PlanRequest, Failure> {
    let (text, _) = config::load_text(file)?;
    Ok(PlanRequest { file: file.display().to_string(), text })
}

/// Prints a plan.
pub(super) fn show(format: Format, plan: &Plan) -> Ended {
    output::data(format, plan, |plan| people(plan, Paint::for_stream(&io::stdout())))?;
    Ok(Exit::Ok)
}

fn people(plan: &Plan, paint: Paint) -> String {
    let mut out = String::new();
    if plan.changes.is_empty() && plan.services.is_empty() {
        let _ = writeln!(out, "nothing would change (generation {})", plan.generation);
        return out;
    }
    let _ = writeln!(out, "compared with what runs (generation {}):", plan.generation);
    for change in plan.changes.iter().filter(|c| !c.starts_with("service ")) {
        let _ = writeln!(out, "~ {change}");
    }
    for service in &plan.services {
        service_lines(&mut out, service, paint);
    }
    if let Some(share) = plan.traffic_share.filter(|share| *share > 0.0) {
        let _ = writeln!(out, "\nof all traffic since the start, at most {} was on rows that move", percent(share));
    }
    out.push('\n');
    if plan.breaks.is_empty() {
        let _ = writeln!(out, "{}", paint.good("connections that will break: none"));
    } else {
        let _ = writeln!(out, "{}", paint.bad("connections that will BREAK"));
        for broken in &plan.breaks {
            let service = broken.service.as_ref().map_or(String::new(), |name| format!("service {name}: "));
            let _ = writeln!(out, "  - {service}{}: {}", broken.connections, broken.why);
        }
    }
    if !plan.assumptions.is_empty() {
        out.push_str("provided that\n");
        for assumption in &plan.assumptions {
            let _ = writeln!(out, "  - {assumption}");
        }
    }
    out
}

fn service_lines(out: &mut String, service: &ServicePlan, paint: Paint) {
    let line = format!("{} service {}", sign(service.change), service.name);
    let _ = writeln!(out, "{}", painted(service.change, &line, paint));
    for setting in &service.settings {
        let _ = writeln!(out, "    ~ {setting}");
    }
    for backend in &service.backends {
        let _ = writeln!(out, "    {}", painted(backend.change, &backend_line(backend), paint));
    }
    for ring in &service.rings {
        let _ = writeln!(out, "    {}", ring_line(ring));
    }
    if let Some(tracked) = service.tracked {
        let _ = writeln!(out, "    flows tracked now: {tracked}");
    }
    if service.written_down > 0 {
        let _ = writeln!(out, "    flows written down by earlier changes: {}", service.written_down);
    }
}

fn backend_line(backend: &BackendPlan) -> String {
    let endpoint = match backend.port {
        Some(port) => std::net::SocketAddr::new(backend.address, port).to_string(),
        None => backend.address.to_string(),
    };
    let name = if backend.name == endpoint { endpoint } else { format!("{} ({endpoint})", backend.name) };
    let what = match backend.change {
        Change::Removed => "gets no new flows, and keeps those it has until they end".to_owned(),
        _ => backend.what.join(", "),
    };
    let flows = backend.tracked.map_or(String::new(), |n| format!(" (flows tracked now: {n})"));
    format!("{} backend {name}: {what}{flows}", sign(backend.change))
}

fn ring_line(ring: &RingPlan) -> String {
    let what = format!("ring {}/{}", ring.family, ring.protocol.name());
    let size = match ring.rows_before {
        0 => return format!("{what}: {} rows, new", ring.rows),
        before if before != ring.rows => format!("grows from {before} to {} rows; ", ring.rows),
        _ => String::new(),
    };
    let (moved, rows) = (ring.rows_moved, ring.rows);
    format!("{what}: {size}{moved} of {rows} rows get another owner, with {} of its flows", percent(ring.share))
}

const fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    }
}

fn painted(change: Change, text: &str, paint: Paint) -> String {
    match change {
        Change::Added => paint.good(text),
        Change::Removed => paint.warn(text),
        Change::Changed => text.to_owned(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
