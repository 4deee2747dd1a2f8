//! The controller's state, and every way it changes.
//!
//! A change of configuration goes through [`Controller::transition`]: each step is undone when a later one fails,
//! so a refused configuration leaves the host as it was. Health and network changes only compute the tables anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use lb_common::addr::octets6;
use lb_common::event::{EVENT_WANT_NEIGHBOUR, Event};

use crate::api::types::{Applied, DrainAnswer, DrainProgress, EventKind, Evicted};
use crate::dataplane::events::Listener;
use crate::dataplane::packet_log::PacketLog;
use crate::dataplane::{Dataplane, Features, Mode, Options as DataplaneOptions, Sizes, Tunables};
use crate::exit::{Exit, Failure};
use crate::health::agent::{self, Agents, Answer, Standing};
use crate::health::stats::Times;
use crate::health::{Checker, Key, Target, Transition};
use crate::model::{Backend, BackendState, Listen, Model, OnEmpty, OnExit, Service, VipAddresses};
use crate::net::neigh::{Keeper, resolve_soon};
use crate::net::vip::VipManager;
use crate::net::{NetState, forwarding, vip};
use crate::ring::Seed;
use crate::systemd::Notify;

use super::desired::{self, BackendName, Ids, Rings, View};
use super::handle::Request;
use super::history::History;
use super::hooks::Hooks;
use super::journal::{Happened, Journal};
use super::leaving::Leaving;
use super::readiness::{Readiness, Seen};
use super::reload::{Waiting, unix_now};
use super::safety::Safety;
use super::saved::{Before, Saved, Shown};
use super::sweeps::Sweeps;
use super::turns::Turns;
use super::{Options, changes, secret, status};

/// All of it.
pub struct Controller {
    pub(super) path: PathBuf,
    pub(super) model: Model,
    pub(super) started: Instant,
    pub(super) generation: u64,
    pub(super) applied_at: u64,
    pub(super) last_error: Option<String>,
    pub(super) dataplane: Dataplane,
    pub(super) checker: Checker,
    /// Verdicts by backend; absent means not checked yet.
    pub(super) verdicts: HashMap<BackendName, bool>,
    pub(super) overrides: BTreeMap<BackendName, BackendState>,
    /// From a backend's death to the kernel's rings without it.
    pub(super) deaths_applied: Times,
    agents: Agents,
    /// What they said.
    pub(super) standings: BTreeMap<BackendName, Standing>,
    /// Something they said waits for rings to be allowed to change.
    pub(super) agents_wait: bool,
    pub(super) safety: Safety,
    pub(super) readiness: Readiness,
    pub(super) hooks: Hooks,
    pub(super) journal: Journal,
    /// How often health took a backend out, by service.
    pub(super) ejections: BTreeMap<String, u64>,
    pub(super) leaving: Leaving,
    pub(super) sweeps: Sweeps,
    pub(super) ids: Ids,
    pub(super) rings: Rings,
    /// What could not be done as configured when the tables were last computed.
    pub(super) problems: Vec<String>,
    pub(super) history: History,
    /// What runs is rolled back then, if nobody confirms it before.
    pub(super) confirm_by: Option<Instant>,
    /// Backends that came up, and reloads, that wait for rings to be allowed to change.
    pub(super) rising: BTreeSet<BackendName>,
    pub(super) reloads: Vec<Waiting>,
    turns: Turns,
    pub(super) net: Arc<NetState>,
    keeper: Keeper,
    vips: VipManager,
    pub(super) seed: Seed,
    /// What was saved last.
    saved: Vec<u8>,
    shown: Shown,
    key_digest: String,
}

/// What backends make known, one way or the other.
#[derive(Debug)]
pub struct Heard {
    pub transitions: mpsc::UnboundedReceiver<Transition>,
    pub answers: mpsc::UnboundedReceiver<Answer>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Controller {
    /// Brings the host to serving `model`: from nothing, or from what an earlier controller left running. When it fails,
    /// the host is as it was.
    pub fn start(
        Options { config: path, log_packets }: Options,
        model: Model,
        net: watch::Receiver<Arc<NetState>>,
    ) -> Result<(Self, Heard), Failure> {
        let (hash_key, made) = secret::load_or_create(&model.hash_key)?;
        let before = Before::load(&model.node.bpf_dir, &secret::digest(&hash_key)).inspect_err(|_| {
            // Refused for being another one: the place of the lost one stays empty.
            if made {
                let _ = std::fs::remove_file(&model.hash_key);
            }
        })?;
        if made {
            warn!(
                "made a new hash key in {}: copy it to every node that serves the same addresses",
                model.hash_key.display()
            );
        }
        let now = Instant::now();
        let leaving = before.leaving(now);
        let features = desired::features(&model, &leaving);
        let sizes = Sizes::new(&model, features);
        let options = DataplaneOptions {
            bpf_dir: model.node.bpf_dir.clone(),
            sizes,
            tunables: Tunables {
                hash_key,
                tunnel_source_mask4: desired::host_mask(model.node.tunnel_source4),
                tunnel_source_mask6: desired::host_mask(model.node.tunnel_source6),
            },
        };
        let vips = VipManager::open(&model.node.run_dir)?;
        let history = History::load(&model.node.run_dir);
        let keeper = Keeper::start(net.clone())?;
        let (transitions, changes) = mpsc::unbounded_channel();
        let (answers, said) = mpsc::unbounded_channel();
        let net = net.borrow().clone();
        let key_digest = secret::digest(&hash_key);
        // While the maps change from the old configuration to the new one, both are served.
        let features = before.model.as_ref().map_or(features, |old| features | desired::features(old, &leaving));
        let dataplane =
            Dataplane::resume(options, Features { log: log_packets, ..features }, before.inherit, &before.idle())?;
        before.tell(dataplane.inherited());

        // What is there when the first transition fails is what it goes back to: what ran before, or nothing. Where
        // something ran and nobody knows what, nothing of it is taken away.
        let sizes = dataplane.options().sizes;
        let first = before.model.clone().unwrap_or_else(|| {
            let mut first = model.clone();
            if dataplane.inherited().interfaces.is_empty() {
                first.services.clear();
                first.node.interfaces.clear();
            }
            first
        });
        let mut controller = Self {
            path,
            model: first,
            started: Instant::now(),
            generation: 0,
            applied_at: 0,
            last_error: None,
            dataplane,
            checker: Checker::new(transitions),
            verdicts: before.verdicts(),
            overrides: before.overrides(),
            deaths_applied: Times::default(),
            agents: Agents::new(answers),
            standings: before.agents(),
            agents_wait: false,
            safety: before.safety(),
            readiness: Readiness::default(),
            hooks: Hooks::default(),
            journal: Journal::default(),
            ejections: BTreeMap::new(),
            leaving,
            sweeps: Sweeps::default(),
            ids: before.ids(sizes, now),
            rings: Rings::new(),
            problems: Vec::new(),
            history,
            confirm_by: None,
            rising: BTreeSet::new(),
            reloads: Vec::new(),
            turns: Turns::default(),
            net,
            keeper,
            vips,
            seed: Seed::from(&hash_key),
            saved: Vec::new(),
            shown: Shown::default(),
            key_digest,
        };
        let key = |(service, backend): BackendName| Key { service, backend };
        controller.checker.assume(controller.verdicts.clone().into_iter().map(|(name, up)| (key(name), up)));
        if before.model.is_some() {
            controller.checker.set_targets(targets(&controller.model, controller.view()));
        }
        match controller.transition(model) {
            Ok(_) => Ok((controller, Heard { transitions: changes, answers: said })),
            Err(failure) => {
                controller.give_up();
                Err(failure)
            }
        }
    }

    /// The program's events, to be polled.
    pub fn events(&mut self) -> Result<Listener, Failure> {
        let events = self.dataplane.take_events();
        let events = events.ok_or_else(|| Failure::new(Exit::Failed, "the program's events are read already"))?;
        events.listen().map_err(|e| Failure::new(Exit::Failed, format!("cannot read the program's events: {e}")))
    }

    /// The program's log of packets, when it keeps one.
    pub fn packet_log(&self) -> Option<PacketLog> {
        if !self.dataplane.features().log {
            return None;
        }
        PacketLog::open(self.dataplane.program_id()).inspect_err(|e| warn!("cannot read the log of packets: {e}")).ok()
    }

    pub(super) fn view(&self) -> View<'_> {
        View {
            verdicts: &self.verdicts,
            overrides: &self.overrides,
            leaving: &self.leaving,
            safety: &self.safety,
            agents: &self.standings,
        }
    }

    /// One line for systemd and the log.
    pub fn summary(&self) -> String {
        let backends = || self.model.services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b)));
        let up = backends().filter(|(s, b)| self.view().is_up(s, b)).count();
        let confirm = if self.confirm_by.is_some() { ", rolls back unless `sluice confirm` comes" } else { "" };
        format!(
            "serving {} services, {up} of {} backends up, generation {}{confirm}",
            self.model.services.len(),
            backends().count(),
            self.generation
        )
    }

    /// Ends as the configuration says: packets are forwarded on, or everything is taken off the host.
    pub fn stop(self) {
        match self.model.node.on_exit {
            OnExit::Keep => info!("packets are forwarded on; `sluice detach` ends that"),
            OnExit::Detach => self.remove(),
        }
    }

    /// After a start that failed: what an earlier controller left runs on, what this one made goes.
    pub fn give_up(self) {
        if self.dataplane.inherited().interfaces.is_empty() {
            self.remove();
        } else {
            warn!("what ran before this start runs on");
        }
    }

    fn remove(mut self) {
        if let Err(e) = self.vips.clear() {
            error!("cannot remove the VIPs: {e}");
        }
        if let Err(e) = self.dataplane.close() {
            error!("cannot remove the program: {e}");
        }
    }

    pub fn answer(&mut self, request: Request, notify: &Notify) {
        // Nobody waits for an answer any more when sending one fails.
        match request {
            Request::Status(answer) => {
                let _ = answer.send(status::build(self));
            }
            Request::Events(after, answer) => {
                let _ = answer.send(self.journal.after(after));
            }
            Request::Reload { confirm, answer } => self.reload_in_turn(Waiting { confirm, answer }, notify),
            Request::Rollback(answer) => {
                let _ = answer.send(self.roll_back(notify));
            }
            Request::Confirm(answer) => {
                let _ = answer.send(self.confirm(notify));
            }
            Request::Plan(what, answer) => {
                let _ = answer.send(self.plan(what));
            }
            Request::SetBackendState { service, backend, state, answer } => {
                let _ = answer.send(self.set_backend_state(&service, &backend, state));
            }
            Request::DrainProgress { service, backend, idle, answer } => {
                let _ = answer.send(self.drain_progress(&service, &backend, idle));
            }
            Request::Flows(filter, answer) => {
                let _ = answer.send(self.flows(&filter));
            }
            Request::EvictUdp { service, backend, answer } => {
                let _ = answer.send(self.evict_udp(&service, &backend));
            }
        }
    }

    /// From the running model to `next`, whole or not at all.
    pub(super) fn transition(&mut self, next: Model) -> Result<Applied, Failure> {
        let attach: Vec<(String, u32, crate::model::XdpMode)> = next
            .node
            .interfaces
            .iter()
            .map(|i| Ok((i.name.clone(), self.net.link_by_name(&i.name)?.index, i.xdp)))
            .collect::<Result<_, crate::net::Error>>()?;

        let old_features = self.dataplane.features();
        let mut leaving = self.leaving.clone();
        let renamed = leaving.follow(&self.model, &next, |s, b| self.view().is_up(s, b), Instant::now());
        let new_features = Features { log: old_features.log, ..desired::features(&next, &leaving) };
        // Both configurations are served while the maps change from one to the other.
        let both = old_features | new_features;
        let sizes = Sizes::new(&next, new_features);
        self.dataplane.make_room(both, sizes)?;

        for (service, old, new) in renamed {
            if let Some(verdict) = self.verdicts.get(&(service.clone(), old)).copied() {
                self.verdicts.insert((service, new), verdict);
            }
        }
        let old_leaving = std::mem::replace(&mut self.leaving, leaving);
        let old = std::mem::replace(&mut self.model, next);
        let before: BTreeSet<u32> = self.dataplane.attached().map(|a| a.ifindex).collect();
        self.hooks.set(&self.model.hooks);
        let steps = self.apply_tables().and_then(|()| self.apply_vips()).and_then(|()| {
            for (name, ifindex, mode) in &attach {
                self.attach(name, *ifindex, *mode)?;
            }
            Ok(())
        });
        if let Err(failure) = steps {
            self.model = old;
            self.hooks.set(&self.model.hooks);
            self.leaving = old_leaving;
            self.revert(&before);
            return Err(failure);
        }
        let kept: BTreeSet<u32> = attach.iter().map(|(_, ifindex, _)| *ifindex).collect();
        for gone in before.difference(&kept) {
            if let Err(e) = self.dataplane.detach(*gone) {
                warn!("{e}");
            }
        }
        if let Err(e) = self.dataplane.give_room_back(new_features, sizes) {
            warn!("the program keeps features that are not used any more: {e}");
        }

        let known: BTreeSet<BackendName> = self
            .model
            .services
            .iter()
            .flat_map(|s| self.view().backends(s).map(|b| (s.name.clone(), b.name.clone())).collect::<Vec<_>>())
            .collect();
        self.overrides.retain(|name, _| known.contains(name));
        self.verdicts.retain(|name, _| known.contains(name));
        self.ask_agents(&known);
        let model = &self.model;
        self.ejections.retain(|name, _| model.services.iter().any(|s| s.name == *name));
        self.checker.set_targets(targets(&self.model, self.view()));
        self.forget_moved_verdicts();

        self.generation += 1;
        self.applied_at = unix_now();
        self.last_error = None;
        let changes = changes::describe(&old, &self.model);
        Ok(Applied { generation: self.generation, changes, confirm_within_seconds: None })
    }

    /// A backend whose address changed is another one to the checker; its old verdict must not outlive that.
    fn forget_moved_verdicts(&mut self) {
        let checker = &self.checker;
        let leaving: BTreeSet<BackendName> = self
            .model
            .services
            .iter()
            .flat_map(|s| self.leaving.of(s).map(|b| (s.name.clone(), b.name.clone())))
            .collect();
        self.verdicts.retain(|(service, backend), _| {
            // Who leaves under another name is checked anew, and known all the same.
            if leaving.contains(&(service.clone(), backend.clone())) {
                return true;
            }
            let key = Key { service: service.clone(), backend: backend.clone() };
            checker.snapshot(&key).is_some_and(|s| s.health != crate::api::types::Health::Checking)
        });
    }

    /// Back to `self.model` after a failed transition; what cannot be undone is said.
    fn revert(&mut self, attached_before: &BTreeSet<u32>) {
        let now: Vec<u32> = self.dataplane.attached().map(|a| a.ifindex).collect();
        for ifindex in now.into_iter().filter(|i| !attached_before.contains(i)) {
            if let Err(e) = self.dataplane.detach(ifindex) {
                error!("undoing a refused configuration: {e}");
            }
        }
        if let Err(failure) = self.apply_vips().and_then(|()| self.apply_tables()) {
            error!("undoing a refused configuration: {}", failure.message);
        }
    }

    fn attach(&mut self, name: &str, ifindex: u32, mode: crate::model::XdpMode) -> Result<(), Failure> {
        let fresh = !self.dataplane.attached().any(|a| a.ifindex == ifindex);
        let attached = self.dataplane.attach(name, ifindex, mode)?;
        if !fresh {
            return Ok(());
        }
        match (&attached.fallback, attached.mode) {
            (Some(why), Mode::Generic) => warn!(
                "{name}: XDP runs in GENERIC mode, several times slower, because the driver refused native mode: {why}"
            ),
            (None, Mode::Generic) => warn!("{name}: XDP runs in generic mode, as configured: several times slower"),
            (_, Mode::Native) => info!("{name}: XDP attached in native mode"),
        }
        Ok(())
    }

    fn managed_vips(&self) -> BTreeSet<IpAddr> {
        match self.model.node.vip_addresses {
            VipAddresses::Managed => {
                self.model.services.iter().flat_map(|s| s.listen.iter().filter_map(Listen::address)).collect()
            }
            VipAddresses::External => BTreeSet::new(),
        }
    }

    fn apply_vips(&mut self) -> Result<(), Failure> {
        let indices: Vec<u32> = self
            .model
            .node
            .interfaces
            .iter()
            .filter_map(|i| self.net.link_by_name(&i.name).ok().map(|link| link.index))
            .collect();
        let wanted = self.managed_vips();
        self.vips.set(&indices, wanted.clone())?;
        for warning in vip::warnings(&indices, &wanted, &self.net) {
            warn!("{warning}");
        }
        Ok(())
    }

    /// Computes the tables anew and makes the kernel hold them.
    fn apply_tables(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        let mut ids = self.ids.clone();
        let mut safety = self.safety.clone();
        let found = safety.update(&self.model, &self.verdicts, |s, b| self.view().is_wanted(s, b), now);
        let view = View { safety: &safety, ..self.view() };
        let desired = desired::compute(&self.model, view, &self.net, &self.seed, &mut ids, &self.rings, now)?;

        for id in std::mem::take(&mut ids.fresh_services) {
            self.dataplane.reset_service_counters(id)?;
            self.dataplane.reset_flow_counters(id)?;
            self.dataplane.reset_tracked_counters(id)?;
        }
        for id in std::mem::take(&mut ids.fresh_backends) {
            self.dataplane.reset_backend_counters(id)?;
        }
        // Whoever reads the maps after a crash must know every id in them.
        self.save(&ids)?;
        self.dataplane.apply(desired.tables)?;
        desired::release_slots(&mut ids, &desired.rings, now);
        self.ids = ids;
        self.safety = safety;
        for service in found.ejected {
            *self.ejections.entry(service).or_default() += 1;
        }
        self.happened(found.happened, now);
        if desired.rings.iter().any(|(key, ring)| self.rings.get(key).is_some_and(|old| ring.moved_since(old) > 0)) {
            self.turns.taken(Instant::now());
        }
        self.rings = desired.rings;
        self.keeper.want(desired.neighbours);
        let mut problems = desired.problems;
        problems.extend(self.forwarding_problems());
        for problem in problems.iter().filter(|p| !self.problems.contains(p)) {
            warn!("{problem}");
        }
        self.problems = problems;
        if let Err(e) = self.save(&self.ids.clone()) {
            warn!("{e}");
        }
        self.update_readiness();
        Ok(())
    }

    /// Writes events down, and tells hooks and the log of them.
    fn happened(&mut self, happened: Vec<Happened>, at: Instant) {
        for happened in happened {
            let Happened { kind, service, backend, to, reason, .. } = &happened;
            let of = backend.as_ref().map_or_else(String::new, |backend| format!("/{backend}"));
            match (kind, &**to) {
                // The checker has told it.
                (EventKind::Health, _) => {}
                (EventKind::Panic | EventKind::Open, "on") => error!("PANIC: service {service}: {reason}"),
                (EventKind::Panic | EventKind::Open, _) => info!("service {service}: no panic any more: {reason}"),
                (EventKind::Fallback, "on") => warn!("service {service}: fallback backends are used: {reason}"),
                (EventKind::Fallback, _) => {
                    info!("service {service}: fallback backends are not used any more: {reason}")
                }
                (EventKind::Kept, _) => warn!("{service}{of} looks dead and is kept: {reason}"),
                (EventKind::Ready, "unready") => warn!("service {service} is not ready for traffic: {reason}"),
                (EventKind::Ready, _) => info!("service {service} is ready for traffic: {reason}"),
                (EventKind::Agent, to) => info!("{service}{of}: its agent says {to}"),
                (EventKind::State, to) => info!("{service}{of} set to {to} {reason}"),
            }
            self.hooks.tell(self.journal.add(happened, at));
        }
    }

    /// Looks anew at which services are ready for traffic.
    pub(super) fn update_readiness(&mut self) {
        let seen = self.model.services.iter().map(|s| (s.name.clone(), self.seen_of(s))).collect();
        let now = Instant::now();
        let happened = self.readiness.update(seen, now);
        self.happened(happened, now);
    }

    /// How many of a service's backends are healthy, for its readiness.
    fn seen_of(&self, service: &Service) -> Seen {
        let verdict = |b: &Backend| match service.health {
            _ if self.view().is_down_by_agent(service, b) => Some(false),
            None => Some(true),
            Some(_) => self.verdicts.get(&(service.name.clone(), b.name.clone())).copied(),
        };
        let (mut up, mut awaited) = (0, 0);
        for backend in &service.backends {
            match verdict(backend) {
                Some(true) => up += 1,
                None => awaited += 1,
                Some(false) => {}
            }
        }
        let (all, need) = (service.backends.len(), service.min_healthy.max(1) as usize);
        if up >= need {
            Seen::Enough
        } else if self.safety.unusual(&service.name).panic || up + awaited >= need {
            Seen::Unknown
        } else {
            Seen::TooFew(format!("{up} of {all} backends are up, with min_healthy {}", service.min_healthy))
        }
    }

    /// Keeps what the next controller has to know, if it changed.
    fn save(&mut self, ids: &Ids) -> Result<(), crate::dataplane::DataplaneError> {
        let idle = self.dataplane.idle_timeouts();
        let config = self.shown.of(&self.model);
        let bytes = Saved::new(config, ids, self.view(), &idle, &self.key_digest).to_bytes();
        if bytes != self.saved {
            self.dataplane.save_state(&bytes)?;
            self.saved = bytes;
        }
        Ok(())
    }

    /// Only replies of NAT services may need the kernel's own routing.
    fn forwarding_problems(&self) -> Vec<String> {
        let features = desired::features(&self.model, &self.leaving);
        let names: Vec<&str> = self.model.node.interfaces.iter().map(|i| i.name.as_str()).collect();
        if features.nat { forwarding::problems(&names, features.ipv4, features.ipv6) } else { Vec::new() }
    }

    pub fn health_changed(&mut self, transitions: Vec<Transition>) {
        let mut at_once = self.next_turn().is_none();
        let mut deaths = Vec::new();
        for t in transitions {
            self.happened(vec![Happened::from(&t)], t.at);
            let name = (t.key.service, t.key.backend);
            if t.up {
                // Nobody else is there to serve.
                at_once |= self.rings.iter().any(|(key, ring)| key.service == name.0 && ring.is_empty());
                self.rising.insert(name);
            } else {
                self.rising.remove(&name);
                if self.is_known(&name) {
                    let was = self.verdicts.insert(name.clone(), false);
                    if was == Some(true) {
                        deaths.push(t.at);
                    }
                    // One that looks dead from the start may be the last that panic or fail-open waits for.
                    at_once |= was == Some(true) || was.is_none() && self.acts_on_the_dead(&name.0);
                }
            }
        }
        if at_once {
            self.rise();
        }
        let now = Instant::now();
        deaths.into_iter().for_each(|at| self.deaths_applied.add(now.saturating_duration_since(at)));
    }

    /// Whether a service does anything about backends that look dead but leave them out.
    fn acts_on_the_dead(&self, service: &str) -> bool {
        let service = self.model.services.iter().find(|s| s.name == service);
        service.is_some_and(|s| {
            s.max_ejected < 1.0
                || s.panic_threshold < 1.0
                || s.on_empty != OnEmpty::Drop
                || s.backends.iter().any(|b| b.fallback)
        })
    }

    /// Asks the agents of the running configuration, and forgets what others said.
    fn ask_agents(&mut self, known: &BTreeSet<BackendName>) {
        let others = self.agents.set(agent_targets(&self.model));
        for Key { service, backend } in others {
            self.standings.remove(&(service, backend));
        }
        let model = &self.model;
        let asks = |name: &str| model.services.iter().any(|s| s.name == name && s.agent.is_some());
        self.standings.retain(|name, _| known.contains(name) && asks(&name.0));
    }

    /// What agents said. Who is down or wants no new flows does not wait for a turn.
    pub fn agents_said(&mut self, answers: Vec<Answer>) {
        let mut at_once = false;
        for (Key { service, backend }, reply) in answers {
            let name = (service, backend);
            if !self.is_known(&name) {
                continue;
            }
            let standing = self.standings.entry(name.clone()).or_default();
            let before = standing.clone();
            standing.hear(&reply);
            if *standing == before {
                continue;
            }
            at_once |= standing.down().is_some() && before.down().is_none();
            at_once |= standing.is_draining() && !before.is_draining();
            let happened = Happened {
                kind: EventKind::Agent,
                service: name.0,
                backend: Some(name.1),
                address: None,
                from: before.to_string().into(),
                to: standing.to_string().into(),
                reason: "its agent says so".to_owned(),
                latency_ms: None,
                last_error: None,
            };
            self.agents_wait = true;
            self.happened(vec![happened], Instant::now());
        }
        if self.agents_wait && (at_once || self.next_turn().is_none()) {
            self.rise();
        }
    }

    /// When rings may change next; `None` for now. Who does not wait for it: a death, and an operator's drain.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        self.turns.wait(self.model.node.min_ring_interval, Instant::now())
    }

    /// Backends that came up count as up, and everything that waited for a turn is applied.
    pub(super) fn rise(&mut self) {
        self.agents_wait = false;
        self.note_risen();
        self.refresh("health changed");
    }

    pub(super) fn note_risen(&mut self) {
        for name in std::mem::take(&mut self.rising) {
            if self.is_known(&name) {
                self.verdicts.insert(name, true);
            }
        }
    }

    /// A transition of a backend that a reload has just removed is stale.
    fn is_known(&self, (service, backend): &BackendName) -> bool {
        let service = self.model.services.iter().find(|s| s.name == *service);
        service.is_some_and(|s| self.view().backends(s).any(|b| b.name == *backend))
    }

    pub fn network_changed(&mut self, net: Arc<NetState>) {
        self.net = net;
        if let Err(e) = self.vips.refresh(&self.net) {
            warn!("{e}");
        }
        self.reattach();
        self.refresh("the network changed");
    }

    /// An interface that went away and came back is a new one under the old name.
    fn reattach(&mut self) {
        for interface in self.model.node.interfaces.clone() {
            let current = self.net.link_by_name(&interface.name).ok().map(|link| link.index);
            let attached = self.dataplane.attached().find(|a| a.name == interface.name).map(|a| a.ifindex);
            if current == attached {
                continue;
            }
            if let Some(gone) = attached {
                warn!("{}: the interface went away", interface.name);
                if let Err(e) = self.dataplane.detach(gone) {
                    warn!("{e}");
                }
            }
            if let Some(index) = current {
                match self.attach(&interface.name, index, interface.xdp).and_then(|()| self.apply_vips()) {
                    Ok(()) => info!("{}: the interface is back", interface.name),
                    Err(failure) => error!("{}", failure.message),
                }
            }
        }
    }

    /// Backends that were leaving have left: no flow is theirs any more.
    pub(super) fn left(&mut self, gone: &[(String, Backend)]) {
        for (service, backend) in gone {
            info!("{service}/{} has left: no flow is its any more", backend.name);
            self.verdicts.remove(&(service.clone(), backend.name.clone()));
        }
        self.checker.set_targets(targets(&self.model, self.view()));
        self.refresh("backends left");
    }

    pub(super) fn refresh(&mut self, why: &str) {
        if let Err(failure) = self.apply_tables() {
            error!("{why}, but the maps could not follow: {}", failure.message);
        }
    }

    /// What the program said.
    pub fn heard(&mut self, events: &[Event]) {
        let wanted: BTreeSet<(u32, IpAddr)> = events
            .iter()
            .filter(|event| event.kind == EVENT_WANT_NEIGHBOUR)
            .map(|event| {
                let ip = match event.family {
                    6 => IpAddr::from(octets6(event.addr)),
                    _ => IpAddr::V4(Ipv4Addr::from(event.addr[0].to_ne_bytes())),
                };
                (event.ifindex, ip)
            })
            .collect();
        for (ifindex, ip) in wanted {
            if let Err(e) = resolve_soon(ifindex, ip) {
                warn!("{e}");
            }
        }
    }

    /// The service and backend of these names.
    fn find(&self, service: &str, backend: &str) -> Result<(&Service, &Backend), Failure> {
        let names = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let Some(found) = self.model.services.iter().find(|s| s.name == service) else {
            let known = names(self.model.services.iter().map(|s| s.name.as_str()).collect());
            return Err(Failure::new(Exit::Usage, format!("there is no service called {service}"))
                .hint(format!("services: {known}")));
        };
        match found.backends.iter().find(|b| b.name == backend) {
            Some(b) => Ok((found, b)),
            None => {
                let known = names(found.backends.iter().map(|b| b.name.as_str()).collect());
                Err(Failure::new(Exit::Usage, format!("service {service} has no backend called {backend}"))
                    .hint(format!("backends: {known}")))
            }
        }
    }

    /// A backend's number, and whether it is drained.
    fn drained(&self, service: &str, backend: &str) -> Result<(u16, bool), Failure> {
        let (service, backend) = self.find(service, backend)?;
        let id = self.ids.backend(service, backend).unwrap_or(0);
        Ok((id, self.view().state(service, backend) == BackendState::Drain))
    }

    fn drain_progress(
        &mut self,
        service: &str,
        backend: &str,
        idle: Option<Duration>,
    ) -> Result<DrainProgress, Failure> {
        let (id, draining) = self.drained(service, backend)?;
        let idle = idle.map(|idle| u32::try_from(idle.as_secs()).unwrap_or(u32::MAX));
        let remains = self.remains(id, idle);
        Ok(DrainProgress {
            service: service.to_owned(),
            backend: backend.to_owned(),
            draining,
            flows: remains.flows,
            ruled_out_in_seconds: remains.unseen,
            done: draining && remains.done,
        })
    }

    fn evict_udp(&mut self, service: &str, backend: &str) -> Result<Evicted, Failure> {
        let (id, draining) = self.drained(service, backend)?;
        if !draining {
            return Err(Failure::new(Exit::Failed, format!("{service}/{backend} is not drained: it keeps its flows"))
                .hint(format!("`sluice drain {service}/{backend}` first")));
        }
        let flows = self.dataplane.evict_udp(id)?;
        info!("{service}/{backend}: {flows} UDP flows go to other backends, as an operator asked");
        Ok(Evicted { flows })
    }

    fn set_backend_state(&mut self, service: &str, backend: &str, state: BackendState) -> Result<DrainAnswer, Failure> {
        let (found, member) = self.find(service, backend)?;
        let key = (found.name.clone(), member.name.clone());
        let configured = member.state;
        let before = self.overrides.get(&key).copied();
        let changed = before.unwrap_or(configured) != state;
        // What the file says anyway needs no override.
        if state == configured {
            self.overrides.remove(&key);
        } else {
            self.overrides.insert(key.clone(), state);
        }
        if changed {
            if let Err(failure) = self.apply_tables() {
                match before {
                    Some(state) => self.overrides.insert(key, state),
                    None => self.overrides.remove(&key),
                };
                return Err(failure);
            }
            let happened = Happened {
                kind: EventKind::State,
                service: service.to_owned(),
                backend: Some(backend.to_owned()),
                address: None,
                from: before.unwrap_or(configured).name().into(),
                to: state.name().into(),
                reason: "by an operator".to_owned(),
                latency_ms: None,
                last_error: None,
            };
            self.happened(vec![happened], Instant::now());
        }
        Ok(DrainAnswer { service: service.to_owned(), backend: backend.to_owned(), state, changed })
    }
}

/// What a running controller cannot change about itself.
pub(super) fn restart_needed(old: &Model, new: &Model) -> Result<(), Failure> {
    let differing = [
        ("node.bpf_dir", old.node.bpf_dir != new.node.bpf_dir),
        ("node.run_dir", old.node.run_dir != new.node.run_dir),
        (
            "node.tunnel_source",
            (old.node.tunnel_source4, old.node.tunnel_source6) != (new.node.tunnel_source4, new.node.tunnel_source6),
        ),
        ("admin", old.admin != new.admin),
        ("hash_key", old.hash_key != new.hash_key),
        ("limits", old.limits != new.limits),
    ];
    match differing.iter().find(|(_, differs)| *differs) {
        None => Ok(()),
        Some((what, _)) => Err(Failure::new(Exit::ConfigInvalid, format!("{what} cannot change while sluice runs"))
            .hint("restart sluice to change it, or put the old value back and reload")),
    }
}

fn agent_targets(model: &Model) -> Vec<agent::Target> {
    let mut out = Vec::new();
    for service in &model.services {
        let Some(agent) = &service.agent else { continue };
        out.extend(service.backends.iter().map(|backend| agent::Target {
            key: Key { service: service.name.clone(), backend: backend.name.clone() },
            backend: SocketAddr::new(backend.address, backend.port.unwrap_or(0)),
            agent: agent.clone(),
        }));
    }
    out
}

fn targets(model: &Model, view: View<'_>) -> Vec<Target> {
    let mut out = Vec::new();
    for service in &model.services {
        let Some(check) = &service.health else { continue };
        for backend in view.backends(service) {
            out.push(Target {
                key: Key { service: service.name.clone(), backend: backend.name.clone() },
                address: SocketAddr::new(backend.address, service.port_to_check(backend)),
                check: check.clone(),
            });
        }
    }
    out
}
