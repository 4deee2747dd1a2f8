//! Listening on prefixes and ranges of ports, as the packet path looks for it: the longest prefix of the address that there
//! is leads to a group, and there the port leads to the service.
//!
//! The trap is that the longest prefix need not have the port. So a group has, beside what its own prefix has, whatever
//! shorter prefixes have for the ports that are left: then the first answer is the right one.
//!
//! A range is cut into blocks of 2^k ports that begin alike, at most 30 of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::listen::{Listen, Ports};
use super::{Prefix, Protocol};

/// Ports whose first `bits` bits are those of `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    pub protocol: Protocol,
    pub port: u16,
    pub bits: u8,
}

/// Who gets which ports.
pub type Group<T> = BTreeMap<Block, T>;

/// Who listens on which ports.
type Resolved<T> = BTreeMap<Protocol, Vec<(Ports, T)>>;

/// They would take more blocks than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Who gets what: a group for each prefix. Exact endpoints are not among `wanted`, nor is any that cannot be told from
/// another's ([`Listen::rank`]). `room` is for the blocks of different groups together.
pub fn groups<T: Copy + Ord>(
    wanted: impl IntoIterator<Item = (Listen, Protocol, T)>,
    room: usize,
) -> Result<BTreeMap<Prefix, Arc<Group<T>>>, TooMany> {
    let mut own: BTreeMap<Prefix, Resolved<T>> = BTreeMap::new();
    for (listen, protocol, owner) in wanted {
        own.entry(listen.prefix).or_default().entry(protocol).or_default().push((listen.ports, owner));
    }
    let mut all = BTreeMap::new();
    let mut different: BTreeSet<Arc<Group<T>>> = BTreeSet::new();
    let mut used = 0;
    // Prefixes that contain the one at hand, the shortest first: in the order of the map, by address and then length, a
    // prefix comes right before what is in it.
    let mut around: Vec<(Prefix, Resolved<T>)> = Vec::new();
    for (prefix, protocols) in own {
        while around.last().is_some_and(|(outer, _)| !outer.contains(prefix.address)) {
            around.pop();
        }
        let mut resolved = around.last().map_or_else(Resolved::new, |(_, outer)| outer.clone());
        for (protocol, ranges) in protocols {
            let outer = resolved.remove(&protocol).unwrap_or_default();
            let outer = outer.into_iter().map(|(ports, owner)| (true, ports, owner));
            let ranges = ranges.into_iter().map(|(ports, owner)| (false, ports, owner));
            resolved.insert(protocol, resolve(ranges.chain(outer).collect()));
        }
        let mut group = Group::new();
        for (protocol, ranges) in &resolved {
            for (ports, owner) in ranges {
                group.extend(blocks(*ports).map(|(port, bits)| (Block { protocol: *protocol, port, bits }, *owner)));
            }
        }
        let group = match different.get(&group) {
            Some(known) => Arc::clone(known),
            None => {
                used += group.len();
                if used > room {
                    return Err(TooMany);
                }
                let group = Arc::new(group);
                different.insert(Arc::clone(&group));
                group
            }
        };
        all.insert(prefix, group);
        around.push((prefix, resolved));
    }
    Ok(all)
}

/// Who gets each port, in ranges that do not overlap: of those that have it the one of the own prefix (`false` comes before
/// `true`), and then the one with the fewest ports.
fn resolve<T: Copy + Ord>(ranges: Vec<(bool, Ports, T)>) -> Vec<(Ports, T)> {
    let mut begins: Vec<_> = ranges;
    begins.sort_unstable_by_key(|(_, ports, _)| ports.first);
    // Where something begins or has just ended.
    let edges = begins.iter().flat_map(|(_, ports, _)| [u32::from(ports.first), u32::from(ports.last) + 1]);
    let edges: BTreeSet<u32> = edges.collect();
    let mut begins = begins.into_iter().peekable();
    let mut there: BTreeSet<(bool, u32, u16, T)> = BTreeSet::new();
    let mut out: Vec<(Ports, T)> = Vec::new();
    for (edge, next) in edges.iter().zip(edges.iter().skip(1)) {
        while let Some((outer, ports, owner)) = begins.next_if(|(_, ports, _)| u32::from(ports.first) <= *edge) {
            there.insert((outer, ports.count(), ports.last, owner));
        }
        // Who is best may have ended; whoever is behind it is looked at when it comes to the front.
        while there.first().is_some_and(|(_, _, last, _)| u32::from(*last) < *edge) {
            there.pop_first();
        }
        let Some((.., owner)) = there.first() else { continue };
        let (first, last) = (*edge as u16, (*next - 1) as u16);
        match out.last_mut() {
            Some((ports, before)) if before == owner && u32::from(ports.last) + 1 == *edge => ports.last = last,
            _ => out.push((Ports { first, last }, *owner)),
        }
    }
    out
}

/// The fewest blocks that make up a range: first port, and how many bits its ports have in common.
fn blocks(ports: Ports) -> impl Iterator<Item = (u16, u8)> {
    let (mut next, end) = (u32::from(ports.first), u32::from(ports.last) + 1);
    std::iter::from_fn(move || {
        let left = end.checked_sub(next).filter(|left| *left > 0)?;
        // As large as its place allows, and as the rest does.
        let size = next.trailing_zeros().min(left.ilog2()).min(16);
        let block = (next as u16, 16 - size as u8);
        next += 1 << size;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn listen(text: &str, length: u8, first: u16, last: u16) -> Listen {
        Listen { prefix: Prefix { address: text.parse().unwrap(), length }, ports: Ports { first, last } }
    }

    #[test]
    fn a_range_is_cut_into_blocks_that_cover_it_and_nothing_else() {
        let of = |first, last| blocks(Ports { first, last }).collect::<Vec<_>>();
        assert_eq!(of(0, 65_535), [(0, 0)]);
        assert_eq!(of(443, 443), [(443, 16)]);
        assert_eq!(of(8000, 8100), [(8000, 10), (8064, 11), (8096, 14), (8100, 16)]);
        // The worst there is.
        assert_eq!(of(1, 65_534).len(), 30);
        for (first, last) in [(0, 0), (1, 65_534), (65_535, 65_535), (7, 9), (0, 32_767), (32_767, 32_768), (5, 60_001)]
        {
            let mut ports: Vec<u32> = of(first, last)
                .into_iter()
                .flat_map(|(port, bits)| (0..1u32 << (16 - bits)).map(move |i| u32::from(port) + i))
                .collect();
            ports.sort_unstable();
            assert!(ports.into_iter().eq(u32::from(first)..=u32::from(last)), "{first}-{last}");
        }
    }

    /// What the packet path does with the groups.
    fn find(groups: &BTreeMap<Prefix, Arc<Group<u32>>>, at: SocketAddr, protocol: Protocol) -> Option<u32> {
        let (_, group) = groups.iter().filter(|(p, _)| p.contains(at.ip())).max_by_key(|(p, _)| p.length)?;
        let contains = |b: &Block| b.protocol == protocol && (at.port() ^ b.port).leading_zeros() >= u32::from(b.bits);
        let (_, owner) = group.iter().filter(|(b, _)| contains(b)).max_by_key(|(b, _)| b.bits)?;
        Some(*owner)
    }

    #[test]
    fn the_longest_prefix_that_has_the_port_wins_and_then_the_fewest_ports() {
        let wanted = [
            (listen("203.0.113.0", 24, 0, 65_535), Protocol::Tcp, 1),
            (listen("203.0.113.0", 24, 400, 500), Protocol::Tcp, 2),
            (listen("203.0.113.0", 24, 450, 600), Protocol::Tcp, 3),
            (listen("203.0.113.64", 26, 443, 443), Protocol::Tcp, 4),
            (listen("203.0.113.70", 32, 8000, 8100), Protocol::Tcp, 5),
            (listen("203.0.113.70", 32, 0, 65_535), Protocol::Udp, 6),
            (listen("203.0.113.128", 25, 100, 200), Protocol::Udp, 7),
            (listen("203.0.112.0", 23, 53, 53), Protocol::Udp, 8),
        ];
        let groups = groups(wanted, 1000).unwrap();
        for (at, tcp, udp) in [
            ("203.0.113.0:80", Some(1), None),
            ("203.0.113.1:400", Some(2), None),
            ("203.0.113.1:500", Some(2), None),
            ("203.0.113.1:501", Some(3), None),
            ("203.0.113.1:601", Some(1), None),
            ("203.0.113.64:443", Some(4), None),
            ("203.0.113.64:444", Some(2), None),
            ("203.0.113.70:443", Some(4), Some(6)),
            ("203.0.113.70:8000", Some(5), Some(6)),
            ("203.0.113.70:8101", Some(1), Some(6)),
            ("203.0.113.71:8000", Some(1), None),
            ("203.0.113.71:53", Some(1), Some(8)),
            ("203.0.113.200:53", Some(1), Some(8)),
            ("203.0.113.200:150", Some(1), Some(7)),
            ("203.0.112.1:53", None, Some(8)),
            ("203.0.114.1:53", None, None),
        ] {
            let at: SocketAddr = at.parse().unwrap();
            assert_eq!([Protocol::Tcp, Protocol::Udp].map(|p| find(&groups, at, p)), [tcp, udp], "{at}");
        }
    }

    /// Against the plain rule, with many of few.
    #[test]
    fn random_listens_are_resolved_as_their_ranks_say() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let mut wanted: Vec<(Listen, Protocol, u32)> = Vec::new();
            for owner in 0..random(14) as u32 {
                let length = [32, 31, 30, 28][random(4) as usize];
                let address = super::super::listen::first_of([10, 0, 0, random(16) as u8].into(), length);
                let first = random(24) as u16;
                let ports = if random(5) == 0 { Ports::ANY } else { Ports { first, last: first + random(20) as u16 } };
                let new = Listen { prefix: Prefix { address, length }, ports };
                let protocol = [Protocol::Tcp, Protocol::Udp][random(2) as usize];
                let same =
                    |(l, p, _): &(Listen, Protocol, u32)| *p == protocol && l.rank() == new.rank() && l.overlaps(&new);
                if new.exact().is_none() && !wanted.iter().any(same) {
                    wanted.push((new, protocol, owner));
                }
            }
            let groups = groups(wanted.clone(), 100_000).unwrap();
            for (host, port) in (0..16).flat_map(|host| [0, 1, 5, 23, 24, 30, 43, 44, 65_535].map(|port| (host, port)))
            {
                let at = SocketAddr::from(([10, 0, 0, host], port));
                for protocol in [Protocol::Tcp, Protocol::Udp] {
                    let all = wanted.iter().filter(|(l, p, _)| *p == protocol && l.contains(at));
                    let best = all.min_by_key(|(l, ..)| l.rank()).map(|(.., owner)| *owner);
                    assert_eq!(find(&groups, at, protocol), best, "{at} {protocol:?} of {wanted:?}");
                }
            }
        }
    }

    #[test]
    fn prefixes_with_the_same_ports_need_room_once() {
        let many = (0..200u8).map(|i| (listen(&format!("10.0.{i}.0"), 24, 1, 65_534), Protocol::Tcp, 9));
        let many = groups(many, 30).unwrap();
        assert_eq!(many.len(), 200);
        let others = (0..2u8).map(|i| (listen(&format!("10.0.{i}.0"), 24, 1, 65_534), Protocol::Tcp, i));
        assert_eq!(groups(others, 59), Err(TooMany));
    }
}
