//! Packets flow on without a controller, and the next one takes over: crashes, stops, upgrades and mishaps in between.
//!
//! Needs root, so a plain `cargo test` leaves these out; `cargo xtask test` runs them. Each test has a lab of its own,
//! with a BPF file system of its own: what is pinned there goes with it, however the test ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap as BpfHashMap, Map, MapData};
use lb_common::addr::{Endpoint4, Endpoint6};
use lb_common::backend::Backend;
use lb_common::layout::{ABI_VERSION, ROWS_VERSION};
use lb_common::ring::Row;
use lb_common::service::{Reverse4, Reverse6, Service};
use lb_tests::lab::config::{Config, Direct};
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::netns::NetNs;
use lb_tests::lab::pass::XdpPass;
use lb_tests::lab::traffic::{Target, Traffic, ask_many, failures};
use lb_tests::lab::{Lab, TUNNEL_VIP, VIP};
use sluice::api::types::{Health, Status};
use sluice::dataplane::state;
use sluice::exit::Exit;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a test waits for something that should take a moment.
const SOON: Duration = Duration::from_secs(10);
/// Between two requests of a client that asks all the time.
const PACE: Duration = Duration::from_millis(5);

/// Labs may run side by side, but kills at random moments want no company.
static MACHINE: RwLock<()> = RwLock::new(());

struct Running {
    // Sluice goes before the lab it runs in.
    daemon: Daemon,
    config: Config,
    lab: Lab,
    _machine: RwLockReadGuard<'static, ()>,
}

impl Running {
    fn new() -> Self {
        let machine = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        let lab = Lab::new().unwrap();
        let config = Config::new(&lab);
        let daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
        Self { daemon, config, lab, _machine: machine }
    }

    /// Starts the next controller on the configuration as it is now.
    fn restart(&mut self) {
        self.daemon = Daemon::start(&self.lab, Launcher::beside_us().unwrap(), &self.config.yaml()).unwrap();
    }

    fn traffic(&self) -> Traffic {
        let clients: [(&'static str, &NetNs); 3] =
            [("client", &self.lab.client), ("away", &self.lab.away), ("branch", &self.lab.branch)];
        Traffic::start(&clients, &Target::all(VIP), PACE, PATIENCE).unwrap()
    }

    fn answered(&self, count: usize) {
        let outcomes = ask_many("client", &self.lab.client, &Target::all(VIP), count, PATIENCE).unwrap();
        assert_eq!(failures(&outcomes), [""; 0]);
    }

    fn log(&self) -> String {
        self.daemon.log(40)
    }

    fn packets(&self) -> u64 {
        let status = self.daemon.status().unwrap();
        status.services.iter().map(|s| s.forwarded.packets).sum()
    }

    fn pins(&self) -> Pins {
        Pins::of(&self.lab)
    }
}

/// Asserts that no request failed, and that there were enough to tell.
fn none_lost(traffic: Traffic, at_least: usize) {
    let outcomes = traffic.stop().unwrap();
    assert_eq!(failures(&outcomes), [""; 0]);
    assert!(outcomes.len() >= at_least, "{} requests are too few to tell", outcomes.len());
}

/// The kernel's ids of everything that is pinned.
#[derive(Clone, Debug, PartialEq)]
struct Pins {
    maps: BTreeMap<String, u32>,
    /// Ids of the arrays in the rings' slots, by class and slot.
    rings: BTreeMap<(String, u32), u32>,
    /// By interface number: the link and the program in it.
    links: BTreeMap<String, (u64, u64)>,
    program: u64,
}

impl Pins {
    fn of(lab: &Lab) -> Self {
        let dir = lab.bpf_dir();
        let mut maps = BTreeMap::new();
        let mut rings = BTreeMap::new();
        for name in names(&dir.join("maps")).into_iter().filter(|name| name != "state") {
            let map = MapData::from_pin(dir.join("maps").join(&name)).unwrap();
            maps.insert(name.clone(), map.info().unwrap().id());
            if name.starts_with("RINGS_") {
                rings.extend(slots(&dir, &name).into_iter().map(|(slot, id)| ((name.clone(), slot), id)));
            }
        }
        let links = names(&dir.join("links")).into_iter().map(|name| {
            let link = bpftool(&["link", "show", "pinned"], &dir.join("links").join(&name));
            (name, (link["id"].as_u64().unwrap(), link["prog_id"].as_u64().unwrap()))
        });
        let program = bpftool(&["prog", "show", "pinned"], &dir.join("programs/sluice"));
        Self { maps, rings, links: links.collect(), program: program["id"].as_u64().unwrap() }
    }

    fn link_ids(&self) -> Vec<u64> {
        self.links.values().map(|(id, _)| *id).collect()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn bpftool(what: &[&str], path: &Path) -> serde_json::Value {
    let output = Command::new("bpftool").arg("-j").args(what).arg(path).output().expect("bpftool runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{what:?} {}: {e}: {output:?}", path.display()))
}

/// The ids of the arrays in a map of rings, by slot.
fn slots(dir: &Path, name: &str) -> Vec<(u32, u32)> {
    let outer = MapData::from_pin(dir.join("maps").join(name)).unwrap();
    let slots = outer.info().unwrap().max_entries();
    // What a lookup in a map of maps gives is an id.
    let Ok(ids) = Array::<_, u32>::try_from(Map::Array(outer)) else { panic!("{name}") };
    (0..slots).filter_map(|slot| ids.get(&slot, 0).ok().map(|id| (slot, id))).collect()
}

/// Nothing of Sluice is left in the lab's lb.
fn assert_clean(lab: &Lab) {
    for interface in ["eth0", "eth1"] {
        let link = lab.lb.ip_show(&format!("link show dev {interface}")).unwrap();
        assert!(!link.contains("xdp"), "{link}");
    }
    let addresses = lab.lb.ip_show("addr show").unwrap();
    for vip in VIP.both() {
        assert!(!addresses.contains(&format!("{vip}/")), "{addresses}");
    }
    assert!(!lab.bpf_dir().exists(), "{:?}", names(&lab.bpf_dir()));
}

/// Runs `sluice ARGUMENTS` in the lab's lb to its end, which has to come by itself.
fn sluice(lab: &Lab, arguments: &[&str]) -> Output {
    let Launcher::Binary(sluice) = Launcher::beside_us().unwrap() else { panic!("a binary") };
    let mut command = lab.lb.command("timeout").unwrap();
    command.arg("--signal=KILL").arg("20").arg(sluice).args(arguments);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "needs root"]
fn a_killed_controller_is_not_missed_and_the_next_one_takes_over() {
    let mut run = Running::new();
    run.answered(40);
    let (before, packets) = (run.pins(), run.packets());
    assert_eq!(before.links.len(), 2);
    let traffic = run.traffic();
    std::thread::sleep(Duration::from_millis(500));
    run.daemon.kill();
    std::thread::sleep(Duration::from_secs(2));
    run.restart();
    std::thread::sleep(Duration::from_secs(1));
    none_lost(traffic, 1000);

    let after = run.pins();
    assert_eq!(after.maps, before.maps, "the maps are the same");
    assert_eq!(after.rings, before.rings, "and so are the rings' arrays: not a row was touched");
    assert_eq!(after.link_ids(), before.link_ids(), "the links were never detached");
    assert_ne!(after.program, before.program, "the program in them is the new one");
    assert!(after.links.values().all(|(_, program)| *program == after.program), "{after:?}");
    assert!(run.packets() > packets, "counters go on");
    assert!(run.log().contains("taking over from sluice"), "{}", run.log());
}

#[test]
#[ignore = "needs root"]
fn a_stop_keeps_packets_flowing_until_detach_ends_it() {
    let mut run = Running::new();
    let before = run.pins();
    let file = run.daemon.config();
    let detach = ["detach", "-c", file.to_str().unwrap(), "-o", "json"];

    let refused = sluice(&run.lab, &detach);
    assert_eq!(refused.status.code(), Some(Exit::Failed as i32), "{refused:?}");
    assert!(said(&refused).contains(&format!("pid {}", run.daemon.pid())), "{refused:?}");

    let traffic = run.traffic();
    assert_eq!(run.daemon.stop().unwrap().code(), Some(0), "{}", run.log());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(run.pins(), before, "everything is as it was");
    run.restart();
    assert_eq!(run.daemon.stop().unwrap().code(), Some(0), "{}", run.log());
    std::thread::sleep(Duration::from_millis(500));
    none_lost(traffic, 1000);

    let detached = sluice(&run.lab, &detach);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    assert_clean(&run.lab);
    let report: serde_json::Value = serde_json::from_slice(&detached.stdout).unwrap();
    let on: Vec<&str> = report["programs"].as_array().unwrap().iter().filter_map(|p| p["interface"].as_str()).collect();
    assert_eq!(on, ["eth0", "eth1"], "{report}");
    assert_eq!(report["maps"].as_u64(), Some(before.maps.len() as u64), "{report}");
    assert_eq!(report["vips"].as_array().map(Vec::len), Some(3), "IPv4 on one interface, IPv6 on both: {report}");

    let again = sluice(&run.lab, &detach[..3]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "there was nothing to remove\n", "{again:?}");
}

#[test]
#[ignore = "needs root"]
fn what_an_operator_drained_stays_drained_over_crash_and_stop() {
    let mut run = Running::new();
    let drained = ["web/b3", "web/b3-v6", "dns/b3", "dns/b3-v6"];
    for backend in drained {
        run.daemon.cli_ok(&["drain", backend]).unwrap();
    }
    let is_drained = |status: &Status| {
        let mut b3 = status.services.iter().flat_map(|s| &s.backends).filter(|b| b.name.starts_with("b3"));
        b3.all(|b| b.overridden && b.share == 0.0)
    };
    for kill in [true, false] {
        if kill {
            run.daemon.kill();
        } else {
            run.daemon.stop().unwrap();
        }
        run.daemon = Daemon::spawn(&run.lab, Launcher::beside_us().unwrap(), &run.config.yaml()).unwrap();
        let status = run.daemon.wait("it answers", SOON, |_| true).unwrap();
        assert!(is_drained(&status), "{status:?}");
        let unknown = status.services.iter().flat_map(|s| &s.backends).filter(|b| b.health != Health::Up);
        assert_eq!(unknown.count(), 0, "verdicts are known from the first moment: {status:?}");
    }
    for backend in drained {
        run.daemon.cli_ok(&["undrain", backend]).unwrap();
    }
    run.daemon.kill();
    run.restart();
    assert!(run.daemon.status().unwrap().services.iter().flat_map(|s| &s.backends).all(|b| !b.overridden));
}

#[test]
#[ignore = "needs root"]
fn a_second_controller_is_refused_though_it_has_a_run_dir_of_its_own() {
    let run = Running::new();
    let before = run.pins();
    let dir = run.lab.dir().display().to_string();
    let other = run.config.yaml().replace(&format!("run_dir: {dir}/run"), &format!("run_dir: {dir}/other"));
    let other = other.replace("admin.sock", "other.sock").replace("127.0.0.1:9480", "off");
    let file = run.lab.dir().join("other.yaml");
    std::fs::write(&file, other).unwrap();
    for (config, says) in [(run.daemon.config(), run.daemon.pid().to_string()), (file, "same node.bpf_dir".to_owned())]
    {
        let output = sluice(&run.lab, &["run", "-c", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(Exit::Failed as i32), "{output:?}");
        assert!(said(&output).contains(&says), "{output:?}");
    }
    assert_eq!(run.pins(), before);
    run.answered(40);
}

#[test]
#[ignore = "needs root"]
fn a_map_of_another_shape_is_replaced_with_a_word_and_no_request_is_lost() {
    let mut run = Running::new();
    let before = run.pins();
    let traffic = run.traffic();
    run.daemon.kill();
    for name in ["SERVICES4", "CLOCK"] {
        let path = run.lab.bpf_dir().join("maps").join(name);
        std::fs::remove_file(&path).unwrap();
        let odd: BpfHashMap<_, u64, [u8; 40]> = BpfHashMap::create(16, 0).unwrap();
        odd.pin(&path).unwrap();
    }
    run.restart();
    std::thread::sleep(Duration::from_millis(500));
    none_lost(traffic, 300);
    let log = run.log();
    for says in
        ["the map SERVICES4 is replaced, it starts empty", "value 40 bytes instead of 16 bytes", "the map CLOCK"]
    {
        assert!(log.contains(says), "{says}: {log}");
    }
    let after = run.pins();
    assert_eq!(after.link_ids(), before.link_ids());
    assert_eq!(after.rings, before.rings, "the others are taken as they are");
    let same = before.maps.iter().filter(|(name, id)| after.maps.get(*name) == Some(id)).count();
    assert_eq!(same, before.maps.len() - 2);
    assert_eq!(names(&run.lab.bpf_dir()), ["links", "maps", "programs"]);
}

#[test]
#[ignore = "needs root"]
fn raised_limits_carry_everything_over_into_larger_maps() {
    let mut run = Running::new();
    run.answered(100);
    let (before, packets) = (run.pins(), run.packets());
    let traffic = run.traffic();
    run.daemon.kill();
    run.config.appendix = "limits: { services: 2000, backends: 20000 }\n".to_owned();
    run.restart();
    std::thread::sleep(Duration::from_millis(500));
    none_lost(traffic, 300);
    let after = run.pins();
    assert_eq!((after.link_ids(), &after.rings), (before.link_ids(), &before.rings));
    for name in ["SERVICES4", "BACKENDS", "RINGS_10", "SERVICE_COUNTERS"] {
        assert_ne!(after.maps[name], before.maps[name], "{name} is larger now");
    }
    assert!(run.packets() > packets, "counters go on");

    // Lower limits need no smaller maps.
    run.daemon.kill();
    run.config.appendix = "limits: { services: 8, backends: 64 }\n".to_owned();
    run.restart();
    assert_eq!(run.pins().maps, after.maps);
    run.answered(40);
}

#[test]
#[ignore = "needs root"]
fn another_abi_gets_new_maps_in_the_same_links_and_keeps_its_rings_where_they_mean_the_same() {
    let mut run = Running::new();
    for (abi, rows, says) in [
        (ABI_VERSION + 1, ROWS_VERSION, "rings and flow entries are carried over"),
        (ABI_VERSION + 1, ROWS_VERSION + 1, "cannot be carried over"),
    ] {
        let before = run.pins();
        let traffic = run.traffic();
        run.daemon.kill();
        let mut stored = state::load(&run.lab.bpf_dir()).unwrap().unwrap();
        (stored.abi, stored.rows) = (abi, rows);
        state::forge(&run.lab.bpf_dir(), &stored).unwrap();
        run.restart();
        std::thread::sleep(Duration::from_millis(500));
        none_lost(traffic, 300);
        assert!(run.log().contains(says), "{says}: {}", run.log());
        let after = run.pins();
        assert_eq!(after.link_ids(), before.link_ids());
        assert_eq!(after.rings == before.rings, rows == ROWS_VERSION, "{before:?} {after:?}");
        assert!(after.maps.iter().all(|(name, id)| before.maps[name] != *id), "every map is new");
        assert_eq!(state::load(&run.lab.bpf_dir()).unwrap().unwrap().abi, ABI_VERSION);
    }
}

#[test]
#[ignore = "needs root"]
fn a_lost_state_is_told_and_the_links_are_taken_over_all_the_same() {
    let mut run = Running::new();
    let before = run.pins();
    run.daemon.kill();
    std::fs::remove_file(run.lab.bpf_dir().join("maps/state")).unwrap();
    run.restart();
    assert!(run.log().contains("it saved no state"), "{}", run.log());
    assert_eq!(run.pins().link_ids(), before.link_ids());
    run.answered(40);
}

#[test]
#[ignore = "needs root"]
fn an_interface_made_anew_while_nobody_ran_gets_the_program_again() {
    let mut run = Running::new();
    let make = "link add eth9 type veth peer name eth9peer\nlink set eth9 up\nlink set eth9peer up\n";
    run.lab.lb.ip(make).unwrap();
    run.daemon.stop().unwrap();
    run.config.interfaces = ", eth9";
    run.restart();
    let before = run.pins();
    assert_eq!(before.links.len(), 3);
    run.daemon.kill();
    run.lab.lb.ip("link del eth9\n").unwrap();
    run.lab.lb.ip(make).unwrap();
    run.restart();
    let after = run.pins();
    assert_eq!(after.links.len(), 3, "{after:?}");
    let new: Vec<&String> = after.links.keys().filter(|name| !before.links.contains_key(*name)).collect();
    assert_eq!(new.len(), 1, "{before:?} {after:?}");
    let same = before.links.iter().filter(|(name, (id, _))| after.links.get(*name).is_some_and(|(now, _)| now == id));
    assert_eq!(same.count(), 2, "{before:?} {after:?}");
    assert!(run.lab.lb.ip_show("link show dev eth9").unwrap().contains("xdp"));

    // One that the configuration no longer names is let go.
    run.daemon.kill();
    run.config.interfaces = "";
    run.restart();
    assert_eq!(run.pins().links.len(), 2);
    assert!(!run.lab.lb.ip_show("link show dev eth9").unwrap().contains("xdp"));
}

#[test]
#[ignore = "needs root"]
fn a_start_that_fails_leaves_what_ran_running() {
    let mut run = Running::new();
    run.lab.lb.ip("link add eth9 type veth peer name eth9peer\nlink set eth9 up\nlink set eth9peer up\n").unwrap();
    let foreign = XdpPass::load().unwrap();
    let held = foreign.attach(&run.lab.lb, "eth9").unwrap();
    run.daemon.kill();
    let before = (run.pins().maps, run.pins().link_ids(), tables(&run.lab));
    let traffic = run.traffic();
    let good = run.config.clone();
    run.config.interfaces = ", eth9";
    run.config.tunnel = Some(Direct::IPIP);
    std::fs::write(run.daemon.config(), run.config.yaml()).unwrap();
    for (what, yaml) in [
        ("another program holds eth9", run.config.yaml()),
        ("there is no eth8", run.config.yaml().replace("eth9", "eth8")),
        ("the file is wrong", "version: 7\n".to_owned()),
    ] {
        std::fs::write(run.daemon.config(), yaml).unwrap();
        let output = sluice(&run.lab, &["run", "-c", run.daemon.config().to_str().unwrap()]);
        assert_ne!(output.status.code(), Some(0), "{what}: {output:?}");
        assert_eq!((run.pins().maps, run.pins().link_ids(), tables(&run.lab)), before, "{what}: {output:?}");
        let addresses = run.lab.lb.ip_show("addr show").unwrap();
        assert!(!addresses.contains(&format!("{}/", TUNNEL_VIP.v4)), "{what}: {addresses}");
        assert!(addresses.contains(&format!("{}/", VIP.v4)), "{what}: {addresses}");
    }
    // With another key every flow would meet another row.
    run.config = good;
    let (key, aside) = (run.lab.dir().join("hash.key"), run.lab.dir().join("aside.key"));
    std::fs::write(run.daemon.config(), run.config.yaml()).unwrap();
    std::fs::rename(&key, &aside).unwrap();
    for (attempt, other) in [("without the key", None), ("with another one", Some("5a".repeat(32)))] {
        if let Some(other) = &other {
            std::fs::write(&key, other).unwrap();
        }
        let output = sluice(&run.lab, &["run", "-c", run.daemon.config().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(Exit::Failed as i32), "{attempt}: {output:?}");
        assert!(said(&output).contains("hash key is not the one"), "{attempt}: {output:?}");
        assert_eq!((run.pins().maps, run.pins().link_ids(), tables(&run.lab)), before, "{attempt}");
        assert_eq!(key.exists(), other.is_some(), "{attempt}: no key is made where one was lost");
    }
    std::fs::rename(&aside, &key).unwrap();
    none_lost(traffic, 100);
    drop(held);
    run.restart();
    run.answered(40);
}

/// Address, port, protocol.
type Endpoint = (IpAddr, u16, u8);

/// What the maps say, in words that do not depend on ids: two controllers with one configuration write the same.
#[derive(Debug, PartialEq)]
struct Tables {
    /// Endpoint → forwarding mode and the owner of every row.
    services: BTreeMap<Endpoint, (u8, Vec<Option<IpAddr>>)>,
    /// Backend endpoint → VIP, port, backend.
    reverse: BTreeMap<Endpoint, (IpAddr, u16, Option<IpAddr>)>,
    /// Address, port and flags of each record.
    backends: BTreeSet<(IpAddr, u16, u16, u16)>,
    records: usize,
    rings: usize,
    hops: BTreeSet<Vec<u8>>,
}

fn ip4(word: u32) -> IpAddr {
    Ipv4Addr::from(word.to_ne_bytes()).into()
}

fn ip6(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (to, word) in octets.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).into()
}

fn tables(lab: &Lab) -> Tables {
    let dir = lab.bpf_dir();
    let open = |name: &str| MapData::from_pin(dir.join("maps").join(name)).unwrap();
    let backends = Array::<_, Backend>::try_from(Map::Array(open("BACKENDS"))).unwrap();
    let mut records = BTreeMap::new();
    for (id, record) in backends.iter().enumerate() {
        let record = record.unwrap();
        if record != Backend::default() {
            let v6 = record.state.flags & lb_common::backend::BACKEND_V6 != 0;
            let address = if v6 { ip6(record.addr) } else { ip4(record.addr[0]) };
            records.insert(id as u16, (address, record));
        }
    }
    let address_of = |id: u16| records.get(&id).map(|(address, _)| *address);
    let classes = ["RINGS_10", "RINGS_12", "RINGS_14", "RINGS_17", "RINGS_20"];
    let slots: Vec<BTreeMap<u32, u32>> = classes.iter().map(|name| slots(&dir, name).into_iter().collect()).collect();
    let owners = |service: &Service| -> (u8, Vec<Option<IpAddr>>) {
        let id = slots[usize::from(service.class)][&service.ring];
        let ring = Array::<_, u64>::try_from(Map::Array(MapData::from_id(id).unwrap())).unwrap();
        (service.forward, ring.iter().map(|word| address_of(Row(word.unwrap()).owner())).collect())
    };
    let mut services = BTreeMap::new();
    let map = BpfHashMap::<_, Endpoint4, Service>::try_from(Map::HashMap(open("SERVICES4"))).unwrap();
    services.extend(map.iter().map(|e| e.unwrap()).map(|(k, v)| ((ip4(k.addr), k.port, k.protocol), owners(&v))));
    let map = BpfHashMap::<_, Endpoint6, Service>::try_from(Map::HashMap(open("SERVICES6"))).unwrap();
    services.extend(map.iter().map(|e| e.unwrap()).map(|(k, v)| ((ip6(k.addr), k.port, k.protocol), owners(&v))));
    let mut reverse = BTreeMap::new();
    let map = BpfHashMap::<_, Endpoint4, Reverse4>::try_from(Map::HashMap(open("REVERSE4"))).unwrap();
    for (k, v) in map.iter().map(|e| e.unwrap()) {
        reverse.insert((ip4(k.addr), k.port, k.protocol), (ip4(v.vip), v.port, address_of(v.backend)));
    }
    let map = BpfHashMap::<_, Endpoint6, Reverse6>::try_from(Map::HashMap(open("REVERSE6"))).unwrap();
    for (k, v) in map.iter().map(|e| e.unwrap()) {
        reverse.insert((ip6(k.addr), k.port, k.protocol), (ip6(v.vip), v.port, address_of(v.backend)));
    }
    let hops = Array::<_, [u8; 24]>::try_from(Map::Array(open("NEXT_HOPS"))).unwrap();
    let hops = records.values().map(|(_, r)| hops.get(&r.route.next_hop, 0).unwrap().to_vec()).collect();
    Tables {
        services,
        reverse,
        backends: records.values().map(|(a, r)| (*a, r.state.port, r.state.flags, 0)).collect(),
        records: records.len(),
        rings: slots.iter().map(BTreeMap::len).sum(),
        hops,
    }
}

#[test]
#[ignore = "needs root"]
fn an_apply_cut_short_at_any_moment_is_finished_by_the_next_controller() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new().unwrap();
    let mut plain = Config::new(&lab);
    plain.tunnel = Some(Direct::IPIP);
    let launcher = || Launcher::beside_us().unwrap();
    let mut daemon = Daemon::start(&lab, launcher(), &plain.yaml()).unwrap();
    let links = Pins::of(&lab).link_ids();
    let fresh = tables(&lab);
    let extra = "  - name: extra\n    listen: \"198.51.100.100:8088\"\n    backends: [{ address: 10.0.0.11, port: 8089 }, \
                 { address: 10.0.3.13, port: 8089 }]\n";

    let mut x = 0x2545_f491_u32;
    let mut random = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x
    };
    // How long a reload takes is the window to hit: one that loads another variant of the program, and one that does not.
    let mut windows = [Duration::ZERO; 2];
    for (window, tunnel) in [(0, false), (0, true), (1, true)] {
        let mut config = plain.clone();
        (config.tunnel, config.appendix) =
            (tunnel.then_some(Direct::IPIP), if window == 1 { extra.to_owned() } else { String::new() });
        daemon.edit(&config.yaml()).unwrap();
        let started = Instant::now();
        daemon.cli_ok(&["reload"]).unwrap();
        windows[window] = started.elapsed();
    }
    let mut written = 0;
    for round in 0..30 {
        let mut config = plain.clone();
        let slow = round % 4 == 0;
        config.tunnel = (!slow).then_some(Direct::IPIP);
        if round % 2 == 1 {
            config.appendix = extra.to_owned();
        }
        for backend in ["b1", "b2", "b3"] {
            // Not so light that the ring would need more rows.
            config.set_weight(backend, 50 + random() % 250);
        }
        let mut yaml = config.yaml();
        if round % 3 == 0 {
            yaml = yaml.lines().filter(|line| !line.contains("name: b1")).map(|l| format!("{l}\n")).collect();
        }
        daemon.edit(&yaml).unwrap();
        daemon.signal(nix::sys::signal::Signal::SIGHUP);
        std::thread::sleep(windows[usize::from(!slow)] * (random() % 1000) / 1000);
        daemon.kill();
        written += u32::from(tables(&lab) != fresh);
        // The next one is told something else again.
        daemon = Daemon::start(&lab, launcher(), &plain.yaml()).unwrap_or_else(|e| panic!("round {round}: {e:#}"));
        assert_eq!(Pins::of(&lab).link_ids(), links, "round {round}");
        let outcomes = ask_many("client", &lab.client, &Target::all(VIP), 16, PATIENCE).unwrap();
        assert_eq!(failures(&outcomes), [""; 0], "round {round}");
        let now = tables(&lab);
        let same = now == fresh;
        assert!(same, "round {round}: what the maps say is not what one start writes\n{}", difference(&now, &fresh));
    }
    assert!((5..30).contains(&written), "{written} of 30 reloads had written something when they were cut short");
}

/// Where two differ, without a million rows.
fn difference(now: &Tables, fresh: &Tables) -> String {
    let mut out = String::new();
    for (endpoint, (forward, rows)) in &now.services {
        match fresh.services.get(endpoint) {
            Some((f, r)) => {
                let moved = rows.iter().zip(r).filter(|(a, b)| a != b).count();
                if moved > 0 || f != forward || r.len() != rows.len() {
                    out += &format!("{endpoint:?}: {moved} rows, {} instead of {}\n", rows.len(), r.len());
                }
            }
            None => out += &format!("{endpoint:?} is a stray\n"),
        }
    }
    if now.reverse != fresh.reverse {
        out += &format!("reverse: {:?} instead of {:?}\n", now.reverse, fresh.reverse);
    }
    if (&now.backends, now.records) != (&fresh.backends, fresh.records) {
        out += &format!("backends: {} {:?} instead of {:?}\n", now.records, now.backends, fresh.backends);
    }
    out + &format!("{} rings instead of {}, hops {}\n", now.rings, fresh.rings, now.hops == fresh.hops)
}

#[test]
#[ignore = "needs root"]
fn a_start_cut_short_at_any_moment_is_taken_over_by_the_next() {
    let _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new().unwrap();
    let mut config = Config::new(&lab);
    let launcher = || Launcher::beside_us().unwrap();
    let mut daemon = Daemon::start(&lab, launcher(), &config.yaml()).unwrap();
    let links = Pins::of(&lab).link_ids();
    let fresh = tables(&lab);
    let clients: [(&'static str, &NetNs); 3] = [("client", &lab.client), ("away", &lab.away), ("branch", &lab.branch)];
    let traffic = Traffic::start(&clients, &Target::all(VIP), PACE, PATIENCE).unwrap();
    let mut x = 0x1357_9bdf_u32;
    for round in 0..24_u32 {
        daemon.kill();
        // New maps have to be made in two of three rounds: for another ABI, and for larger limits.
        match round % 3 {
            0 => {
                let mut stored = state::load(&lab.bpf_dir()).unwrap().unwrap();
                stored.abi = ABI_VERSION + 1;
                state::forge(&lab.bpf_dir(), &stored).unwrap();
            }
            1 => config.appendix = format!("limits: {{ services: {} }}\n", 1100 + round),
            _ => {}
        }
        daemon = Daemon::spawn(&lab, launcher(), &config.yaml()).unwrap();
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        std::thread::sleep(Duration::from_millis(u64::from(x % 500)));
        daemon.kill();
        assert_eq!(Pins::of(&lab).link_ids(), links, "round {round}");
    }
    daemon = Daemon::start(&lab, launcher(), &config.yaml()).unwrap();
    none_lost(traffic, 1000);
    assert_eq!(Pins::of(&lab).link_ids(), links);
    assert_eq!(names(&lab.bpf_dir()), ["links", "maps", "programs"]);
    let now = tables(&lab);
    assert!(now == fresh, "what the maps say is not what one start writes\n{}", difference(&now, &fresh));
    drop(daemon);
}
