//! A controller that answers as it is told, behind the real servers on real sockets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sluice::api::server::{self, Bound};
use sluice::api::types::{
    Applied, Break, Confirmed, DrainAnswer, DrainProgress, Events, Evicted, Flows, Plan, ServiceState, Status,
};
use sluice::control::handle::{Handle, Request};
use sluice::exit::{Exit, Failure};
use sluice::model::BackendState;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A directory that goes with the test.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sluice-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn status() -> Status {
    serde_json::from_str(include_str!("../fixtures/status.json")).unwrap()
}

/// The same daemon on a good day.
pub fn healthy() -> Status {
    let mut status = status();
    status.degraded.clear();
    status.services.retain(|service| service.state == ServiceState::Up);
    status
}

pub fn refused() -> Failure {
    Failure::new(Exit::ConfigInvalid, "sluice.yaml:12:5: unknown key `weigth`\n  |\n12 |     weigth: 5")
        .hint("did you mean `weight`?")
}

/// A plan that names the file it was asked for.
pub fn plan(file: &str) -> Plan {
    Plan {
        generation: 4,
        changes: vec![format!("interfaces: eth0 → {file}")],
        breaks: vec![Break {
            service: Some("dns".to_owned()),
            connections: "all to 203.0.113.53:53/udp".to_owned(),
            why: "the service is removed".to_owned(),
        }],
        ..Plan::default()
    }
}

/// Every drain and undrain the controller was asked for.
pub type Asked = Arc<Mutex<Vec<(String, String, BackendState)>>>;

/// Answers with `status`, refuses reloads, and knows every backend but `nobody`.
pub fn controller(status: Status) -> (Handle, Asked) {
    let (handle, mut requests) = Handle::new();
    let asked = Asked::default();
    let notes = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut reloads = 0;
        let (mut evicted, mut questions) = (false, 0);
        while let Some(request) = requests.recv().await {
            match request {
                Request::Events(_, answer) => drop(answer.send(Events::default())),
                Request::Status(answer) => drop(answer.send(status.clone())),
                Request::Reload { confirm, answer } => {
                    reloads += 1;
                    let first = Applied {
                        generation: 5,
                        changes: vec!["web: weight of canary 5 → 10".to_owned()],
                        confirm_within_seconds: confirm.map(|patience| patience.as_secs()),
                    };
                    drop(answer.send(if reloads == 1 { Ok(first) } else { Err(refused()) }));
                }
                Request::Rollback(answer) => {
                    let changes = vec!["web: weight of canary 10 → 5".to_owned()];
                    drop(answer.send(Ok(Applied { generation: 6, changes, confirm_within_seconds: None })));
                }
                Request::DrainProgress { service, backend, idle, answer } => {
                    // One flow, until busy ones are evicted; with --idle, none from the second question on.
                    let left = if evicted || idle.is_some() && questions > 0 { 0 } else { 1 };
                    questions += 1;
                    let done = left == 0;
                    drop(answer.send(Ok(DrainProgress {
                        service,
                        backend,
                        draining: true,
                        flows: Some(left),
                        ruled_out_in_seconds: u32::from(!done),
                        done,
                    })));
                }
                Request::Flows(_, answer) => drop(answer.send(Ok(Flows::default()))),
                Request::EvictUdp { answer, .. } => {
                    evicted = true;
                    drop(answer.send(Ok(Evicted { flows: 1 })));
                }
                Request::Confirm(answer) => drop(answer.send(Ok(Confirmed { generation: 5 }))),
                Request::Plan(what, answer) => {
                    let file = what.map_or_else(|| "its own file".to_owned(), |file| file.file);
                    drop(answer.send(Ok(plan(&file))));
                }
                Request::SetBackendState { service, backend, state, answer } => {
                    if backend == "nobody" {
                        let unknown = Failure::new(Exit::Usage, format!("service {service} has no backend {backend}"));
                        drop(answer.send(Err(unknown.hint("it has 10.0.0.11 and canary"))));
                        continue;
                    }
                    let mut notes = notes.lock().unwrap();
                    let changed = notes.last().is_none_or(|last| last.2 != state);
                    notes.push((service.clone(), backend.clone(), state));
                    drop(answer.send(Ok(DrainAnswer { service, backend, state, changed })));
                }
            }
        }
    });
    (handle, asked)
}

/// A listener being served until told to stop.
pub struct Served {
    pub stop: watch::Sender<bool>,
    pub task: JoinHandle<()>,
}

pub fn serve(bound: Bound, handle: Handle) -> Served {
    let (stop, stopped) = watch::channel(false);
    Served { stop, task: tokio::spawn(bound.serve(handle, stopped)) }
}

/// An admin server with a controller behind it.
pub fn admin(socket: &Path, status: Status) -> (Served, Asked) {
    let (handle, asked) = controller(status);
    (serve(server::bind_unix(socket).unwrap(), handle), asked)
}
