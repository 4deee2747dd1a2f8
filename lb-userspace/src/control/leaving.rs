//! Backends that a reload took out of the file, and that flows still belong to.
//!
//! Taking a backend out is no reason to break its connections: it gets no new ones, and stays otherwise what it was —
//! known to the packet path, checked, able to answer — until a scan of all rows and entries, begun after the reload,
//! meets it nowhere. If it goes down meanwhile it is as dead as any other.

mod saved;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::model::{Backend, Model, Service};

/// What makes a backend the same one: its address and port within a service, not its name.
type Key = (String, IpAddr, Option<u16>);

fn key(service: &str, backend: &Backend) -> Key {
    (service.to_owned(), backend.address, backend.port)
}

/// A backend on its way out.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaver {
    /// Under a name of its own where the file has given its name to another one.
    pub backend: Backend,
    pub since: Instant,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Leaving(BTreeMap<Key, Leaver>);

pub use saved::SavedLeaver;

/// A backend that has a new name: the service's, the old one, the new one.
pub type Renamed = (String, String, String);

impl Leaving {
    /// Those of a service.
    pub fn of<'a>(&'a self, service: &Service) -> impl Iterator<Item = &'a Backend> + use<'a> {
        let name = service.name.clone();
        // In the order of the map those of a service come together.
        let first = (name.clone(), IpAddr::V4(Ipv4Addr::UNSPECIFIED), None);
        self.0.range(first..).take_while(move |((of, ..), _)| *of == name).map(|(_, leaver)| &leaver.backend)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Brings it up to date with a change of the file. `is_up`: a backend that is down has nothing to stay for.
    pub fn follow(
        &mut self,
        old: &Model,
        new: &Model,
        is_up: impl Fn(&Service, &Backend) -> bool,
        now: Instant,
    ) -> Vec<Renamed> {
        // Looked up for every backend there is, which may be tens of thousands.
        type InFile<'a> = (&'a Service, HashSet<(IpAddr, Option<u16>)>, HashSet<&'a str>);
        let in_file = |s: &'_ Service| s.backends.iter().map(|b| (b.address, b.port)).collect();
        let by_name: HashMap<&str, InFile<'_>> = new
            .services
            .iter()
            .map(|s| (s.name.as_str(), (s, in_file(s), s.backends.iter().map(|b| b.name.as_str()).collect())))
            .collect();
        let leaves = |service: &str, address: IpAddr, port: Option<u16>| {
            by_name
                .get(service)
                .is_some_and(|(s, backends, _)| s.could_use(address) && !backends.contains(&(address, port)))
        };
        for service in &old.services {
            let gone = |b: &&Backend| leaves(&service.name, b.address, b.port) && is_up(service, b);
            for backend in service.backends.iter().filter(gone) {
                self.0
                    .entry(key(&service.name, backend))
                    .or_insert_with(|| Leaver { backend: backend.clone(), since: now });
            }
        }
        // Without its service nobody asks for it; in the file again, it does not leave.
        self.0.retain(|(service, address, port), _| leaves(service, *address, *port));
        let mut renamed = Vec::new();
        for ((service, address, port), leaver) in &mut self.0 {
            let taken = |name: &str| by_name.get(service.as_str()).is_some_and(|(.., names)| names.contains(name));
            if taken(&leaver.backend.name) {
                let port = port.map_or(String::new(), |port| format!(":{port}"));
                let name = format!("{}@{address}{port}", leaver.backend.name);
                let old = std::mem::replace(&mut leaver.backend.name, name.clone());
                renamed.push((service.clone(), old, name));
            }
        }
        renamed
    }

    /// A scan that began then met only the backends that `named` knows; those it lets go.
    pub fn scanned(&mut self, began: Instant, named: impl Fn(&str, &Backend) -> bool) -> Vec<(String, Backend)> {
        let mut gone = Vec::new();
        self.0.retain(|(service, ..), leaver| {
            let stays = leaver.since >= began || named(service, &leaver.backend);
            if !stays {
                gone.push((service.clone(), leaver.backend.clone()));
            }
            stays
        });
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::time::Duration;

    fn model(backends: &str) -> Model {
        let text = format!(
            "version: 1\nnode: {{ interfaces: [eth0] }}\nservices:\n  - name: web\n    listen: 203.0.113.10:80\n    \
             backends: [{backends}]\n"
        );
        config::parse("test.yaml", &text).unwrap_or_else(|d| panic!("{d}"))
    }

    fn names(leaving: &Leaving, model: &Model) -> Vec<String> {
        leaving.of(&model.services[0]).map(|b| b.name.clone()).collect()
    }

    const A: &str = "{ name: a, address: 10.0.0.1 }";
    const B: &str = "{ name: b, address: 10.0.0.2 }";

    #[test]
    fn who_is_taken_out_leaves_until_a_later_scan_does_not_meet_him() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let (both, one) = (model(&format!("{A}, {B}")), model(A));
        let mut leaving = Leaving::default();
        leaving.follow(&both, &one, |_, _| true, now);
        assert_eq!(names(&leaving, &one), ["b"]);
        assert!(leaving.scanned(now, |_, _| false).is_empty(), "that scan began too early to say");
        assert!(leaving.scanned(later, |_, b| b.name == "b").is_empty(), "a flow of his was met");
        assert_eq!(leaving.scanned(later, |_, _| false).len(), 1);
        assert!(leaving.is_empty());
    }

    #[test]
    fn who_comes_back_or_is_down_or_has_no_service_does_not_leave() {
        let now = Instant::now();
        let (both, one) = (model(&format!("{A}, {B}")), model(A));
        let mut leaving = Leaving::default();
        leaving.follow(&both, &one, |_, _| true, now);
        leaving.follow(&one, &both, |_, _| true, now);
        assert!(leaving.is_empty(), "back in the file");
        leaving.follow(&both, &one, |_, b| b.name != "b", now);
        assert!(leaving.is_empty(), "down");
        let mut none = one;
        none.services.clear();
        leaving.follow(&both, &none, |_, _| true, now);
        assert!(leaving.is_empty(), "no service");
    }

    #[test]
    fn who_leaves_his_name_to_another_gets_a_new_one() {
        let now = Instant::now();
        let moved = model(&format!("{A}, {}", B.replace("10.0.0.2", "10.0.0.3")));
        let mut leaving = Leaving::default();
        let renamed = leaving.follow(&model(&format!("{A}, {B}")), &moved, |_, _| true, now);
        assert_eq!(names(&leaving, &moved), ["b@10.0.0.2"]);
        assert_eq!(renamed, [("web".into(), "b".into(), "b@10.0.0.2".into())]);
    }
}
