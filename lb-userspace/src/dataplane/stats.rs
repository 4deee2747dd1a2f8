//! Per-CPU counters, summed.

use aya::maps::{MapData, PerCpuArray, PerCpuValues};

use lb_common::counters::{BackendCounters, FlowCounters, ServiceCounters, TrackedCounters};

use super::error::DataplaneError;

/// A counter value that other CPUs' shares can be added to.
pub(super) trait Counters: aya::Pod + Default {
    fn add(&mut self, other: &Self);
}

impl Counters for ServiceCounters {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }
}

impl Counters for FlowCounters {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }
}

impl Counters for TrackedCounters {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }
}

impl Counters for BackendCounters {
    fn add(&mut self, other: &Self) {
        Self::add(self, other);
    }
}

pub(super) fn read<C: Counters>(
    map: &PerCpuArray<MapData, C>,
    name: &'static str,
    index: u32,
) -> Result<C, DataplaneError> {
    let shares = map.get(&index, 0).map_err(|e| DataplaneError::Write { name, why: e.to_string() })?;
    let mut sum = C::default();
    for share in shares.iter() {
        sum.add(share);
    }
    Ok(sum)
}

pub(super) fn reset<C: Counters>(
    map: &mut PerCpuArray<MapData, C>,
    name: &'static str,
    index: u32,
) -> Result<(), DataplaneError> {
    let failed = |why: String| DataplaneError::Write { name, why };
    let cpus = aya::util::nr_cpus().map_err(|(_, e)| failed(e.to_string()))?;
    let zeroes = PerCpuValues::try_from(vec![C::default(); cpus]).map_err(|e| failed(e.to_string()))?;
    map.set(index, zeroes, 0).map_err(|e| failed(e.to_string()))
}
