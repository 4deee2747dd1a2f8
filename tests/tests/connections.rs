//! Connections never move: long-lived ones by the thousand, through everything an operator does, and not one breaks.
//!
//! Needs root, so a plain `cargo test` leaves these out; `cargo xtask test` runs them, after everything else. Each has a
//! site of its own and the machine for itself: they open thousands of sockets, and what they measure is silence.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use lb_tests::lab::capture::Capture;
use lb_tests::lab::connections::check::{Verdict, broken};
use lb_tests::lab::connections::config::{Config, SERVICE};
use lb_tests::lab::connections::fleet::{Connection, Why};
use lb_tests::lab::connections::placement::Placement;
use lb_tests::lab::connections::scenario::{Scenario, WATCH};
use lb_tests::lab::connections::sniff::{self, RST, SYN};
use nix::errno::Errno;
use sluice::api::types::Health;

/// How long after the timeout rows may take to come to rest: they stop to move some seconds after it, and a sweep that
/// begins later still has to look at them.
const REST: Duration = Duration::from_secs(20);

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

/// What most operators do: a weight, another backend, a drain.
fn change_the_pool(run: &mut Scenario) {
    run.step("weight of n3 from 100 to 200", |run| {
        run.config.line(3).weight = 200;
        run.apply()
    })
    .unwrap();
    run.step("n9 is added and n1 drained", |run| {
        run.config.add([9]);
        run.config.line(1).drain = true;
        run.apply()
    })
    .unwrap();
}

fn crash(run: &mut Scenario) {
    run.step("the controller is killed and another one starts", |run| {
        run.kill(0);
        run.restart(0)
    })
    .unwrap();
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
fn nothing_an_operator_does_to_backends_breaks_a_connection() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("weight of n3 from 100 to 200", |run| {
        run.config.line(3).weight = 200;
        run.apply()
    })
    .unwrap();
    run.step("n10 is added", |run| {
        run.config.add([10]);
        run.apply()
    })
    .unwrap();
    run.step("n5 is drained", |run| {
        run.config.line(5).drain = true;
        run.apply()
    })
    .unwrap();
    run.step("n5 is removed", |run| {
        run.config.backends.remove(&5);
        run.apply()
    })
    .unwrap();
    run.step("n7 is removed without a drain", |run| {
        run.config.backends.remove(&7);
        run.apply()
    })
    .unwrap();
    run.step("n11 and, while rows move, n12 are added", |run| {
        run.config.add([11]);
        run.apply()?;
        run.config.add([12]);
        run.apply()
    })
    .unwrap();
    run.step("n5 comes back", |run| {
        run.config.add([5]);
        run.apply()
    })
    .unwrap();
    run.step("weight of n3 from 200 to 100", |run| {
        run.config.line(3).weight = 100;
        run.apply()
    })
    .unwrap();
    run.step("n6 is drained by hand, and undrained", |run| {
        for verb in ["drain", "undrain"] {
            for name in Config::names(6) {
                run.daemons[0].cli_ok(&[verb, &format!("{SERVICE}/{name}")])?;
            }
        }
        run.in_force()
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn connections_stay_when_each_client_gets_a_backend_of_its_own() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("each client's connections to one backend", |run| {
        run.config.affinity = "source";
        run.apply()
    })
    .unwrap();
    run.step("n10 is added, while flows pass from ring to ring", |run| {
        run.config.add([10]);
        run.apply()
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn no_connection_breaks_while_ten_backends_become_two_thousand() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |_| {}).unwrap();
    run.open(2000).unwrap();
    run.step("200 backends", |run| {
        run.config.add(10..200);
        run.apply()
    })
    .unwrap();
    run.step("2,000 backends", |run| {
        run.config.add(200..2000);
        run.apply()
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn room_for_a_few_flows_only_breaks_none() {
    let _machine = alone();
    let timeout = Duration::from_secs(6);
    let mut run = Scenario::start(1, 10, |config| {
        config.timeout = Some(timeout);
        config.flows = Some(64);
    })
    .unwrap();
    run.wait_rows("rows of a new ring come to rest", REST + timeout, |rows| rows.moving + rows.exceptions == 0)
        .unwrap();
    run.open(2000).unwrap();
    // Whoever is not written down stays where he was, and keeps his row moving for as long as he says something.
    run.step_for(4 * WATCH, "weight of n3 from 100 to 400", |run| {
        run.config.line(3).weight = 400;
        run.apply()
    })
    .unwrap();
    assert!(run.rows(0).unwrap().moving > 0, "{:?}", run.rows(0).unwrap());
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn no_connection_notices_what_becomes_of_the_controller() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |config| config.min_ring_interval = Duration::from_millis(100)).unwrap();
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
    run.step("20 reloads", |run| {
        for n in 0..20 {
            run.config.line(n % 4).weight = 100 + u32::from(n);
            run.reload()?;
        }
        run.in_force()
    })
    .unwrap();
    run.step("killed again, and the file has changed when the next one starts", |run| {
        run.kill(0);
        run.config.add([10]);
        run.config.line(2).drain = true;
        run.restart(0)
    })
    .unwrap();
    run.step("a change by the new one", |run| {
        run.config.line(6).weight = 300;
        run.apply()
    })
    .unwrap();
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn rows_come_to_rest_and_their_connections_stay() {
    let _machine = alone();
    // Every connection asks each second, so none is ever silent for as long as this.
    let timeout = Duration::from_secs(8);
    let rest = timeout + REST;
    let mut run = Scenario::start(1, 10, |config| config.timeout = Some(timeout)).unwrap();
    run.wait_rows("rows of a new ring come to rest", rest, |rows| rows.moving + rows.exceptions == 0).unwrap();
    run.open(2000).unwrap();
    run.step_for(Duration::ZERO, "weight of n3 from 100 to 200, until rows have exceptions", |run| {
        run.config.line(3).weight = 200;
        run.apply()?;
        run.wait_rows("rows move", Duration::from_secs(2), |rows| rows.moving > 0)?;
        let rows = run.wait_rows("rows stop to move", rest, |rows| rows.moving == 0)?;
        anyhow::ensure!(rows.exceptions > 0, "connections of moved rows are exceptions: {rows:?}");
        Ok(())
    })
    .unwrap();
    run.step("nothing, with exceptions", |_| Ok(())).unwrap();
    run.step_for(Duration::ZERO, "n4 is drained, rows with exceptions move", |run| {
        run.config.line(4).drain = true;
        run.apply()?;
        run.wait_rows("rows move", Duration::from_secs(2), |rows| rows.moving > 0)?;
        run.wait_rows("rows stop to move", rest, |rows| rows.moving == 0)?;
        Ok(())
    })
    .unwrap();
    run.step("nothing, with more exceptions", |_| Ok(())).unwrap();
    assert_clean(&run.verdict().unwrap());
    // With the connections, what had to be remembered of them goes.
    run.wait_rows("all rows are steady", rest, |rows| rows.moving + rows.exceptions == 0).unwrap();
}

#[test]
#[ignore = "needs root"]
fn connections_of_a_tracked_service_stay_as_well_also_when_tracking_comes_and_goes() {
    let _machine = alone();
    let mut run = Scenario::start(1, 9, |config| config.tracking = "full").unwrap();
    run.open(2000).unwrap();
    change_the_pool(&mut run);
    run.step("nothing is tracked any more", |run| {
        run.config.tracking = "none";
        run.apply()
    })
    .unwrap();
    run.step("everything is tracked again, and n2 is drained", |run| {
        run.config.tracking = "full";
        run.config.line(2).drain = true;
        run.apply()
    })
    .unwrap();
    crash(&mut run);
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn connections_in_tunnels_stay_as_well() {
    let _machine = alone();
    let mut run = Scenario::start(1, 9, |config| config.forward = "ipip").unwrap();
    run.open(2000).unwrap();
    change_the_pool(&mut run);
    crash(&mut run);
    assert_clean(&run.verdict().unwrap());
}

#[test]
#[ignore = "needs root"]
fn a_backend_that_dies_takes_only_its_own_connections_and_they_learn_within_a_round_trip() {
    let _machine = alone();
    let mut run = Scenario::start(1, 10, |config| {
        config.interval = Duration::from_millis(200);
        config.fall = 3;
    })
    .unwrap();
    run.open_as(2000, |plan| plan.visitors = 0).unwrap();
    run.step("nothing", |_| Ok(())).unwrap();
    let capture = run.site.capture_users().unwrap().expect("tcpdump");
    let mut verdict_at = None;
    run.step("the host of n3 loses its power", |run| {
        run.site.unplug(3)?;
        run.wait(0, "n3 is down", Duration::from_secs(5), |status| {
            let mut all = status.services.iter().flat_map(|s| &s.backends);
            all.any(|b| Config::names(3).contains(&b.name) && b.health == Health::Down)
        })?;
        verdict_at = Some(Instant::now());
        run.log.note("n3 is known to be down");
        Ok(())
    })
    .unwrap();
    let verdict_at = verdict_at.unwrap();
    Capture::finish_all(vec![capture]);
    let dead: Vec<Connection> =
        run.connections().unwrap().into_iter().filter(|c| c.server.is_some_and(|s| s.backend == 3)).collect();
    let segments = sniff::read(run.site.dir(), "users").unwrap();
    let verdict = run.verdict().unwrap();

    // The wire says how long a client waited that sent something when rows had followed the verdict. Each family has a
    // verdict of its own.
    let (mut waits, mut learned) = (Vec::new(), Vec::new());
    let resets = || segments.iter().filter(|s| s.flags & RST != 0);
    for connection in &dead {
        let local = connection.local.unwrap();
        let (at, why) = broken(connection).unwrap();
        assert_eq!(*why, Why::Error(Errno::ECONNRESET), "#{}", connection.number);
        learned.push(at.saturating_duration_since(verdict_at));
        let followed = resets().find(|s| s.to.is_ipv4() == local.is_ipv4()).expect("a RST").at;
        let sent = segments.iter().find(|s| s.from == local && s.at >= followed);
        let (Some(sent), Some(reset)) = (sent, resets().find(|s| s.to == local)) else { continue };
        waits.push(reset.at.duration_since(sent.at).unwrap_or_default());
    }
    waits.sort();
    learned.sort();
    let [wait, learn] = [&waits, &learned].map(|all| (all[all.len() / 2], all[all.len() - 1]));
    println!(
        "{} connections died; a segment's RST took {:?} (median), {:?} (most);          clients learned {:?} (median), {:?} (most) after the first verdict",
        dead.len(),
        wait.0,
        wait.1,
        learn.0,
        learn.1
    );
    assert_eq!((verdict.moved.len(), &verdict.contradictions), (0, &vec![]));
    assert!(dead.len() > 150, "{}", dead.len());
    assert_eq!(verdict.broken, dead.iter().map(|c| c.number).collect::<Vec<_>>(), "exactly n3's connections broke");
    assert!(waits.len() > dead.len() * 9 / 10, "{} of {}", waits.len(), dead.len());
    assert!(wait.1 < Duration::from_millis(50), "a round trip in the lab takes less than a millisecond: {waits:?}");
}

/// Connections whose SYN passed a node's front wire before `until`: addresses are used again later.
fn through(run: &Scenario, node: usize, until: SystemTime) -> BTreeSet<SocketAddr> {
    let segments = sniff::read(run.site.dir(), &format!("lb{}-front", node + 1)).unwrap();
    segments.into_iter().filter(|s| s.flags & SYN != 0 && s.at < until).map(|s| s.from).collect()
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
    let counts = [0, 1].map(|node| through(&run, node, SystemTime::now()).len());
    assert!(counts.iter().all(|&n| n > 500), "both nodes had connections: {counts:?}");
}

#[test]
#[ignore = "needs root"]
fn a_node_that_dies_while_rows_move_loses_exactly_the_connections_nobody_else_knows() {
    let _machine = alone();
    let mut run = Scenario::start(2, 10, |config| {
        config.forward = "ipip";
        config.vip_addresses = "external";
    })
    .unwrap();
    // All stay, also those that open while rows move.
    run.open_as(1500, |plan| {
        (plan.visitors, plan.visitor_pace, plan.visit) = (60, plan.pace, Duration::from_secs(36_000));
    })
    .unwrap();
    let before = Placement::of(&run.config);
    run.step("weight of n3 from 100 to 400", |run| {
        run.config.line(3).weight = 400;
        run.apply()
    })
    .unwrap();
    // SYNs go to a moved row's new owner only when none of them can be the retransmission of an earlier one.
    run.step_for(2 * WATCH, "more connections, to new owners", |_| Ok(())).unwrap();
    // Taking its links away takes a moment, and connections open all the time, also in that moment.
    let mut died = (SystemTime::now(), Instant::now());
    run.step_for(2 * WATCH, "a node dies", |run| {
        run.site.unplug_node(0)?;
        died = (SystemTime::now(), Instant::now());
        run.kill(0);
        run.site.route(&[1])
    })
    .unwrap();
    run.site.finish_captures();
    let its_own = through(&run, 0, died.0);
    let connections = run.connections().unwrap();
    // The other node has never met these, and the rows they are on say that such flows are the backend's of before.
    let predicted: Vec<u32> = connections
        .iter()
        .filter(|c| c.started < died.1 && c.local.is_some_and(|local| its_own.contains(&local)))
        .filter(|c| !is_placed(c, &before))
        .map(|c| c.number)
        .collect();
    let verdict = run.verdict().unwrap();
    println!("{} connections were predicted to break", predicted.len());
    assert!(predicted.len() > 10, "{predicted:?}");
    assert_eq!(verdict.broken, predicted);
    assert_eq!((verdict.moved.len(), &verdict.contradictions), (0, &vec![]));
}
