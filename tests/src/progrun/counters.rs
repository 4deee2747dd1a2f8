//! What the program counted, by name, so that a test can say all that changed and nothing else did.

use std::collections::BTreeMap;

use lb_common::counters::{BackendCounters, DropReason, FlowCounters, ServiceCounters, TrackedCounters};

/// Counters that are not zero, by name: `service 3 packets`, `service 3 drops too_big`, `backend 7 bytes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<String, u64>);

impl Counts {
    /// Adds `n` to a counter.
    pub fn add(&mut self, name: String, n: u64) {
        if n > 0 {
            *self.0.entry(name).or_default() += n;
        }
    }

    /// Adds all counters of a service.
    pub fn service(&mut self, id: u32, c: &ServiceCounters) {
        // Taken apart, so that a counter added to the ABI cannot be forgotten here.
        let ServiceCounters {
            packets,
            bytes,
            reply_packets,
            reply_bytes,
            syns,
            fib_lookups,
            fragments,
            icmp_errors,
            drops,
        } = c;
        for (name, n) in [
            ("packets", packets),
            ("bytes", bytes),
            ("reply_packets", reply_packets),
            ("reply_bytes", reply_bytes),
            ("syns", syns),
            ("fib_lookups", fib_lookups),
            ("fragments", fragments),
            ("icmp_errors", icmp_errors),
        ] {
            self.add(format!("service {id} {name}"), *n);
        }
        for (i, n) in drops.iter().enumerate() {
            let reason = DropReason::ALL.get(i).map_or_else(|| format!("unnamed {i}"), |r| r.name().to_owned());
            self.add(format!("service {id} drops {reason}"), *n);
        }
    }

    /// Adds all counters of a service's flows.
    pub fn flows(&mut self, id: u32, c: &FlowCounters) {
        let FlowCounters {
            lookups,
            hits,
            written,
            proved,
            replaced,
            refused_quota,
            refused_gate,
            refused_full,
            refused_race,
            resets,
            echoes,
            too_bigs,
            reserved,
        } = c;
        for (name, n) in [
            ("lookups", lookups),
            ("hits", hits),
            ("written", written),
            ("proved", proved),
            ("replaced", replaced),
            ("refused_quota", refused_quota),
            ("refused_gate", refused_gate),
            ("refused_full", refused_full),
            ("refused_race", refused_race),
            ("resets", resets),
            ("echoes", echoes),
            ("too_bigs", too_bigs),
            ("reserved", &reserved.iter().sum()),
        ] {
            self.add(format!("service {id} flows {name}"), *n);
        }
    }

    /// Adds all counters of a service's tracked flows.
    pub fn tracked(&mut self, id: u32, c: &TrackedCounters) {
        let TrackedCounters {
            lookups,
            hits,
            fallbacks,
            written,
            replaced,
            refused_quota,
            refused_gate,
            refused_full,
            refused_race,
            reserved,
        } = c;
        for (name, n) in [
            ("lookups", lookups),
            ("hits", hits),
            ("fallbacks", fallbacks),
            ("written", written),
            ("replaced", replaced),
            ("refused_quota", refused_quota),
            ("refused_gate", refused_gate),
            ("refused_full", refused_full),
            ("refused_race", refused_race),
            ("reserved", &reserved.iter().sum()),
        ] {
            self.add(format!("service {id} tracked {name}"), *n);
        }
    }

    /// Adds all counters of a backend.
    pub fn backend(&mut self, id: u32, c: &BackendCounters) {
        let BackendCounters { packets, bytes, reply_packets, reply_bytes } = c;
        for (name, n) in
            [("packets", packets), ("bytes", bytes), ("reply_packets", reply_packets), ("reply_bytes", reply_bytes)]
        {
            self.add(format!("backend {id} {name}"), *n);
        }
    }

    /// What was added since `before`. A counter that went backwards shows as an absurd number, and should.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut delta = Self::default();
        for name in self.0.keys().chain(before.0.keys()) {
            let n = |counts: &Self| counts.0.get(name).copied().unwrap_or(0);
            let difference = n(self).wrapping_sub(n(before));
            if difference != 0 {
                delta.0.insert(name.clone(), difference);
            }
        }
        delta
    }

    /// One counter, 0 where it is not there.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        for (i, (name, n)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{name} +{n}")?;
        }
        Ok(())
    }
}

/// Counts from pairs of name and number.
pub fn counted<const N: usize>(pairs: [(String, u64); N]) -> Counts {
    let mut counts = Counts::default();
    for (name, n) in pairs {
        counts.add(name, n);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_all_that_changed_and_nothing_else() {
        let mut before = Counts::default();
        before.service(1, &ServiceCounters { packets: 5, bytes: 300, ..ServiceCounters::default() });
        let mut drops = [0; lb_common::counters::DROP_SLOTS];
        drops[DropReason::TooBig as usize] = 2;
        let mut after = before.clone();
        after.service(1, &ServiceCounters { packets: 1, drops, ..ServiceCounters::default() });
        after.backend(9, &BackendCounters { reply_bytes: 7, ..BackendCounters::default() });
        let expected = counted([
            ("service 1 packets".into(), 1),
            ("service 1 drops too_big".into(), 2),
            ("backend 9 reply_bytes".into(), 7),
        ]);
        assert_eq!(after.since(&before), expected);
        assert_eq!(after.since(&after), Counts::default());
    }

    #[test]
    fn a_drop_without_a_name_still_shows() {
        let mut drops = [0; lb_common::counters::DROP_SLOTS];
        drops[23] = 1;
        let mut counts = Counts::default();
        counts.service(1, &ServiceCounters { drops, ..ServiceCounters::default() });
        assert_eq!(counts.to_string(), "service 1 drops unnamed 23 +1");
    }
}
