//! From configuration, health and network to tables, without a kernel.

use super::*;
use crate::config;
use crate::net::addr::Address;
use crate::net::link::Link;
use crate::net::route::{Route, Table};

const SIZES: Sizes = Sizes { services: 16, backends: 64, flows4: 1024, flows6: 1024, tracked4: 1024, tracked6: 1024 };

fn model(services: &str) -> Model {
    let text = format!("version: 1\nnode: {{ interfaces: [eth0] }}\nservices:\n{services}");
    config::parse("test.yaml", &text).unwrap_or_else(|d| panic!("{d}"))
}

/// A world that remembers ids, rings and verdicts from one computation to the next.
struct World {
    ids: Ids,
    rings: Rings,
    verdicts: HashMap<BackendName, bool>,
    overrides: BTreeMap<BackendName, BackendState>,
    leaving: Leaving,
    safety: Safety,
    agents: BTreeMap<BackendName, Standing>,
    net: NetState,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            ids: Ids::new(SIZES),
            rings: Rings::new(),
            verdicts: HashMap::new(),
            overrides: BTreeMap::new(),
            leaving: Leaving::default(),
            safety: Safety::default(),
            agents: BTreeMap::new(),
            net: NetState::default(),
            now: Instant::now(),
        }
    }

    fn all_up(mut self, model: &Model) -> Self {
        for service in &model.services {
            for backend in &service.backends {
                self.verdicts.insert((service.name.clone(), backend.name.clone()), true);
            }
        }
        self
    }

    fn compute(&mut self, model: &Model) -> Desired {
        let Self { ids, rings, verdicts, overrides, leaving, safety, agents, net, now } = self;
        let before = safety.clone();
        let view = View { verdicts, overrides, leaving, safety: &before, agents };
        safety.update(model, verdicts, |s, b| view.is_wanted(s, b), *now);
        let view = View { safety, ..view };
        let desired = compute(model, view, net, &Seed([5; 32]), ids, rings, *now).unwrap_or_else(|f| panic!("{f}"));
        release_slots(ids, &desired.rings, *now);
        *rings = desired.rings.clone();
        desired
    }
}

const TWO: &str = "
  - name: web
    listen: [203.0.113.10:80, '[2001:db8::10]:80']
    health: { tcp: {} }
    backends:
      - { name: a, address: 10.0.0.1, port: 8080 }
      - { name: b, address: 10.0.0.2, port: 8080 }
      - { name: c, address: '2001:db8:1::1', port: 8080 }
";

/// Owners of a ring's rows, without repetition.
fn owners(desired: &Desired, family: Family) -> BTreeSet<u16> {
    let (_, ring) = desired.rings.iter().find(|(key, _)| key.family == family).unwrap();
    ring.owners.iter().copied().collect()
}

#[test]
fn every_address_and_port_is_a_key_in_network_order_with_a_ring_of_its_family() {
    let model = model(TWO);
    let desired = World::new().all_up(&model).compute(&model);
    let key = Endpoint4 { addr: u32::from_ne_bytes([203, 0, 113, 10]), port: 80_u16.to_be(), protocol: 6, pad: 0 };
    let entry = desired.tables.services4[&key];
    assert_eq!(entry.forward, FORWARD_NAT);
    assert_eq!(desired.tables.services4.len(), 1);
    assert_eq!(desired.tables.services6.len(), 1);
    let other = desired.tables.services6.values().next().unwrap();
    assert_eq!(other.id, entry.id, "one service");
    assert_ne!((other.class, other.ring), (entry.class, entry.ring), "two rings");
    assert_eq!(owners(&desired, Family::V4).len(), 2);
    assert_eq!(owners(&desired, Family::V6).len(), 1);
}

#[test]
fn replies_are_found_by_the_backends_endpoint() {
    let model = model(TWO);
    let mut world = World::new().all_up(&model);
    let desired = world.compute(&model);
    let reverse = desired.tables.reverse4[&Endpoint4::from_host([10, 0, 0, 2], 8080, 6)];
    assert_eq!(reverse.vip, u32::from_ne_bytes([203, 0, 113, 10]));
    assert_eq!(reverse.port, 80_u16.to_be());
    assert_eq!(Some(reverse.backend), world.ids.backend(&model.services[0], &model.services[0].backends[1]));
    assert_eq!(desired.tables.reverse4.len(), 2);
    assert_eq!(desired.tables.reverse6.len(), 1);
}

#[test]
fn only_backends_that_are_up_and_active_own_rows() {
    let model = model(TWO);
    let mut world = World::new();
    assert_eq!(owners(&world.compute(&model), Family::V4), BTreeSet::from([0]), "nobody was checked yet");

    world = world.all_up(&model);
    let both = owners(&world.compute(&model), Family::V4);
    assert_eq!(both.len(), 2);

    world.verdicts.insert(("web".into(), "a".into()), false);
    let rest = owners(&world.compute(&model), Family::V4);
    let b = world.ids.backend(&model.services[0], &model.services[0].backends[1]).unwrap();
    assert_eq!(rest, BTreeSet::from([b]));

    world.verdicts.insert(("web".into(), "a".into()), true);
    world.overrides.insert(("web".into(), "a".into()), BackendState::Drain);
    let desired = world.compute(&model);
    assert_eq!(owners(&desired, Family::V4), BTreeSet::from([b]), "drained by an operator");
    let a = world.ids.backend(&model.services[0], &model.services[0].backends[0]).unwrap();
    assert_ne!(desired.tables.backends[&a].flags & BACKEND_ALIVE, 0, "but alive: its flows are still its own");
}

#[test]
fn a_backend_that_dies_does_not_resize_the_ring() {
    let lines: String = (1..=11).map(|i| format!("      - {{ address: 10.0.0.{i} }}\n")).collect();
    let model =
        model(&format!("  - name: s\n    listen: 203.0.113.1:80\n    health: {{ tcp: {{}} }}\n    backends:\n{lines}"));
    let mut world = World::new().all_up(&model);
    let before = world.compute(&model).tables.rings.values().next().unwrap().place;
    world.verdicts.insert(("s".into(), "10.0.0.1".into()), false);
    assert_eq!(world.compute(&model).tables.rings.values().next().unwrap().place, before);
}

#[test]
fn a_new_ring_waits_for_the_first_checks_but_not_for_ever() {
    let model = model(TWO);
    let mut world = World::new();
    let check = |world: &mut World, backend: &str, up| {
        world.verdicts.insert(("web".into(), backend.into()), up);
        owners(&world.compute(&model), Family::V4).len()
    };
    let nobody = BTreeSet::from([0]);
    assert_eq!(owners(&world.compute(&model), Family::V4), nobody);
    check(&mut world, "a", true);
    assert_eq!(owners(&world.compute(&model), Family::V4), nobody, "b was not checked yet");
    assert_eq!(check(&mut world, "b", false), 1);
    assert_ne!(owners(&world.compute(&model), Family::V4), nobody);
    assert_eq!(check(&mut world, "b", true), 2);
    assert_eq!(owners(&world.compute(&model), Family::V6), nobody, "a ring of its own");
    world.now += FIRST_CHECKS;
    world.verdicts.remove(&("web".into(), "b".into()));
    assert_eq!(owners(&world.compute(&model), Family::V4).len(), 1, "it was whole, and stays so");

    let mut late = World { now: world.now, ..World::new() };
    late.compute(&model);
    late.verdicts.insert(("web".into(), "a".into()), true);
    late.now += FIRST_CHECKS;
    assert_ne!(owners(&late.compute(&model), Family::V4), nobody, "b takes too long");

    // Under the next controller it is in use.
    world.rings.clear();
    world.verdicts.remove(&("web".into(), "b".into()));
    assert_eq!(owners(&world.compute(&model), Family::V4).len(), 1);
}

#[test]
fn an_unchanged_ring_is_the_very_same() {
    let model = model(TWO);
    let mut world = World::new().all_up(&model);
    let first = world.compute(&model).tables.rings;
    let second = world.compute(&model).tables.rings;
    for (id, ring) in first {
        assert!(Arc::ptr_eq(&ring.owners, &second[&id].owners));
    }
}

#[test]
fn small_changes_of_weight_add_up_before_a_ring_follows() {
    let weighing = |a: u32| {
        let mut model = model(TWO);
        model.node.weight_hysteresis = 0.1;
        model.services[0].backends[0].weight = a;
        model
    };
    let mut world = World::new().all_up(&model(TWO));
    let mut v4 = |model: &Model| {
        let rings = world.compute(model).tables.rings;
        rings.into_iter().find(|(id, _)| id.family == 4).unwrap().1.owners
    };
    let built = v4(&weighing(100));
    for near in [110, 90, 100, 91] {
        assert!(Arc::ptr_eq(&built, &v4(&weighing(near))), "{near} is near 100");
    }
    let lighter = v4(&weighing(89));
    assert!(!Arc::ptr_eq(&built, &lighter), "89 is not");
    assert!(Arc::ptr_eq(&lighter, &v4(&weighing(82))), "82 is near 89, which is what the ring has now");
    assert!(!Arc::ptr_eq(&lighter, &v4(&weighing(100))));
    let none = v4(&weighing(0));
    assert_eq!(none.iter().copied().collect::<BTreeSet<_>>().len(), 1, "nothing is near 0");
    let one = v4(&weighing(1));
    assert_eq!(one.iter().copied().collect::<BTreeSet<_>>().len(), 2);
}

#[test]
fn order_in_the_file_changes_neither_ring_nor_fingerprint() {
    let turned = TWO
        .replace("name: a, address: 10.0.0.1", "name: x, address: 10.0.0.9")
        .replace("name: b, address: 10.0.0.2", "name: a, address: 10.0.0.1");
    let turned = turned.replace("name: x, address: 10.0.0.9", "name: b, address: 10.0.0.2");
    let fingerprints = |text: &str| -> Vec<_> {
        let model = model(text);
        let desired = World::new().all_up(&model).compute(&model);
        desired.rings.values().map(|ring| ring.fingerprint).collect()
    };
    assert_ne!(TWO, turned);
    assert_eq!(fingerprints(TWO), fingerprints(&turned));
}

#[test]
fn ids_stay_over_reloads_and_rest_after_removal() {
    let before = model(TWO);
    let without = model(&TWO.replace("      - { name: a, address: 10.0.0.1, port: 8080 }\n", ""));
    let (service, backend) = (&before.services[0], &before.services[0].backends[0]);
    let mut world = World::new().all_up(&before);
    world.compute(&before);
    let id = world.ids.backend(service, backend).unwrap();
    let generation = world.ids.generations[&u32::from(id)];
    assert!(!world.compute(&without).tables.backends.contains_key(&id));

    let other = model(&TWO.replace("name: a, address: 10.0.0.1", "name: a, address: 10.0.0.77"));
    assert!(!world.compute(&other).tables.backends.contains_key(&id), "the id rests");
    world.compute(&before);
    assert_eq!(world.ids.backend(service, backend), Some(id), "the same backend gets it back");
    assert_eq!(world.ids.generations[&u32::from(id)], generation);

    world.compute(&without);
    world.now += super::super::ids::REST;
    world.ids.scanned(world.now, |_| true, |_| false);
    let stranger = model(&TWO.replace("name: a, address: 10.0.0.1", "name: a, address: 10.0.0.78"));
    let desired = world.compute(&stranger);
    assert!(desired.tables.backends[&id].generation > generation, "somebody else has it, in another life");
    assert!(world.ids.fresh_backends.contains(&id), "and counts from zero");
}

#[test]
fn a_program_is_asked_only_for_what_the_file_uses() {
    let nat4 = model("  - { name: s, listen: '203.0.113.1:80', backends: [{ address: 10.0.0.1 }] }\n");
    // Kinds of packets are all on unless a file says otherwise; NAT alone lowers the MSS.
    let packets = Packets { clamp: false, ..Packets::ALL };
    let asked = Features { ipv4: true, nat: true, packets: Packets::ALL, ..Features::default() };
    assert_eq!(features(&nat4, &Leaving::default()), asked);
    let ipip6 =
        model("  - { name: s, listen: '[2001:db8::1]:80', forward: ipip, backends: [{ address: '2001:db8:1::1' }] }\n");
    let asked = Features { ipv6: true, ipip: true, packets, ..Features::default() };
    assert_eq!(features(&ipip6, &Leaving::default()), asked);
}

#[test]
fn each_way_of_forwarding_is_asked_for_by_those_that_use_it() {
    let packets = Packets { clamp: false, ..Packets::ALL };
    let none = Features { ipv4: true, packets, ..Features::default() };
    let mac = "inner_mac: 02:00:00:00:00:0a";
    for (forward, tunnel, number, asked) in [
        ("nat", String::new(), FORWARD_NAT, Features { nat: true, packets: Packets::ALL, ..none }),
        ("dsr-l2", String::new(), FORWARD_DSR_L2, Features { dsr_l2: true, ..none }),
        ("ipip", String::new(), FORWARD_IPIP, Features { ipip: true, ..none }),
        ("gre", String::new(), FORWARD_GRE, Features { gre: true, ..none }),
        ("gue", String::new(), FORWARD_GUE, Features { gue: true, ..none }),
        ("gue", ", tunnel: { variant: 0 }".to_owned(), FORWARD_GUE0, Features { gue: true, ..none }),
        ("vxlan", format!(", tunnel: {{ vni: 66051, {mac} }}"), FORWARD_VXLAN, Features { overlay: true, ..none }),
        ("geneve", format!(", tunnel: {{ vni: 66051, {mac} }}"), FORWARD_GENEVE, Features { overlay: true, ..none }),
    ] {
        let file = format!(
            "  - {{ name: s, listen: '203.0.113.1:80', forward: {forward}{tunnel}, health: none, \
             backends: [{{ address: 10.0.0.1 }}] }}\n"
        );
        let model = model(&file);
        assert_eq!(features(&model, &Leaving::default()), asked, "{forward}{tunnel}");
        let desired = World::new().compute(&model);
        assert_eq!(desired.tables.services4.values().next().unwrap().forward, number, "{forward}{tunnel}");
        let sent = desired.tables.backends.values().next().unwrap().tunnel;
        let port = model.services[0].forward.tunnel_port().unwrap_or(0);
        assert_eq!(sent.port.to_ne_bytes(), port.to_be_bytes(), "{forward}");
        if model.services[0].forward.is_overlay() {
            assert_eq!(sent.vni.to_ne_bytes(), [1, 2, 3, 0], "24 bits, and 8 of zero");
            assert_eq!(sent.inner_mac, [2, 0, 0, 0, 0, 10]);
        }
    }
}

/// A dual-stack VIP, and backends of one family.
const CROSSING: &str = "  - { name: s, listen: ['203.0.113.1:80', '[2001:db8::1]:80'], forward: gre, health: none, backends: [BACKENDS] }\n";

#[test]
fn tunnels_lead_to_the_other_family_where_a_vip_has_no_backends_of_its_own() {
    let with = |backends: &str| {
        let mut model = model(&CROSSING.replace("BACKENDS", backends));
        model.node.tunnel_source4 = Some(Prefix { address: [192, 0, 2, 1].into(), length: 32 });
        model
    };
    let only4 = with("{ address: 10.0.0.1 }, { address: 10.0.0.2 }");
    let mut world = World::new();
    let desired = world.compute(&only4);
    assert!(features(&only4, &world.leaving).crossing);
    assert_eq!(owners(&desired, Family::V4), owners(&desired, Family::V6), "{:?}", desired.problems);
    assert_eq!(owners(&desired, Family::V4).len(), 2);

    let both = with("{ address: 10.0.0.1 }, { address: 2001:db8:1::1 }");
    assert!(!features(&both, &Leaving::default()).crossing);
    let mut leaving = Leaving::default();
    leaving.follow(&only4, &both, |_, _| true, world.now);
    assert!(features(&both, &leaving).crossing, "as long as somebody's packets are on the way to who leaves");
}

#[test]
fn a_backend_behind_a_gateway_gets_no_bare_frames() {
    let file = "  - { name: s, listen: '203.0.113.1:80', forward: dsr-l2, health: none, \
                backends: [{ address: 192.0.2.7 }, { name: far, address: 10.0.0.1 }] }\n";
    let model = model(file);
    let mut world = World::new();
    let to = |address: [u8; 4], length| Prefix { address: address.into(), length };
    world.net.insert_link(Link::ethernet(1, "eth0", [2, 0, 0, 0, 0, 1]));
    world.net.insert_route(Table::Main, to([192, 0, 2, 0], 24), Route::unicast(1, None, 0));
    world.net.insert_route(Table::Main, to([0; 4], 0), Route::unicast(1, Some([192, 0, 2, 254].into()), 0));
    let desired = world.compute(&model);
    assert_eq!(desired.problems.len(), 1, "{:?}", desired.problems);
    assert!(desired.problems[0].contains("far gets no traffic") && desired.problems[0].contains("on a link"));
    let near = world.ids.backend(&model.services[0], &model.services[0].backends[0]).unwrap();
    assert_eq!(owners(&desired, Family::V4), BTreeSet::from([near]));
}

/// A service of each address family, and one of both.
const THREE: &str = "
  - { name: both, listen: ['203.0.113.1:80', '[2001:db8::1]:80'], tracking: full, protocol: [tcp, udp], backends: [{ address: 10.0.0.1 }, { address: '2001:db8:1::1' }] }
  - { name: four, listen: '203.0.113.2:80', tracking: full, limits: { tracked_flows: 1000 }, backends: [{ address: 10.0.0.3 }] }
  - { name: none, listen: '203.0.113.3:53', protocol: udp, tracking: none, backends: [{ address: 10.0.0.2 }] }
";

#[test]
fn tracked_flows_have_half_of_the_room_and_every_service_its_part_of_that() {
    let three = model(THREE);
    assert!(features(&three, &Leaving::default()).tracking);
    assert_eq!(three.tracked_room(), [262_144, 262_144]);
    let quotas: Vec<_> = three.services.iter().map(|s| three.tracked_quota(s)).collect();
    assert_eq!(quotas, [[131_072, 262_144], [1_000, 0], [0, 0]]);
    let sizes = Sizes::new(&three, features(&three, &Leaving::default()));
    assert_eq!((sizes.flows4, sizes.flows6), (262_144, 262_144), "what is left is for rows");
    let spare = 128 * aya::util::nr_cpus().unwrap() as u32;
    assert_eq!((sizes.tracked4, sizes.tracked6), (262_144 + spare, 262_144 + spare));

    // IPv6 has no table where no IPv6 service asks for one.
    let four = model(&THREE.replace("tracking: full, protocol", "protocol"));
    assert_eq!((four.tracked_room(), four.tracked_quota(&four.services[1])), ([524_288, 0], [1_000, 0]));
    let none = model(&THREE.replace("tracking: full,", "").replace("limits: { tracked_flows: 1000 },", ""));
    assert!(!features(&none, &Leaving::default()).tracking);
    let sizes = Sizes::new(&none, features(&none, &Leaving::default()));
    assert_eq!((sizes.flows4, sizes.flows6, sizes.tracked4, sizes.tracked6), (524_288, 524_288, 1, 1));
}

#[test]
fn endpoints_and_policies_say_which_flows_are_tracked() {
    let three = model(&THREE.replace("protocol: [tcp, udp],", "protocol: [tcp, udp], udp: { mode: oneshot },"));
    let mut world = World::new().all_up(&three);
    let tables = world.compute(&three).tables;
    let tracked = |vip: [u8; 4], port, protocol: Protocol| {
        tables.services4[&Endpoint4::from_host(vip, port, protocol.number())].flags & TRACKED != 0
    };
    assert!(tracked([203, 0, 113, 1], 80, Protocol::Tcp) && tracked([203, 0, 113, 2], 80, Protocol::Tcp));
    assert!(!tracked([203, 0, 113, 1], 80, Protocol::Udp), "datagrams that stand alone are no flows");
    assert!(!tracked([203, 0, 113, 3], 53, Protocol::Udp));
    let quota = |name: &str| {
        let policy = tables.policies[&world.ids.service(name).unwrap()];
        (policy.tracked_quota4, policy.tracked_quota6)
    };
    assert_eq!((quota("both"), quota("four"), quota("none")), ((131_072, 262_144), (1_000, 0), (0, 0)));
}

#[test]
fn a_tunnel_backend_without_a_source_address_gets_no_rows_and_is_named() {
    let model = model(
        "  - { name: s, listen: '203.0.113.1:80', forward: ipip, health: none, backends: [{ address: 10.0.0.1 }] }\n",
    );
    let desired = World::new().compute(&model);
    assert_eq!(owners(&desired, Family::V4), BTreeSet::from([0]));
    assert_eq!(desired.problems.len(), 1);
    assert!(desired.problems[0].contains("10.0.0.1"), "{:?}", desired.problems);
}

#[test]
fn a_tunnel_source_prefix_varies_in_its_host_bits() {
    let prefix = |text: &str, length| Some(Prefix { address: text.parse().unwrap(), length });
    assert_eq!(host_mask(None), 0);
    assert_eq!(host_mask(prefix("198.18.0.0", 16)).to_ne_bytes(), [0, 0, 255, 255]);
    assert_eq!(host_mask(prefix("198.18.0.1", 32)), 0);
    assert_eq!(host_mask(prefix("2001:db8::", 112)).to_ne_bytes(), [0, 0, 255, 255]);
    assert_eq!(host_mask(prefix("2001:db8::", 64)), u32::MAX);
}

#[test]
fn the_hosts_own_addresses_are_known_where_replies_are() {
    let model = model("  - { name: s, listen: '203.0.113.1:80', backends: [{ address: 10.0.0.1 }] }\n");
    let mut world = World::new();
    world.net.insert_address(Address {
        ifindex: 1,
        ip: "10.0.0.254".parse().unwrap(),
        prefix_length: 24,
        scope: 0,
        secondary: false,
        deprecated: false,
        tentative: false,
        protocol: 0,
    });
    let local = world.compute(&model).tables.local4;
    assert_eq!(local, BTreeSet::from([u32::from_ne_bytes([10, 0, 0, 254])]));
}

#[test]
fn the_kernels_fib_may_name_any_interface_with_neighbours() {
    let model = model(TWO);
    let mut world = World::new().all_up(&model);
    for index in 1..=4 {
        world.net.insert_link(Link::ethernet(index, &format!("eth{index}"), [2, 0, 0, 0, 0, index as u8]));
    }
    world.net.insert_link(Link { up: false, ..Link::ethernet(2, "eth2", [2, 0, 0, 0, 0, 2]) });
    world.net.insert_link(Link { loopback: true, ..Link::ethernet(3, "lo", [0; 6]) });
    // Nothing is decided by our own tables then.
    world.net.set_policy_rules(true, true);
    assert_eq!(world.compute(&model).tables.devices, BTreeSet::from([1, 4]));

    for index in 5..1_000 {
        world.net.insert_link(Link::ethernet(index, &format!("veth{index}"), [2, 0, 0, 0, 1, 0]));
    }
    assert_eq!(world.compute(&model).tables.devices.len(), MOST_DEVICES);
}

/// Of a port in a group, as the packet path finds it.
fn owner(group: &wildcards::Group<u32>, protocol: Protocol, port: u16) -> Option<u32> {
    let contains = |b: &wildcards::Block| b.protocol == protocol && (port ^ b.port).leading_zeros() >= b.bits.into();
    group.iter().filter(|(b, _)| contains(b)).max_by_key(|(b, _)| b.bits).map(|(_, service)| *service)
}

#[test]
fn services_on_prefixes_and_ranges_have_a_record_each_and_groups_that_name_it() {
    let file = "  - { name: net, listen: ['203.0.113.0/24:443', '[2001:db8:f::]/64:0'], protocol: [tcp, udp], forward: ipip, health: none, \
                backends: [{ address: 10.0.0.1 }] }
  - { name: range, listen: ['203.0.113.10:400-500', '203.0.113.10:443'], health: none, backends: [{ address: 10.0.0.2 }] }
";
    let text = format!("version: 1\nnode: {{ interfaces: [eth0], vip_addresses: external }}\nservices:\n{file}");
    let model = config::parse("test.yaml", &text).unwrap_or_else(|d| panic!("{d}"));
    assert!(features(&model, &Leaving::default()).wildcards);
    let mut world = World::new();
    let tables = world.compute(&model).tables;
    let id = |name: &str| world.ids.service(name).unwrap();
    let (net, range) = (id("net"), id("range"));
    for protocol in [6, 17] {
        assert_eq!(tables.services4[&Endpoint4::of_service(net, protocol)].id, net);
        assert_eq!(tables.services6[&Endpoint6::of_service(net, protocol)].id, net);
    }
    assert_eq!(tables.services4[&Endpoint4::of_service(range, 6)].forward, FORWARD_NAT);
    assert_eq!(tables.services4[&Endpoint4::from_host([203, 0, 113, 10], 443, 6)].id, range);
    assert_eq!((tables.services4.len(), tables.services6.len()), (4, 2));
    let whole = &tables.prefixes4[&(24, [203, 0, 113, 0])];
    let one = &tables.prefixes4[&(32, [203, 0, 113, 10])];
    let [tcp, udp] = [Protocol::Tcp, Protocol::Udp];
    assert_eq!(
        [(tcp, 443), (udp, 443), (tcp, 444)].map(|(p, port)| owner(whole, p, port)),
        [Some(net), Some(net), None]
    );
    assert_eq!(
        [(tcp, 443), (udp, 443), (tcp, 501)].map(|(p, port)| owner(one, p, port)),
        [Some(range), Some(net), None]
    );
    let octets = "2001:db8:f::".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(owner(&tables.prefixes6[&(64, octets)], udp, 0), Some(net));
    // Replies: from port 443 as from any endpoint, from others of the range by the address alone.
    let single = tables.reverse4[&Endpoint4::from_host([10, 0, 0, 2], 443, 6)];
    let many = tables.reverse4[&Endpoint4::any_port(u32::from_ne_bytes([10, 0, 0, 2]), 6)];
    assert_eq!((single.port, many.port), (443_u16.to_be(), 0));
    assert_eq!((single.vip, single.service), (many.vip, many.service));
    assert_eq!(tables.reverse4.len(), 2);
}

#[test]
fn a_backend_that_is_kept_has_its_rows_and_a_fallback_that_is_not_used_has_none() {
    let text = TWO.replace("    backends:", "    panic_threshold: 60%\n    backends:")
        + "      - { name: d, address: 10.0.0.3, port: 8080, fallback: true }\n";
    let model = model(&text);
    let mut world = World::new().all_up(&model);
    let all = world.compute(&model);
    assert_eq!(owners(&all, Family::V4).len(), 2, "d is not needed");
    let id = |world: &World, n: usize| world.ids.backend(&model.services[0], &model.services[0].backends[n]).unwrap();
    let spare = id(&world, 3);
    assert!(all.tables.backends[&spare].flags & BACKEND_ALIVE != 0, "what flows it has it keeps");
    for name in ["a", "b"] {
        world.verdicts.insert(("web".to_owned(), name.to_owned()), false);
    }
    assert_eq!(owners(&world.compute(&model), Family::V4), BTreeSet::from([spare]), "d is up, so it is used");
    world.verdicts.insert(("web".to_owned(), "d".to_owned()), false);
    let kept = world.compute(&model);
    let (a, b) = (id(&world, 0), id(&world, 1));
    assert_eq!(owners(&kept, Family::V4), BTreeSet::from([a, b]), "nobody is left: the checks are distrusted");
    assert!(kept.tables.backends[&a].flags & BACKEND_ALIVE != 0);
    assert!(kept.tables.backends[&spare].flags & BACKEND_ALIVE == 0);
}

#[test]
fn what_an_agent_says_changes_weight_and_state_and_an_operators_word_counts_for_more() {
    use crate::health::agent::Reply;

    let model = model(&TWO.replace("    backends:", "    agent: { port: 9999 }\n    backends:"));
    let mut world = World::new().all_up(&model);
    let rows = |world: &World, desired: &Desired, n: usize| {
        let id = world.ids.backend(&model.services[0], &model.services[0].backends[n]).unwrap();
        let (_, ring) = desired.rings.iter().find(|(key, _)| key.family == Family::V4).unwrap();
        ring.rows_of.get(&id).copied().unwrap_or(0) * 100 / ring.len()
    };
    let says = |world: &mut World, text: &str| {
        let name = ("web".to_owned(), "a".to_owned());
        world.agents.entry(name).or_default().hear(&Reply::parse(text).unwrap());
        let desired = world.compute(&model);
        [rows(world, &desired, 0), rows(world, &desired, 1)]
    };
    assert_eq!(says(&mut world, "100%"), [50, 50]);
    assert_eq!(says(&mut world, "50%"), [33, 66]);
    assert_eq!(says(&mut world, "53%"), [33, 66], "it wavers");
    assert_eq!(says(&mut world, "drain 100%"), [0, 100]);
    assert_eq!(says(&mut world, "ready"), [50, 50]);
    assert_eq!(says(&mut world, "down"), [0, 100]);
    assert_eq!(says(&mut world, "up drain"), [0, 100]);
    world.overrides.insert(("web".to_owned(), "a".to_owned()), BackendState::Active);
    assert_eq!(says(&mut world, "drain"), [50, 50], "an operator put it back");
}
