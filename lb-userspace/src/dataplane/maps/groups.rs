//! Groups of ports: what the longest prefix of a VIP leads to.
//!
//! A packet finds the group first and the port in it afterwards. So a group is never changed while a prefix names it: one
//! with other ports is another group, the prefix is pointed at it in one step, and the old one goes when no packet can be
//! in between any more. Numbers are not used again while anything of the old group is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use lb_common::service::{PORTS_KEY_BITS, from_ports_key, ports_key};

use crate::dataplane::error::DataplaneError;
use crate::dataplane::tables::PortGroup;
use crate::model::wildcards::{Block, Group};

/// What `PORTS` holds.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Entry by entry, as it was written.
    written: BTreeMap<u32, BTreeMap<(u32, u64), u32>>,
    /// Those that are whole.
    ids: HashMap<PortGroup, u32>,
    last: u32,
}

fn key(group: u32, block: &Block) -> (u32, u64) {
    (PORTS_KEY_BITS + u32::from(block.bits), ports_key(group, block.protocol.number(), block.port.to_be()))
}

/// How many entries different groups have together.
pub(super) fn blocks<'a>(groups: impl Iterator<Item = &'a PortGroup>) -> usize {
    groups.collect::<BTreeSet<_>>().into_iter().map(|group| group.len()).sum()
}

impl Groups {
    /// What is there is of an earlier controller. Which of its groups are whole is not known, but those that have the same
    /// entries as one that is wanted are.
    pub(super) fn resume(entries: impl Iterator<Item = ((u32, u64), u32)>) -> Self {
        let mut groups = Self::default();
        for ((bits, key), service) in entries {
            let (group, ..) = from_ports_key(key);
            groups.written.entry(group).or_default().insert((bits, key), service);
        }
        groups.last = groups.written.keys().next_back().copied().unwrap_or(0);
        groups
    }

    pub(super) fn id(&self, group: &PortGroup) -> Option<u32> {
        self.ids.get(group).copied()
    }

    /// Writes those that are not there yet.
    pub(super) fn add<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a PortGroup>,
        mut write: impl FnMut(&Key<u64>, u32) -> Result<(), DataplaneError>,
    ) -> Result<(), DataplaneError> {
        for group in wanted {
            if self.ids.contains_key(group) {
                continue;
            }
            if let Some(id) = self.find(group) {
                self.ids.insert(Arc::clone(group), id);
                continue;
            }
            self.last = self.last.wrapping_add(1).max(1);
            let id = self.last;
            let written = self.written.entry(id).or_default();
            for (block, service) in group.iter() {
                let (bits, data) = key(id, block);
                write(&Key::new(bits, data), *service)?;
                written.insert((bits, data), *service);
            }
            self.ids.insert(Arc::clone(group), id);
        }
        Ok(())
    }

    /// A group that was left by an earlier controller.
    fn find(&self, group: &Group<u32>) -> Option<u32> {
        let known: BTreeSet<u32> = self.ids.values().copied().collect();
        let same = |id: u32, written: &BTreeMap<(u32, u64), u32>| {
            written.len() == group.len() && group.iter().all(|(block, s)| written.get(&key(id, block)) == Some(s))
        };
        self.written.iter().find(|(id, written)| !known.contains(id) && same(**id, written)).map(|(id, _)| *id)
    }

    /// Removes those that no prefix names any more.
    pub(super) fn prune<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a PortGroup>,
        mut remove: impl FnMut(&Key<u64>) -> Result<(), DataplaneError>,
    ) -> Result<(), DataplaneError> {
        let used: BTreeSet<u32> = wanted.filter_map(|group| self.id(group)).collect();
        let stale: Vec<u32> = self.written.keys().copied().filter(|id| !used.contains(id)).collect();
        if stale.is_empty() {
            return Ok(());
        }
        self.ids.retain(|_, id| used.contains(id));
        wait_for_packets();
        for id in stale {
            let entries: Vec<(u32, u64)> = self.written.get(&id).into_iter().flat_map(|w| w.keys().copied()).collect();
            for (bits, data) in entries {
                remove(&Key::new(bits, data))?;
                if let Some(written) = self.written.get_mut(&id) {
                    written.remove(&(bits, data));
                }
            }
            self.written.remove(&id);
        }
        Ok(())
    }
}

/// Until no packet is on its way that may have read what was there before: the kernel waits for an RCU grace period. Where
/// it cannot (CPUs that run without ticks), a packet that is just then between its two lookups passes to the host.
fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes three integers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn group(ports: &[(u16, u8, u32)]) -> PortGroup {
        let block = |port, bits| Block { protocol: Protocol::Tcp, port, bits };
        Arc::new(ports.iter().map(|(port, bits, service)| (block(*port, *bits), *service)).collect())
    }

    fn add(groups: &mut Groups, wanted: &[PortGroup], kernel: &mut BTreeMap<(u32, u64), u32>) {
        let write = |key: &Key<u64>, service| {
            kernel.insert((key.prefix_len(), key.data()), service);
            Ok(())
        };
        groups.add(wanted.iter(), write).unwrap();
    }

    #[test]
    fn a_group_that_changes_is_another_one_and_what_is_the_same_is_written_once() {
        let (mut groups, mut kernel) = (Groups::default(), BTreeMap::new());
        let (a, b) = (group(&[(80, 16, 1)]), group(&[(80, 16, 1), (0, 0, 2)]));
        add(&mut groups, &[a.clone(), b.clone(), group(&[(80, 16, 1)])], &mut kernel);
        assert_eq!((groups.id(&a), groups.id(&b), kernel.len()), (Some(1), Some(2), 3));
        let prune = |groups: &mut Groups, wanted: &[PortGroup], kernel: &mut BTreeMap<(u32, u64), u32>| {
            let remove = |key: &Key<u64>| {
                kernel.remove(&(key.prefix_len(), key.data())).map(|_| ()).ok_or(DataplaneError::NotPermitted)
            };
            groups.prune(wanted.iter(), remove).unwrap();
        };
        let c = group(&[(80, 16, 3)]);
        add(&mut groups, &[c.clone(), b.clone()], &mut kernel);
        assert_eq!(groups.id(&c), Some(3));
        prune(&mut groups, &[c.clone(), b.clone()], &mut kernel);
        assert_eq!((groups.id(&a), kernel.len()), (None, 3));
        prune(&mut groups, &[], &mut kernel);
        assert!(kernel.is_empty());
    }

    #[test]
    fn what_an_earlier_controller_left_is_used_if_it_is_whole_and_removed_if_it_is_not() {
        let (mut groups, mut kernel) = (Groups::default(), BTreeMap::new());
        let (a, b) = (group(&[(80, 16, 1)]), group(&[(80, 16, 1), (0, 0, 2)]));
        add(&mut groups, &[a.clone(), b.clone()], &mut kernel);
        // Half of the second one was written when it died.
        kernel.retain(|(bits, data), _| !(from_ports_key(*data).0 == 2 && *bits == PORTS_KEY_BITS));
        let mut groups = Groups::resume(kernel.clone().into_iter());
        add(&mut groups, &[b.clone(), a.clone()], &mut kernel);
        assert_eq!(groups.ids.len(), 2);
        let mut removed = 0;
        let remove = |_: &Key<u64>| {
            removed += 1;
            Ok(())
        };
        groups.prune([a.clone(), b.clone()].iter(), remove).unwrap();
        assert_eq!(removed, 1);
    }
}
