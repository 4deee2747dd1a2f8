//! The golden table, one file per question.

mod checksums;
pub mod decap;
mod extensions;
mod fragments;
mod icmp;
mod lengths;
pub mod modes;
mod mss;
mod nat;
mod others;
mod refused;
mod replies;
mod rows;
pub mod services;
mod slow;
mod truncated;
mod tunnel;
mod vlan;

use lb_common::hash::HashKey;

use super::world::{DC_MAC, LAN_MAC, ROUTER_MAC};
use super::{Case, Sweep};
use crate::packet::{Ethernet, Mac, ethernet};

pub(super) use rows::needle_rows;
pub(super) use tunnel::{outer4, outer6};

/// Every case. Some depend on where the flow hash puts them, so the program's key is needed.
pub fn all(key: &HashKey) -> Vec<Case> {
    [
        nat::cases(),
        tunnel::cases(key),
        modes::cases(key),
        replies::cases(),
        slow::cases(key),
        others::cases(),
        refused::cases(),
        checksums::cases(),
        lengths::cases(key),
        fragments::cases(),
        vlan::cases(),
        extensions::cases(),
        icmp::cases(key),
        mss::cases(),
        rows::cases(),
        services::cases(),
    ]
    .concat()
}

/// Every sweep.
pub fn sweeps(key: &HashKey) -> Vec<Sweep> {
    [truncated::sweeps(), fragments::sweeps(key)].concat()
}

/// The Ethernet header of what clients send.
fn from_router() -> Ethernet {
    ethernet(ROUTER_MAC, LAN_MAC)
}

/// The Ethernet header of what leaves on `dc` towards a next hop.
fn to_dc(mac: Mac) -> Ethernet {
    ethernet(DC_MAC, mac)
}

/// The Ethernet header of what leaves on `lan` towards a next hop.
fn to_lan(mac: Mac) -> Ethernet {
    ethernet(LAN_MAC, mac)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use lb_common::counters::DropReason;

    use super::*;
    use crate::packet::pcap::slug;
    use crate::progrun::Settings;

    /// A sentence names a test and its capture.
    #[test]
    fn no_two_cases_say_the_same() {
        let cases = [all(&Settings::everything().hash_key), decap::cases(), decap::elsewhere()].concat();
        let names: BTreeSet<String> = cases.iter().map(|case| slug(&case.name)).collect();
        assert_eq!(names.len(), cases.len());
    }

    #[test]
    fn every_drop_reason_has_a_packet_that_is_dropped_for_it() {
        let cases = all(&Settings::everything().hash_key);
        for reason in DropReason::ALL {
            let counter = format!(" drops {}", reason.name());
            let shown = cases.iter().any(|case| case.counts.0.keys().any(|name| name.ends_with(&counter)));
            let shown = shown || crate::golden::more::shows(reason);
            assert!(shown || crate::golden::flows::shows(reason), "no golden packet drops as {}", reason.name());
        }
    }
}
