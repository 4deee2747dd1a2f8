//! `sluice detach`: takes off the host what a stopped controller left running.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Ended;
use crate::cli::output::{self, Format};
use crate::config;
use crate::dataplane::{self, lock};
use crate::exit::Exit;
use crate::net::link;
use crate::net::vip::VipManager;

/// Take off the host what a stopped or killed sluice left running
///
/// With `on_exit: keep`, the default, the program goes on forwarding packets when the controller stops, and the next
/// start takes it over. This ends it: the program comes off the interfaces, its maps and what is saved beside them go,
/// and the VIPs that sluice added are removed. Connections through this node end. It refuses while a controller runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sudo systemctl stop sluice && sudo sluice detach\n  \
    sudo sluice detach -c /etc/sluice/sluice.yaml -o json\n  \
    sudo sluice detach --bpf-dir /sys/fs/bpf/lb --run-dir /run/lb")]
pub struct Detach {
    /// The configuration file, for its node.bpf_dir and node.run_dir
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where things are pinned [default: /sys/fs/bpf/sluice]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    bpf_dir: Option<PathBuf>,
    /// Where the lock and the list of VIPs are [default: /run/sluice]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    run_dir: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Report {
    programs: Vec<Program>,
    maps: usize,
    vips: Vec<Vip>,
}

#[derive(Debug, Serialize)]
struct Program {
    interface: String,
    program_id: u32,
}

#[derive(Debug, Serialize)]
struct Vip {
    interface: String,
    address: IpAddr,
}

impl Detach {
    pub fn execute(self) -> Ended {
        let (bpf_dir, run_dir) = match &self.config {
            Some(file) => {
                let node = config::load(file)?.node;
                (node.bpf_dir, node.run_dir)
            }
            None => (
                self.bpf_dir.unwrap_or_else(|| "/sys/fs/bpf/sluice".into()),
                self.run_dir.unwrap_or_else(|| "/run/sluice".into()),
            ),
        };
        let _lock = lock::acquire(&run_dir)?;
        // First the addresses, as long as the program answers for them.
        let mut vips = VipManager::open(&run_dir)?;
        let links = link::list()?;
        let name = |ifindex| links.iter().find(|l| l.index == ifindex).map_or(String::new(), |l| l.name.clone());
        let owned = vips.owned().map(|(ifindex, address)| Vip { interface: name(ifindex), address }).collect();
        vips.clear()?;
        let detached = dataplane::detach(&bpf_dir)?;
        let programs = detached.interfaces.into_iter();
        let report = Report {
            programs: programs.map(|(interface, program_id)| Program { interface, program_id }).collect(),
            maps: detached.maps,
            vips: owned,
        };
        output::data(self.output, &report, people)?;
        Ok(Exit::Ok)
    }
}

fn people(report: &Report) -> String {
    let Report { programs, maps, vips } = report;
    if programs.is_empty() && *maps == 0 && vips.is_empty() {
        return "there was nothing to remove\n".to_owned();
    }
    let mut text = String::new();
    for Program { interface, program_id } in programs {
        let _ = writeln!(text, "{interface}: detached program {program_id}");
    }
    for Vip { interface, address } in vips {
        let _ = writeln!(text, "{interface}: removed {address}");
    }
    let _ = writeln!(text, "removed {maps} maps");
    text
}
