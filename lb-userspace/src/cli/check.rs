//! `sluice check`: is the file right, and what will it need?
//!
//! It reads the file exactly as the daemon does and changes nothing, so it is safe anywhere: in an editor, in CI, on the
//! production host before a reload. On a host that has all the file's interfaces it asks the kernel for the way to
//! backends, too, because what some modes cannot do is not in the file.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::memory::{self, Estimate};
use crate::cli::output::{self, Format};
use crate::cli::{Ended, table};
use crate::config;
use crate::exit::Exit;
use crate::model::Model;
use crate::net;

/// Check a configuration file without touching anything
///
/// Prints every error with its line and a hint (exit code 3), or what the file amounts to: services, backends, the
/// memory the kernel's maps will take, and warnings about what is valid and still looks wrong. On a host that has all of the
/// file's interfaces, `dsr-l2` backends that its routes lead to through a router are errors, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice check -c /etc/sluice/sluice.yaml\n  \
    sluice check -c sluice.yaml -o wide          with the memory of every map\n  \
    sluice check -c sluice.yaml -o json | jq '.errors[] | \"\\(.line): \\(.message)\"'")]
pub struct Check {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The host we run on, in this network namespace. What it does not tell is no error of the file's.
#[derive(Debug)]
struct ThisHost;

impl config::Host for ThisHost {
    fn has_interface(&self, name: &str) -> bool {
        net::link::by_name(name).is_ok()
    }

    fn gateway(&self, destination: IpAddr) -> Option<IpAddr> {
        match net::route::ask_kernel(destination) {
            Ok(net::route::Answer::Via { gateway, .. }) => gateway,
            _ => None,
        }
    }
}

/// What a valid file amounts to.
#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    file: String,
    services: usize,
    backends: usize,
    interfaces: usize,
    warnings: Vec<String>,
    memory: Estimate,
}

impl Check {
    pub fn execute(self) -> Ended {
        let model = match config::load_for(&self.config, &ThisHost) {
            Ok(model) => model,
            Err(diagnostics) => return self.refuse(&diagnostics),
        };
        let report = Report {
            valid: true,
            file: self.config.display().to_string(),
            services: model.services.len(),
            backends: model.services.iter().map(|service| service.backends.len()).sum(),
            interfaces: model.node.interfaces.len(),
            warnings: config::warnings(&model),
            memory: memory::estimate(&model)?,
        };
        output::data(self.output, &report, |report| people(report, &model, self.output == Format::Wide))?;
        if matches!(self.output, Format::Table | Format::Wide) {
            for warning in &report.warnings {
                output::talk(&format!("warning: {warning}"));
            }
        }
        Ok(Exit::Ok)
    }

    fn refuse(&self, diagnostics: &config::Diagnostics) -> Ended {
        match self.output {
            // As a compiler does: each line begins with the place, so that editors can jump to it.
            Format::Table | Format::Wide => output::talk(&diagnostics.to_string()),
            Format::Json | Format::Yaml => {
                let mut report = serde_json::json!({ "valid": false });
                if let (Some(report), serde_json::Value::Object(errors)) =
                    (report.as_object_mut(), diagnostics.to_json())
                {
                    report.extend(errors);
                }
                output::data(self.output, &report, |_| String::new())?;
            }
        }
        Ok(Exit::ConfigInvalid)
    }
}

fn people(report: &Report, model: &Model, wide: bool) -> String {
    let mut text = format!(
        "OK: {}, {}, {}\n",
        count(report.services, "service"),
        count(report.backends, "backend"),
        count(report.interfaces, "interface")
    );
    for service in &model.services {
        let listen: Vec<String> = service.listen.iter().map(ToString::to_string).collect();
        let protocols: Vec<&str> = service.protocols.iter().map(|protocol| protocol.name()).collect();
        text.push_str(&format!(
            "  {}  {} {}  {}  {}\n",
            service.name,
            protocols.join("+"),
            listen.join(" "),
            service.forward.name(),
            count(service.backends.len(), "backend")
        ));
    }
    let memory = &report.memory;
    text.push_str(&format!(
        "memory: {} for the kernel's maps, at most {} (limits: {} services, {} backends; {} CPUs)\n",
        table::bytes(memory.bytes, false),
        table::bytes(memory.bytes_at_most, false),
        model.limits.services,
        model.limits.backends,
        memory.cpus
    ));
    if wide {
        for map in memory.maps.iter().filter(|map| map.bytes_at_most > 0) {
            let bytes = table::bytes(map.bytes, false);
            text.push_str(&format!("  {bytes:>10}  {} ({} entries)", map.name, map.entries));
            if map.bytes_at_most > map.bytes {
                text.push_str(&format!(", {} when full", table::bytes(map.bytes_at_most, false)));
            }
            text.push('\n');
        }
    }
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
