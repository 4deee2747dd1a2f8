//! The row of a flow. In these rings one row alone has an owner: a program that hashes, indexes or picks a ring
//! in any other way than it should finds nobody.

use lb_common::hash::HashKey;
use lb_common::ring::CLASSES;

use super::super::oracle::{hash4, hash6, row};
use super::super::world::*;
use super::super::{Case, case};
use super::{from_router, to_dc};
use crate::packet::{ipv4, ipv6, tcp};

/// The client's port in these cases: another one per class, for another row each.
fn client_port(class: usize) -> u16 {
    50_000 + class as u16 * 7
}

/// The rows that the IPv4 and IPv6 flows of [`cases`] belong to, on a ring of this class.
pub fn needle_rows(key: &HashKey, class: usize) -> (u32, u32) {
    let (client, vip) = (client_port(class), NEEDLE_PORT + class as u16);
    let hash4 = hash4(key, (CLIENT4, client), (VIP4, vip));
    let hash6 = hash6(key, (CLIENT6, client), (VIP6, vip));
    (row(hash4, CLASSES[class]), row(hash6, CLASSES[class]))
}

pub fn cases() -> Vec<Case> {
    (0..CLASSES.len())
        .flat_map(|class| {
            let (id, port) = (NEEDLE_ID + class as u32, NEEDLE_PORT + class as u16);
            let (client, log2) = (client_port(class), CLASSES[class]);
            [
                case(format!("an IPv4 flow finds its own row among 2^{log2}"))
                    .enters(LAN, from_router() / ipv4(CLIENT4, VIP4) / tcp(client, port))
                    .leaves(DC, to_dc(B1_MAC) / ipv4(CLIENT4, backend4(B1)).ttl(63) / tcp(client, port))
                    .forwarded(id, B1),
                case(format!("an IPv6 flow finds its own row among 2^{log2}"))
                    .enters(LAN, from_router() / ipv6(CLIENT6, VIP6) / tcp(client, port))
                    .leaves(DC, to_dc(B1_MAC) / ipv6(CLIENT6, backend6(B1)).hop_limit(63) / tcp(client, port))
                    .forwarded(id + ID6, B1 + V6),
            ]
        })
        .collect()
}
