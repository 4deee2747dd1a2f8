//! Other configurations: applied, tried out, taken back, or only looked at.
//!
//! A reload may have to be confirmed, as `birdc configure timeout` has it: without a confirmation in time, what ran
//! before comes back, so that an operator who has cut himself off need not do anything. While one waits, another is
//! refused: going back would not lead to where he was.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::api::types::{Applied, Confirmed, Plan, PlanRequest};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::model::{Model, Service, Tracking};
use crate::systemd::Notify;

use super::controller::{Controller, restart_needed};
use super::desired::{self, Ids, Rings, View};
use super::plan::{self, Seen, Side};

/// A reload, and where its outcome goes.
#[derive(Debug)]
pub(super) struct Waiting {
    pub confirm: Option<Duration>,
    pub answer: oneshot::Sender<Result<Applied, Failure>>,
}

/// Seconds since the Unix epoch.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Controller {
    /// What runs since the start is what this text says.
    pub fn started(&mut self, text: String) {
        let now = unix_now();
        self.history.started(text, now);
        self.confirm_by =
            self.history.deadline().map(|at| Instant::now() + Duration::from_secs(at.saturating_sub(now)));
    }

    /// Reads the file again and applies it whole, or refuses it whole, as soon as rings may change again.
    pub(super) fn reload_in_turn(&mut self, reload: Waiting, notify: &Notify) {
        self.reloads.push(reload);
        if self.next_turn().is_none() {
            self.take_turn(notify);
        }
    }

    /// As `SIGHUP` asks for it: the outcome is logged, a signal has nobody to answer to.
    pub fn hang_up(&mut self, notify: &Notify) {
        let (answer, _) = oneshot::channel();
        self.reload_in_turn(Waiting { confirm: None, answer }, notify);
    }

    /// When [`Controller::alarm`] wants to be called, if nothing else happens.
    pub fn next_alarm(&self) -> Option<Instant> {
        let turn = (!self.reloads.is_empty() || !self.rising.is_empty() || self.agents_wait)
            .then(|| self.next_turn().unwrap_or_else(Instant::now));
        turn.into_iter().chain(self.confirm_by).min()
    }

    /// Time has come for what waited for it.
    pub fn alarm(&mut self, notify: &Notify) {
        if self.confirm_by.is_some_and(|by| by <= Instant::now()) {
            warn!("the configuration was not confirmed in time: going back to the one before");
            // The outcome is logged.
            let _ = self.roll_back(notify);
        }
        if self.next_turn().is_none() {
            self.take_turn(notify);
        }
    }

    /// Everything that waited is applied: backends that came up, and reloads.
    fn take_turn(&mut self, notify: &Notify) {
        let reloads = std::mem::take(&mut self.reloads);
        // A reload takes the backends that came up along; one that is refused does not.
        for Waiting { confirm, answer } in reloads {
            let _ = answer.send(self.reload(confirm, notify));
        }
        if !self.rising.is_empty() || self.agents_wait {
            self.rise();
            notify.status(&self.summary());
        }
    }

    fn reload(&mut self, confirm: Option<Duration>, notify: &Notify) -> Result<Applied, Failure> {
        notify.reloading();
        let outcome = match self.confirm_by {
            Some(by) => Err(Failure::new(
                Exit::Failed,
                format!("the configuration that runs is to be confirmed first, in the next {}", seconds_until(by)),
            )
            .hint("`sluice confirm` keeps it, `sluice rollback` goes back to the one before; then reload")),
            None => config::load_text(&self.path).map_err(Failure::from).and_then(|(text, model)| {
                let same = model == self.model;
                let mut applied = self.apply(model)?;
                let confirm = confirm.filter(|_| !same);
                self.confirm_by = confirm.map(|patience| Instant::now() + patience);
                applied.confirm_within_seconds = confirm.map(|patience| patience.as_secs());
                let now = unix_now();
                self.history.applied(text, same, now, confirm.map(|patience| now + patience.as_secs()));
                Ok(applied)
            }),
        };
        match &outcome {
            Ok(applied) if applied.changes.is_empty() => info!("reloaded: nothing changed"),
            Ok(applied) => info!("reloaded: {}", applied.changes.join("; ")),
            Err(failure) => {
                self.last_error = Some(failure.message.clone());
                error!("reload refused, the old configuration stays: {}", failure.message);
            }
        }
        notify.ready(&self.summary());
        outcome
    }

    /// Back to the configuration that ran before this one.
    pub(super) fn roll_back(&mut self, notify: &Notify) -> Result<Applied, Failure> {
        // Once it has failed, time does not make it work.
        self.confirm_by = None;
        self.history.confirm();
        let Some(previous) = self.history.previous().cloned() else {
            return Err(Failure::new(Exit::Failed, "there is no earlier configuration to go back to")
                .hint("a rollback undoes a reload; the configurations before a reboot are not known"));
        };
        notify.reloading();
        let outcome = config::parse("the configuration before", &previous.text)
            .map_err(Failure::from)
            .and_then(|model| self.apply(model));
        match &outcome {
            Ok(applied) => {
                self.history.rolled_back();
                info!("rolled back: {}", applied.changes.join("; "));
                warn!("{} still says what was rolled back: the next reload or start applies it", self.path.display());
            }
            Err(failure) => {
                self.last_error = Some(failure.message.clone());
                error!("cannot roll back, the configuration stays: {}", failure.message);
            }
        }
        notify.ready(&self.summary());
        outcome
    }

    /// What runs is to stay.
    pub(super) fn confirm(&mut self, notify: &Notify) -> Result<Confirmed, Failure> {
        self.confirm_by = None;
        if !self.history.confirm() {
            return Err(Failure::new(Exit::Failed, "nothing waits for a confirmation")
                .hint("`sluice reload --confirm 60s` rolls back unless it is confirmed in time"));
        }
        info!("the configuration was confirmed");
        notify.status(&self.summary());
        Ok(Confirmed { generation: self.generation })
    }

    fn apply(&mut self, next: Model) -> Result<Applied, Failure> {
        restart_needed(&self.model, &next)?;
        self.note_risen();
        self.transition(next)
    }

    /// What a reload would change; nothing is. Of the running configuration's own file, or of another.
    pub(super) fn plan(&self, what: Option<PlanRequest>) -> Result<Plan, Failure> {
        let next = match what {
            Some(PlanRequest { file, text }) => config::parse(&file, &text),
            None => config::load(&self.path),
        }?;
        restart_needed(&self.model, &next)?;
        for interface in &next.node.interfaces {
            self.net.link_by_name(&interface.name)?;
        }
        let now = Instant::now();
        let (mut leaving, mut verdicts) = (self.leaving.clone(), self.verdicts.clone());
        for (service, old, new) in leaving.follow(&self.model, &next, |s, b| self.view().is_up(s, b), now) {
            if let Some(verdict) = self.verdicts.get(&(service.clone(), old)) {
                verdicts.insert((service, new), *verdict);
            }
        }
        let mut assumptions = Vec::new();
        let by_name: BTreeMap<&str, &Service> = self.model.services.iter().map(|s| (s.name.as_str(), s)).collect();
        for service in next.services.iter().filter(|s| s.health.is_some()) {
            let before = by_name.get(service.name.as_str());
            for backend in &service.backends {
                let name = (service.name.clone(), backend.name.clone());
                let known = before.is_some_and(|s| s.backends.iter().any(|b| b.address == backend.address));
                if !(known && verdicts.contains_key(&name)) {
                    assumptions.push(format!("{}/{} passes its first health check", name.0, name.1));
                    verdicts.insert(name, true);
                }
            }
        }
        let compute = |model: &Model, view: View<'_>, ids: &mut Ids, rings: &Rings| {
            desired::compute(model, view, &self.net, &self.seed, ids, rings, now)
        };
        let mut ids_now = self.ids.clone();
        let runs = compute(&self.model, self.view(), &mut ids_now, &self.rings)?;
        let mut ids_then = ids_now.clone();
        let mut safety = self.safety.clone();
        let before = View { verdicts: &verdicts, leaving: &leaving, ..self.view() };
        safety.update(&next, &verdicts, |s, b| before.is_wanted(s, b), now);
        let view = View { safety: &safety, ..before };
        let would = compute(&next, view, &mut ids_then, &runs.rings)?;
        let old = Side { model: &self.model, view: self.view(), desired: &runs, ids: &ids_now };
        let new = Side { model: &next, view, desired: &would, ids: &ids_then };
        let plan = plan::plan(old, new, &self.seen()?);
        Ok(Plan { generation: self.generation, assumptions, ..plan })
    }

    fn seen(&self) -> Result<BTreeMap<String, Seen>, Failure> {
        let mut listed = self.count_tracked()?;
        let services = self.model.services.iter().filter_map(|s| {
            let id = self.ids.service(&s.name)?;
            let packets = self.dataplane.service_counters(id).ok()?.packets;
            let written_down = self.dataplane.flow_use(id).entries;
            let tracked = (s.tracking == Tracking::Full).then(|| listed.remove(&id).unwrap_or_default());
            Some((s.name.clone(), Seen { packets, written_down, tracked }))
        });
        Ok(services.collect())
    }
}

/// For people.
fn seconds_until(by: Instant) -> String {
    format!("{} s", by.saturating_duration_since(Instant::now()).as_secs())
}
