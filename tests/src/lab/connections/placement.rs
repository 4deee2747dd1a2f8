//! Where flows belong, computed without asking any node: from the configuration, the key and the flow alone.
//!
//! It shares the ring builder and the hash with the product, which have golden vectors of their own, and nothing with
//! the nodes that run: what they hold in their maps is what is to be checked.

use std::net::{IpAddr, SocketAddr};

use lb_common::addr::words6;
use lb_common::flow::{Flow4, Flow6};
use lb_common::hash::{HashKey, KEY_WORDS, flow4, flow6};
use lb_common::ring::{CLASSES, row_index};
use sha2::{Digest as _, Sha256};
use sluice::ring::{self, Member, Seed};

use super::config::Config;

/// The fleet's secret on every site: the same rings in every run, which one day's failure can be looked into the next.
pub const SECRET: [u8; 32] = *b"known to all: the lab's own key ";

/// The key's words, as every node makes them of the secret.
fn key() -> HashKey {
    let mut key = HashKey([0; KEY_WORDS]);
    for (i, word) in (0u8..).zip(&mut key.0) {
        let digest =
            Sha256::new().chain_update(b"sluice flow hash 1").chain_update(SECRET).chain_update([i]).finalize();
        *word = digest.iter().take(8).rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    key
}

/// The rings of a configuration.
#[derive(Debug)]
pub struct Placement {
    key: HashKey,
    /// For IPv4 and IPv6: the class, and each row's owner by number.
    rings: [(usize, Vec<u16>); 2],
}

impl Placement {
    /// Of `config` as it stands, every backend up.
    pub fn of(config: &Config) -> Self {
        let key = key();
        let seed = Seed::from(&key);
        let rings = [0, 1].map(|family| {
            let numbers = config.backends.iter().filter(|(n, _)| family == 0 || **n < config.dual_stack);
            let all: Vec<(u16, bool, Member)> = numbers
                .map(|(&n, line)| {
                    let member = Member::new(config.address(n).both()[family], 0, line.weight);
                    (n, line.drain, member)
                })
                .collect();
            // A ring's size follows the file, its rows whoever takes new flows.
            let class = ring::class_for(&all.iter().map(|(_, _, m)| *m).collect::<Vec<_>>());
            let mut active: Vec<&(u16, bool, Member)> = all.iter().filter(|(_, drain, _)| !drain).collect();
            active.sort_by_key(|(_, _, m)| m.identity);
            let members: Vec<Member> = active.iter().map(|(_, _, m)| *m).collect();
            let rows = ring::build(&seed, class, &members).unwrap_or_default();
            (class, rows.into_iter().map(|owner| active[usize::from(owner)].0).collect())
        });
        Self { key, rings }
    }

    /// The backend that owns the row of a flow from `client` to `vip`.
    pub fn owner(&self, client: SocketAddr, vip: SocketAddr) -> u16 {
        let [c, v] = [client, vip].map(|a| a.port().to_be_bytes());
        let ports = u32::from_ne_bytes([c[0], c[1], v[0], v[1]]);
        let protocol = 6;
        let (hash, family) = match (client.ip(), vip.ip()) {
            (IpAddr::V4(c), IpAddr::V4(v)) => {
                let [source, destination] = [c, v].map(|ip| u32::from_ne_bytes(ip.octets()));
                (flow4(&self.key, &Flow4 { source, destination, ports, protocol }), 0)
            }
            (IpAddr::V6(c), IpAddr::V6(v)) => {
                let [source, destination] = [c, v].map(|ip| words6(ip.octets()));
                (flow6(&self.key, &Flow6 { source, destination, ports, protocol }), 1)
            }
            _ => panic!("{client} and {vip} are not of one family"),
        };
        let (class, rows) = &self.rings[family];
        rows[row_index(hash, CLASSES[*class]) as usize]
    }
}
