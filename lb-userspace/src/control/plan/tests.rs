//! Plans between two configurations, without a kernel.

use std::collections::HashMap;
use std::time::Instant;

use super::*;
use crate::config;
use crate::control::desired::{self, BackendName, Rings};
use crate::control::leaving::Leaving;
use crate::control::safety::Safety;
use crate::dataplane::Sizes;
use crate::model::Tracking;
use crate::net::NetState;
use crate::ring::Seed;

const SIZES: Sizes = Sizes { services: 16, backends: 64, flows4: 64, flows6: 1, tracked4: 1, tracked6: 1 };

fn model(services: &str) -> Model {
    let text = format!("version: 1\nnode: {{ interfaces: [eth0] }}\nservices:\n{services}");
    config::parse("test.yaml", &text).unwrap_or_else(|d| panic!("{d}"))
}

/// A service as one line of YAML.
fn web(keys: &str, backends: &str) -> String {
    format!("  - {{ name: web, listen: 203.0.113.10:80, {keys} backends: [{backends}] }}\n")
}

const A: &str = "{ name: a, address: 10.0.0.1 }";
const B: &str = "{ name: b, address: 10.0.0.2 }";
const C: &str = "{ name: c, address: 10.0.0.3 }";

/// The plan from one file to the other, all backends up but those in `down`.
fn between(old: &str, new: &str, down: &[&str]) -> Plan {
    let (old, new) = (model(old), model(new));
    let now = Instant::now();
    let net = NetState::default();
    let all = old.services.iter().chain(&new.services);
    let verdicts: HashMap<BackendName, bool> = all
        .flat_map(|s| s.backends.iter().map(|b| ((s.name.clone(), b.name.clone()), !down.contains(&b.name.as_str()))))
        .collect();
    let overrides = BTreeMap::new();
    let mut leaving = Leaving::default();
    let (none, safety) = (Leaving::default(), Safety::default());
    let view =
        View { verdicts: &verdicts, overrides: &overrides, leaving: &none, safety: &safety, agents: &BTreeMap::new() };
    let mut ids = Ids::new(SIZES);
    let compute = |model: &Model, view: View<'_>, ids: &mut Ids, rings: &Rings| {
        desired::compute(model, view, &net, &Seed([5; 32]), ids, rings, now).unwrap_or_else(|f| panic!("{f}"))
    };
    let runs = compute(&old, view, &mut ids, &Rings::new());
    leaving.follow(&old, &new, |s, b| view.is_up(s, b), now);
    let after = View { leaving: &leaving, ..view };
    let mut then = ids.clone();
    let would = compute(&new, after, &mut then, &runs.rings);
    // Flows of web that are tracked, if it asks for that: 10 on its first backend, 20 on its second, and so on.
    let service = old.services.iter().find(|s| s.name == "web" && s.tracking == Tracking::Full);
    let tracked = service.map(|service| {
        let ids = service.backends.iter().filter_map(|b| ids.backend(service, b));
        ids.zip(1..).map(|(id, n)| (id, n * 10)).collect()
    });
    let web = Seen { packets: 900, written_down: 7, tracked };
    let dns = Seen { packets: 100, written_down: 0, tracked: None };
    let seen = BTreeMap::from([("web".to_owned(), web), ("dns".to_owned(), dns)]);
    plan(
        Side { model: &old, view, desired: &runs, ids: &ids },
        Side { model: &new, view: after, desired: &would, ids: &then },
        &seen,
    )
}

/// On these ports of one address.
fn wide(ports: &str) -> String {
    format!("  - {{ name: wide, listen: 203.0.113.20:{ports}, forward: ipip, health: none, backends: [{A}] }}\n")
}

fn other(ports: &str) -> String {
    wide(ports).replace("name: wide", "name: other")
}

const DNS: &str = "  - { name: dns, listen: 203.0.113.53:53, protocol: udp, backends: [{ address: 10.0.1.1 }] }\n";

#[test]
fn the_same_file_is_an_empty_plan() {
    let file = web("", &format!("{A}, {B}")) + DNS;
    let plan = between(&file, &file, &[]);
    assert_eq!((plan.changes.len(), plan.services.len(), plan.breaks.len()), (0, 0, 0));
    assert_eq!(plan.traffic_share, Some(0.0));
}

#[test]
fn what_moves_breaks_nothing_and_is_counted_by_row() {
    let two = web("", &format!("{A}, {B}")) + DNS;
    let table = [
        ("add", web("", &format!("{A}, {B}, {C}")), 1.0 / 3.0),
        ("remove", web("", A), 0.5),
        ("drain", web("", &format!("{A}, {}", B.replace(" }", ", state: drain }"))), 0.5),
        ("weight", web("", &format!("{A}, {}", B.replace(" }", ", weight: 300 }"))), 0.25),
    ];
    let by_client = between(&two, &(web("affinity: source,", &format!("{A}, {B}")) + DNS), &[]);
    assert_eq!((by_client.services[0].rings[0].share, by_client.breaks.len()), (1.0, 0));
    for (name, next, wanted) in table {
        let plan = between(&two, &(next + DNS), &[]);
        assert_eq!(plan.breaks, [], "{name}");
        let [service] = plan.services.as_slice() else { panic!("{name}: {:?}", plan.services) };
        assert_eq!((service.name.as_str(), service.change, service.written_down), ("web", Change::Changed, 7));
        assert_eq!(service.backends.len(), 1, "{name}: {:?}", service.backends);
        let [ring] = service.rings.as_slice() else { panic!("{name}: {:?}", service.rings) };
        assert_eq!(ring.share, f64::from(ring.rows_moved) / f64::from(ring.rows));
        // The share that has to move, and little more.
        assert!((wanted - 0.01..wanted + 0.05).contains(&ring.share), "{name}: {ring:?}");
        assert_eq!(plan.traffic_share, Some(ring.share * 900.0 / 1000.0), "{name}");
    }
}

#[test]
fn flows_are_counted_where_they_are_tracked() {
    let tracking = |backends: &str| web("tracking: full,", backends);
    let plan = between(&tracking(&format!("{A}, {B}")), &tracking(&format!("{A}, {C}")), &[]);
    let [service] = plan.services.as_slice() else { panic!("{:?}", plan.services) };
    assert_eq!(service.tracked, Some(30));
    let counts: Vec<_> = service.backends.iter().map(|b| (b.name.as_str(), b.tracked)).collect();
    assert_eq!(counts, [("b", Some(20)), ("c", None)]);
    let plan = between(&web("", &format!("{A}, {B}")), &tracking(A), &[]);
    assert_eq!((plan.services[0].tracked, plan.services[0].backends[0].tracked), (None, None));
}

#[test]
fn a_ring_that_grows_counts_the_children_of_rows_that_move() {
    let pool = |n: u32| (1..=n).map(|i| format!("{{ address: 10.0.0.{i} }}")).collect::<Vec<_>>().join(", ");
    let plan = between(&web("", &pool(10)), &web("", &pool(50)), &[]);
    let [ring] = plan.services[0].rings.as_slice() else { panic!() };
    assert!(ring.rows > ring.rows_before, "{ring:?}");
    // Four fifths go to the new ones, and a ring of another size is another ring.
    assert!((0.8..1.0).contains(&ring.share), "{ring:?}");
    assert_eq!(plan.breaks, []);
}

#[test]
fn connections_that_will_break_are_told_with_the_reason() {
    let two = web("", &format!("{A}, {B}"));
    type Line = (&'static str, String, String, &'static [&'static str], &'static [&'static str]);
    let table: [Line; 14] = [
        ("nothing", two.clone(), two.clone(), &["b"], &[]),
        ("service removed", two.clone() + DNS, two.clone(), &[], &["dns: all to 203.0.113.53:53/udp"]),
        (
            "service renamed",
            two.clone(),
            two.replace("name: web", "name: www"),
            &[],
            &["goes to service www, which knows nothing of them"],
        ),
        (
            "listen removed",
            two.replace("203.0.113.10:80", "[203.0.113.10:80, 203.0.113.10:81]"),
            two.clone(),
            &[],
            &["web: all to 203.0.113.10:81/tcp: it is no longer in `listen` or `protocol`, and is nobody's"],
        ),
        (
            "protocol removed",
            web("protocol: [tcp, udp],", A),
            web("protocol: [udp],", A),
            &[],
            &["web: all to 203.0.113.10:80/tcp"],
        ),
        (
            "forward changed",
            two.clone(),
            web("forward: ipip,", &format!("{A}, {B}")),
            &[],
            &["web: all: `forward` changes from nat to ipip"],
        ),
        ("removed while down", two.clone(), web("", A), &["b"], &["what is left of those on b"]),
        (
            "oneshot",
            web("protocol: udp,", A),
            web("protocol: udp, udp: { mode: oneshot },", A),
            &[],
            &["UDP flows on rows that have not settled"],
        ),
        (
            "replies given to another service",
            two.clone(),
            web("", A) + "  - { name: new, listen: 203.0.113.11:80, backends: [{ address: 10.0.0.2 }] }\n",
            &[],
            &["web: those on b: replies from 10.0.0.2:80/tcp belong to another service now"],
        ),
        (
            "one port taken out of a range",
            wide("8000-8100"),
            wide("8000-8100") + &other("8050"),
            &[],
            &[
                "wide: those to 203.0.113.20:8050/tcp: service other listens there now, and it comes before 203.0.113.20:8000-8100",
            ],
        ),
        ("a range that grows", wide("8000-8050"), wide("8000-8100"), &[], &[]),
        ("a range around one port", wide("8050"), wide("8050") + &other("8000-8100"), &[], &[]),
        (
            "a range given to a wider one",
            wide("8000-8100") + &other("0"),
            wide("8000-8050") + &other("0"),
            &[],
            &[
                "wide: those to 203.0.113.20:8000-8100/tcp that it has no more: it is no longer in `listen` or `protocol`, and goes",
            ],
        ),
        (
            "a range removed beside any port",
            wide("8000-8100") + &other("0"),
            other("0"),
            &[],
            &["wide: all to 203.0.113.20:8000-8100/tcp: the service is removed, and its address goes to service other"],
        ),
    ];
    for (name, old, new, down, wanted) in table {
        let plan = between(&old, &new, down);
        let told: Vec<String> = plan
            .breaks
            .iter()
            .map(|b| format!("{}: {}: {}", b.service.as_deref().unwrap_or_default(), b.connections, b.why))
            .collect();
        assert_eq!(told.len(), wanted.len(), "{name}: {told:#?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.contains(wanted), "{name}: {told}");
        }
    }
}

#[test]
fn a_backend_that_only_changes_its_name_is_the_same_one() {
    let plan = between(&web("", &format!("{A}, {B}")), &web("", &format!("{A}, {}", B.replace("b,", "c,"))), &[]);
    let [service] = plan.services.as_slice() else { panic!() };
    assert_eq!(service.backends.len(), 1);
    assert_eq!(service.backends[0].what, ["was called b"]);
    assert_eq!((service.rings.len(), plan.breaks.len()), (0, 0));
}

#[test]
fn an_interface_that_goes_takes_its_packets_along() {
    let old = model(&web("", A));
    let mut new = old.clone();
    new.node.interfaces[0].name = "eth1".to_owned();
    let mut plan = Plan::default();
    interfaces(&old, &new, &mut plan);
    assert_eq!(plan.breaks[0].connections, "those whose packets arrive on eth0");
}
