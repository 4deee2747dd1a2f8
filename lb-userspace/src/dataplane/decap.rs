//! `sluice decap`: the decapsulator on a backend host's interface, for as long as the command runs.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfError, EbpfLoader};

use lb_common::addr::words6;
use lb_common::decap::{self, ANY_VNI, Vip};

use super::error::DataplaneError;
use super::{loader, object};

/// The running decapsulator; dropping it takes the program off.
pub struct Decap {
    // Holds the program and its link.
    _object: Ebpf,
    counters: PerCpuArray<MapData, [u64; 2]>,
    /// `native` or `generic`.
    pub mode: &'static str,
}

impl std::fmt::Debug for Decap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decap").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Packets unwrapped, and tunnelled packets left alone because their inner destination is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub unwrapped: u64,
    pub unlisted: u64,
}

/// How tunnels over UDP are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnels {
    pub gue_port: u16,
    pub vxlan_port: u16,
    pub geneve_port: u16,
    /// The network of VXLAN and Geneve; `None` for any.
    pub vni: Option<u32>,
}

impl Tunnels {
    /// The object with these as its load-time constants.
    pub fn load(&self, object: &[u8]) -> Result<Ebpf, EbpfError> {
        let [gue, vxlan, geneve] = [self.gue_port, self.vxlan_port, self.geneve_port].map(u16::to_be);
        EbpfLoader::new()
            .override_global(decap::GUE_PORT, &gue, true)
            .override_global(decap::VXLAN_PORT, &vxlan, true)
            .override_global(decap::GENEVE_PORT, &geneve, true)
            .override_global(decap::VNI, &self.vni.unwrap_or(ANY_VNI), true)
            .load(object)
    }
}

fn key(vip: IpAddr) -> Vip {
    match vip {
        IpAddr::V4(a) => Vip::v4(u32::from_ne_bytes(a.octets())),
        IpAddr::V6(a) => Vip::v6(words6(a.octets())),
    }
}

/// Attaches to `interface` and unwraps packets whose inner destination is one of `vips`.
pub fn start(
    interface: &str,
    mode: crate::model::XdpMode,
    tunnels: &Tunnels,
    vips: &BTreeSet<IpAddr>,
) -> Result<Decap, DataplaneError> {
    use crate::model::XdpMode as Wanted;

    let mut object = tunnels.load(object::DECAP).map_err(|e| loader::explain(&e))?;
    let program =
        object.program_mut("sluice_decap").ok_or_else(|| DataplaneError::Refused("no such program".into()))?;
    let xdp: &mut Xdp = program.try_into().map_err(|e: ProgramError| loader::explain_program(&e))?;
    xdp.load().map_err(|e| loader::explain_program(&e))?;
    let native = if mode == Wanted::Generic { None } else { Some(xdp.attach(interface, XdpMode::Driver)) };
    let mode = match native {
        Some(Ok(_)) => "native",
        Some(Err(e)) => match super::attach::attach_error(interface, &e) {
            DataplaneError::Attach { why, .. } if mode == Wanted::Native => {
                return Err(DataplaneError::NotNative { interface: interface.to_owned(), why });
            }
            DataplaneError::Attach { why, .. } => {
                tracing::warn!("{interface}: XDP runs in GENERIC mode, because the driver refused native mode: {why}");
                xdp.attach(interface, XdpMode::Skb).map_err(|e| super::attach::attach_error(interface, &e))?;
                "generic"
            }
            other => return Err(other),
        },
        None => {
            xdp.attach(interface, XdpMode::Skb).map_err(|e| super::attach::attach_error(interface, &e))?;
            "generic"
        }
    };
    let mut listed: HashMap<MapData, Vip, u32> = super::maps::take(&mut object, "DECAP_VIPS")?;
    let counters = super::maps::take(&mut object, "DECAP_COUNTERS")?;
    for vip in vips {
        let failed = |e: aya::maps::MapError| DataplaneError::Write { name: "DECAP_VIPS", why: e.to_string() };
        listed.insert(key(*vip), 1, 0).map_err(failed)?;
    }
    Ok(Decap { _object: object, counters, mode })
}

impl Decap {
    /// What it did so far.
    pub fn counts(&self) -> Result<Counts, DataplaneError> {
        let shares = self
            .counters
            .get(&0, 0)
            .map_err(|e| DataplaneError::Write { name: "DECAP_COUNTERS", why: e.to_string() })?;
        Ok(shares.iter().fold(Counts::default(), |sum, [unwrapped, unlisted]| Counts {
            unwrapped: sum.unwrapped + unwrapped,
            unlisted: sum.unlisted + unlisted,
        }))
    }
}

/// What `sluice decap` was told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub interface: String,
    pub xdp: crate::model::XdpMode,
    pub tunnels: Tunnels,
    /// Inner destinations to unwrap.
    pub vips: Vec<IpAddr>,
}

/// Attaches the program and stays until it is told to stop.
pub async fn run(options: Options) -> Result<(), crate::exit::Failure> {
    use tokio::signal::unix::{SignalKind, signal};

    crate::net::link::by_name(&options.interface)?;
    let listen = |kind| signal(kind).map_err(DataplaneError::from);
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let listed: BTreeSet<IpAddr> = options.vips.iter().copied().collect();
    let decap = start(&options.interface, options.xdp, &options.tunnels, &listed)?;
    tracing::info!(
        "{}: unwrapping packets for {} addresses, XDP in {} mode",
        options.interface,
        listed.len(),
        decap.mode
    );
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let counts = decap.counts()?;
    tracing::info!("unwrapped {} packets; {} were for addresses not listed", counts.unwrapped, counts.unlisted);
    Ok(())
}
