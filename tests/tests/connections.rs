//! Connections never move: long-lived ones by the thousand, through everything an operator does, and not one breaks.
//!
//! Needs root, so a plain `cargo test` leaves these out; `cargo xtask test` runs them, after everything else. Each has a
//! site of its own and the machine for itself: they open thousands of sockets, and what they measure is silence.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lb_tests::lab::connections::check::Verdict;
use lb_tests::lab::connections::fleet::Connection;
use lb_tests::lab::connections::placement::Placement;
use lb_tests::lab::connections::scenario::{Scenario, WATCH};
use lb_tests::lab::connections::sniff::{self, SYN};

static MACHINE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not one connection broke, and many were there.
fn assert_clean(verdict: &Verdict) {
    assert!(verdict.is_clean(), "{verdict}");
    assert!(verdict.connections > 2000 && verdict.answers > 14_000, "{verdict}");
}

/// Whether a flow's row is its backend's, by the configuration alone.
fn is_placed(connection: &Connection, placement: &Placement) -> bool {
    let (Some(local), Some(server)) = (connection.local, connection.server) else { return true };
    placement.owner(local, connection.target) == server.backend
}

#[test]
#[ignore = "needs root"]
fn nothing_breaks_while_nothing_changes() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("nothing", |_| Ok(())).unwrap();
    run.step("the same file again", Scenario::apply).unwrap();
    let placement = Placement::of(&run.config);
    let astray = run.connections().unwrap().iter().filter(|c| !is_placed(c, &placement)).count();
    assert_eq!(astray, 0, "connections that are not where their configuration and key put them");
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn no_connection_notices_what_becomes_of_the_controller() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("the controller is killed", |run| {
        run.kill(0);
        Ok(())
    })
    .unwrap();
    run.step("another one starts", |run| run.restart(0)).unwrap();
    run.step("an upgrade: one stops, the next one starts", |run| {
        run.stop(0)?;
        std::thread::sleep(Duration::from_secs(1));
        run.restart(0)
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
}

/// Connections whose SYN passed a node's front wire.
fn through(run: &Scenario, node: usize) -> BTreeSet<SocketAddr> {
    let segments = sniff::read(run.site.dir(), &format!("lb{}-front", node + 1)).unwrap();
    segments.into_iter().filter(|s| s.flags & SYN != 0).map(|s| s.from).collect()
}

#[test]
#[ignore = "needs root"]
fn a_node_that_dies_loses_no_connection_on_a_steady_row() {
    let _machine = alone();
    let mut run = Scenario::start(2, 10, |config| {
        config.forward = "ipip";
        config.vip_addresses = "external";
    })
    .unwrap();
    run.open(2000).unwrap();
    run.step("nothing", |_| Ok(())).unwrap();
    run.step_for(2 * WATCH, "a node dies", |run| {
        run.site.unplug_node(0)?;
        run.kill(0);
        run.site.route(&[1])
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
    run.site.finish_captures();
    let counts = [0, 1].map(|node| through(&run, node).len());
    assert!(counts.iter().all(|&n| n > 500), "both nodes had connections: {counts:?}");
}
