//! End to end, in the lab: real clients and servers, and the built `sluice` between them.
//!
//! Needs root, nginx and dnsmasq, so a plain `cargo test` leaves these out; `cargo xtask test` runs them.

use std::time::Duration;

use lb_tests::lab::servers::{DNS_PORT, HTTP_PORT};
use lb_tests::lab::traffic::{Target, ask_many, failures, tally};
use lb_tests::lab::{Lab, VIP};

const PATIENCE: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs root"]
fn without_sluice_backends_answer_directly_and_the_vip_does_not() {
    let lab = Lab::new().unwrap();
    for backend in &lab.backends {
        let targets: Vec<Target> = backend
            .address
            .both()
            .into_iter()
            .flat_map(|a| [Target::http(a, HTTP_PORT), Target::dns(a, DNS_PORT)])
            .collect();
        for (client, ns) in [("lb", &lab.lb), ("client", &lab.client)] {
            let outcomes = ask_many(client, ns, &targets, 8, PATIENCE).unwrap();
            assert_eq!(failures(&outcomes), [""; 0]);
            assert_eq!(tally(&outcomes).into_iter().collect::<Vec<_>>(), [(backend.name, 8)]);
        }
    }
    let outcomes = ask_many("client", &lab.client, &Target::all(VIP), 4, Duration::from_millis(200)).unwrap();
    assert_eq!(failures(&outcomes).len(), 4);
}
