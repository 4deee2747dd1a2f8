//! Verdicts in, and who is kept, out or held back.

use super::*;
use crate::config;

/// A service with four backends a, b, c, d and these keys; `extra` stands behind the backends.
fn model(keys: &str, extra: &str) -> Model {
    let backends =
        ["a", "b", "c", "d"].map(|n| format!("{{ name: {n}, address: 10.0.0.{} }}", n.as_bytes()[0])).join(", ");
    let text = format!(
        "version: 1\nnode: {{ interfaces: [eth0] }}\nservices:\n  - {{ name: web, listen: ['203.0.113.10:80', \
         '[2001:db8::10]:80'], forward: ipip, health: {{ tcp: {{}} }}, {keys} backends: [{backends}{extra}] }}\n"
    );
    config::parse("test.yaml", &text).unwrap_or_else(|d| panic!("{d}"))
}

const SPARE: &str = ", { name: spare, address: 10.0.0.9, fallback: true }";

struct World {
    model: Model,
    safety: Safety,
    verdicts: HashMap<BackendName, bool>,
    drained: Vec<&'static str>,
    now: Instant,
}

impl World {
    fn new(keys: &str, extra: &str) -> Self {
        let model = model(keys, extra);
        let all = model.services[0].backends.iter().map(|b| (("web".to_owned(), b.name.clone()), true));
        let verdicts = all.collect();
        let mut world = Self { model, safety: Safety::default(), verdicts, drained: vec![], now: Instant::now() };
        world.update();
        world
    }

    fn update(&mut self) -> Findings {
        let drained = &self.drained;
        let counts = |_: &Service, b: &Backend| !drained.contains(&b.name.as_str());
        self.safety.update(&self.model, &self.verdicts, counts, self.now)
    }

    /// These look so from now on, one after the other.
    fn set(&mut self, names: &str, up: bool) -> Findings {
        let mut all = Findings::default();
        for name in names.chars() {
            let name = if name == 's' { "spare".to_owned() } else { name.to_string() };
            self.verdicts.insert(("web".to_owned(), name), up);
            let found = self.update();
            all.happened.extend(found.happened);
            all.ejected.extend(found.ejected);
        }
        all
    }

    fn wait(&mut self, seconds: u64) -> Findings {
        self.now += Duration::from_secs(seconds);
        self.update()
    }

    /// The first letters of those that take new flows, as far as health and fallback go.
    fn serving(&self) -> String {
        let service = &self.model.services[0];
        let up = |b: &&Backend| {
            let up = self.verdicts.get(&("web".to_owned(), b.name.clone())) == Some(&true);
            (up || self.safety.keeps("web", b)) && !self.safety.holds_back("web", b)
        };
        service.backends.iter().filter(up).map(|b| &b.name[..1]).collect()
    }
}

fn told(findings: &Findings) -> Vec<(EventKind, Option<&str>, &str)> {
    findings.happened.iter().map(|h| (h.kind, h.backend.as_deref(), &*h.to)).collect()
}

#[test]
fn without_any_of_it_health_takes_out_whom_it_likes() {
    let mut world = World::new("", "");
    let found = world.set("abcd", false);
    assert_eq!((world.serving().as_str(), found.ejected.len(), found.happened.len()), ("", 4, 0));
    assert_eq!(world.safety.unusual("web"), Unusual::default());
}

#[test]
fn no_more_than_the_part_is_out_at_once_and_whoever_died_first_is() {
    for (most, out) in [("0%", ""), ("1%", "a"), ("49%", "a"), ("50%", "ab"), ("75%", "abc"), ("100%", "abcd")] {
        let mut world = World::new(&format!("max_ejected: {most},"), "");
        let found = world.set("abcd", false);
        let kept: String = "abcd".chars().filter(|c| !out.contains(*c)).collect();
        assert_eq!(world.serving(), kept, "max_ejected {most}");
        assert_eq!(found.ejected.len(), out.len(), "max_ejected {most}");
        assert_eq!(told(&found).len(), kept.len(), "each that is kept is told: {found:?}");
    }
}

#[test]
fn a_place_that_is_free_again_goes_to_the_one_that_has_waited_longest() {
    let mut world = World::new("max_ejected: 25%,", "");
    world.set("dcb", false);
    assert_eq!(world.serving(), "abc", "d was first");
    let found = world.set("d", true);
    assert_eq!((world.serving().as_str(), found.ejected.len()), ("abd", 1), "then c");
    world.set("d", false);
    assert_eq!(world.serving(), "abd", "d has to wait now");
}

#[test]
fn too_many_dead_at_once_are_all_kept_until_it_has_been_quiet() {
    let mut world = World::new("panic_threshold: 50%,", "");
    world.set("ab", false);
    assert_eq!(world.serving(), "cd", "half is not more than half");
    let found = world.set("c", false);
    assert_eq!(world.serving(), "abcd");
    assert_eq!(told(&found), [(EventKind::Panic, None, "on")]);
    assert!(found.happened[0].reason.starts_with("3 of 4 backends look dead, more than panic_threshold 50 %"));
    // One comes and goes.
    for _ in 0..5 {
        assert_eq!(told(&world.set("c", true)), []);
        assert_eq!((world.wait(9).happened.len(), world.serving().as_str()), (0, "abcd"));
        assert_eq!(told(&world.set("c", false)), []);
    }
    world.set("c", true);
    world.wait(9);
    assert!(!world.safety.is_due(world.now));
    world.now += Duration::from_secs(1);
    assert!(world.safety.is_due(world.now));
    assert_eq!(told(&world.update()), [(EventKind::Panic, None, "off")]);
    assert_eq!(world.serving(), "cd");
    assert!(!world.safety.is_due(world.now + 60 * HOLD), "nothing is left to end");
}

#[test]
fn when_all_look_dead_fail_open_uses_all_and_drop_none() {
    let mut world = World::new("on_empty: fail-open,", "");
    world.set("abc", false);
    assert_eq!(world.serving(), "d");
    let found = world.set("d", false);
    assert_eq!((world.serving().as_str(), told(&found)), ("abcd", vec![(EventKind::Open, None, "on")]));
    let found = world.set("b", true);
    assert_eq!((world.serving().as_str(), told(&found)), ("b", vec![(EventKind::Open, None, "off")]));
}

#[test]
fn whose_first_check_is_not_over_is_not_dead() {
    let mut world = World::new("on_empty: fail-open, panic_threshold: 40%,", SPARE);
    world.verdicts.clear();
    world.set("as", false);
    world.set("s", true);
    assert_eq!(world.serving(), "", "three are yet to be checked");
    assert_eq!(world.safety.unusual("web"), Unusual::default());
}

#[test]
fn fallbacks_are_used_below_min_healthy_and_for_a_while_after() {
    let mut world = World::new("min_healthy: 2,", SPARE);
    assert_eq!(world.serving(), "abcd");
    world.set("ab", false);
    assert_eq!(world.serving(), "cd");
    let found = world.set("c", false);
    assert_eq!((world.serving().as_str(), told(&found)), ("ds", vec![(EventKind::Fallback, None, "on")]));
    assert_eq!(found.happened[0].reason, "1 of 4 backends are up, with min_healthy 2");
    world.set("abc", true);
    assert_eq!(world.serving(), "abcds", "it takes some calm");
    assert_eq!(told(&world.wait(10)), [(EventKind::Fallback, None, "off")]);
    assert_eq!(world.serving(), "abcd");
    // With nobody to fall back to, there is none.
    world.set("sabc", false);
    assert_eq!((world.serving().as_str(), world.safety.unusual("web").fallback), ("d", false));
}

#[test]
fn fallbacks_take_the_place_of_everything_that_keeps_the_dead() {
    for keys in ["max_ejected: 25%,", "panic_threshold: 50%,", "on_empty: fail-open,"] {
        let mut world = World::new(keys, SPARE);
        world.set("abcd", false);
        assert_eq!(world.serving(), "s", "{keys}");
        let open = world.set("s", false);
        assert!(world.serving().len() >= 3, "{keys}: {} {open:?}", world.serving());
    }
}

#[test]
fn whom_an_operator_drained_health_does_not_count() {
    let mut world = World::new("panic_threshold: 50%, min_healthy: 2,", SPARE);
    world.drained = vec!["a", "b"];
    world.set("c", false);
    assert_eq!(world.safety.unusual("web"), Unusual { fallback: true, ..Unusual::default() }, "one of two is left");
}

#[test]
fn each_address_family_stands_for_itself() {
    let six = ", { name: x, address: '2001:db8:1::1' }, { name: y, address: '2001:db8:1::2' }, \
               { name: z, address: '2001:db8:1::9', fallback: true }";
    let mut world = World::new("", six);
    world.set("xy", false);
    assert_eq!(world.serving(), "abcdz", "four others are up, but none of them for IPv6");
    let found = world.set("z", false);
    assert!(found.happened[0].reason.starts_with("IPv6: "), "{found:?}");
}

#[test]
fn a_restart_forgets_neither_who_is_out_nor_panic() {
    let mut world = World::new("max_ejected: 25%,", "");
    world.set("cb", false);
    assert_eq!(world.serving(), "abd");
    let text = serde_json::to_string(&world.safety.save()).unwrap();
    world.safety = Safety::restore(&serde_json::from_str::<Vec<_>>(&text).unwrap());
    assert_eq!((world.update().happened.len(), world.serving().as_str()), (0, "abd"));

    let mut world = World::new("panic_threshold: 50%,", "");
    world.set("abc", false);
    world.safety = Safety::restore(&world.safety.save());
    world.set("c", true);
    assert_eq!(world.serving(), "abcd", "it goes on until it has been quiet");
}
