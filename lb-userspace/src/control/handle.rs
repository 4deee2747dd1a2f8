//! How the rest of the process talks to the controller task: requests in, answers out.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::types::{
    Applied, Confirmed, DrainAnswer, DrainProgress, Events, Evicted, FlowFilter, Flows, Plan, PlanRequest, Status,
};
use crate::exit::{Exit, Failure};
use crate::model::BackendState;

/// A request with the place its answer goes.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<Status>),
    /// What happened to backends since the event of this number.
    Events(u64, oneshot::Sender<Events>),
    /// Read the file again and apply it whole, or refuse it whole.
    Reload {
        /// Go back unless confirmed within this time.
        confirm: Option<Duration>,
        answer: oneshot::Sender<Result<Applied, Failure>>,
    },
    /// Back to the configuration before.
    Rollback(oneshot::Sender<Result<Applied, Failure>>),
    /// What runs is to stay.
    Confirm(oneshot::Sender<Result<Confirmed, Failure>>),
    /// What a reload would change: with another file, or with the running configuration's own.
    Plan(Option<PlanRequest>, oneshot::Sender<Result<Plan, Failure>>),
    SetBackendState {
        service: String,
        backend: String,
        state: BackendState,
        answer: oneshot::Sender<Result<DrainAnswer, Failure>>,
    },
    /// What is left of a backend. Flows silent for `idle` count as gone.
    DrainProgress {
        service: String,
        backend: String,
        idle: Option<Duration>,
        answer: oneshot::Sender<Result<DrainProgress, Failure>>,
    },
    /// Flows that are written down.
    Flows(FlowFilter, oneshot::Sender<Result<Flows, Failure>>),
    /// Takes a backend's UDP flows away, busy or not.
    EvictUdp {
        service: String,
        backend: String,
        answer: oneshot::Sender<Result<Evicted, Failure>>,
    },
}

/// A cheap handle to the controller.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

impl Handle {
    /// The handle, and the end the controller reads.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(64);
        (Self { requests }, receiver)
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        self.ask(Request::Status).await
    }

    pub async fn events(&self, after: u64) -> Result<Events, Failure> {
        self.ask(|answer| Request::Events(after, answer)).await
    }

    pub async fn reload(&self, confirm: Option<Duration>) -> Result<Applied, Failure> {
        self.ask(|answer| Request::Reload { confirm, answer }).await?
    }

    pub async fn roll_back(&self) -> Result<Applied, Failure> {
        self.ask(Request::Rollback).await?
    }

    pub async fn confirm(&self) -> Result<Confirmed, Failure> {
        self.ask(Request::Confirm).await?
    }

    pub async fn plan(&self, what: Option<PlanRequest>) -> Result<Plan, Failure> {
        self.ask(|answer| Request::Plan(what, answer)).await?
    }

    pub async fn set_backend_state(
        &self,
        service: String,
        backend: String,
        state: BackendState,
    ) -> Result<DrainAnswer, Failure> {
        self.ask(|answer| Request::SetBackendState { service, backend, state, answer }).await?
    }

    pub async fn drain_progress(
        &self,
        service: String,
        backend: String,
        idle: Option<Duration>,
    ) -> Result<DrainProgress, Failure> {
        self.ask(|answer| Request::DrainProgress { service, backend, idle, answer }).await?
    }

    pub async fn flows(&self, filter: FlowFilter) -> Result<Flows, Failure> {
        self.ask(|answer| Request::Flows(filter, answer)).await?
    }

    pub async fn evict_udp(&self, service: String, backend: String) -> Result<Evicted, Failure> {
        self.ask(|answer| Request::EvictUdp { service, backend, answer }).await?
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Failure> {
        let (answer, receiver) = oneshot::channel();
        let gone = || Failure::new(Exit::DaemonUnreachable, "the controller is shutting down");
        self.requests.send(request(answer)).await.map_err(|_| gone())?;
        receiver.await.map_err(|_| gone())
    }
}
