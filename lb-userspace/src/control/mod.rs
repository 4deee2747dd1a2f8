//! The controller: one task that owns the desired state and every map.
//!
//! [`run`] is the runbook: take the lock, look at the host, load, serve, loop, stop. [`controller::Controller`] is
//! the state and the only place that changes it; [`desired`] computes what the kernel should hold.

pub mod changes;
pub mod controller;
pub mod desired;
mod flows;
pub mod handle;
mod history;
mod hooks;
pub mod ids;
mod journal;
pub mod leaving;
pub mod plan;
mod readiness;
mod reload;
pub mod safety;
mod saved;
mod secret;
mod status;
mod sweeps;
mod turns;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use crate::api::server;
use crate::config;
use crate::dataplane::lock;
use crate::exit::{Exit, Failure};
use crate::net::watch::Watcher;
use crate::systemd::Notify;

use controller::{Controller, Heard};
use handle::Handle;

/// What `sluice run` was told on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Have the program log every packet. Slow: for a lab, never for service.
    pub log_packets: bool,
}

/// Runs the controller until it is told to stop.
pub async fn run(options: Options) -> Result<(), Failure> {
    let (text, model) = config::load_text(&options.config)?;
    let notify = Notify::from_env();
    raise_file_limit();

    let _lock = lock::acquire(&model.node.run_dir)?;
    let mut net = Watcher::start().map_err(Failure::from)?;
    for interface in &model.node.interfaces {
        net.borrow().link_by_name(&interface.name).map_err(Failure::from)?;
    }

    // Everything that can be refused without touching the host comes first.
    let (stop, stopped) = watch::channel(false);
    let (handle, mut requests) = Handle::new();
    let mut servers = tokio::task::JoinSet::new();
    let unix = server::bind_unix(&model.admin.socket)?;
    let http = match model.admin.http {
        Some(address) => Some(server::bind_http(address).await?),
        None => None,
    };
    let mut hangup = listen(SignalKind::hangup())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;

    let (mut controller, Heard { mut transitions, mut answers }) = Controller::start(options, model, net.clone())?;
    controller.started(text);
    let mut events = match controller.events() {
        Ok(events) => events,
        Err(failure) => {
            controller.give_up();
            return Err(failure);
        }
    };
    if let Some(log) = controller.packet_log() {
        tokio::spawn(log.run());
    }
    servers.spawn(unix.serve(handle.clone(), stopped.clone()));
    if let Some(http) = http {
        servers.spawn(http.serve(handle, stopped));
    }
    notify.ready(&controller.summary());
    info!("{}", controller.summary());

    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // In this order: a sweep goes on when there is nothing else to do.
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(first) = transitions.recv() => {
                let mut batch = vec![first];
                while let Ok(next) = transitions.try_recv() {
                    batch.push(next);
                }
                controller.health_changed(batch);
                notify.status(&controller.summary());
            }
            Some(first) = answers.recv() => {
                let mut batch = vec![first];
                while let Ok(next) = answers.try_recv() {
                    batch.push(next);
                }
                controller.agents_said(batch);
                notify.status(&controller.summary());
            }
            () = alarm(controller.next_alarm()) => controller.alarm(&notify),
            _ = seconds.tick() => controller.tick(),
            Some(request) = requests.recv() => controller.answer(request, &notify),
            Ok(()) = net.changed() => {
                let state = net.borrow_and_update().clone();
                controller.network_changed(state);
            }
            heard = events.next() => match heard {
                Ok(heard) => controller.heard(&heard),
                Err(e) => warn!("cannot read the program's events: {e}"),
            },
            _ = hangup.recv() => controller.hang_up(&notify),
            () = std::future::ready(()), if controller.is_sweeping() => {
                controller.sweep_on();
                // Others on this thread have their turn.
                tokio::task::yield_now().await;
            }
        }
    }

    notify.stopping();
    info!("stopping");
    let _ = stop.send(true);
    controller.stop();
    while servers.join_next().await.is_some() {}
    Ok(())
}

/// Waits until then; for ever, if nobody has anything to wait for.
async fn alarm(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|e| Failure::new(Exit::Failed, format!("cannot listen for signals: {e}")))
}

/// Every check under way holds a descriptor, and the usual soft limit of 1,024 is not many.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(e) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        warn!("cannot raise the limit of open files: {e}");
    }
}

impl From<crate::net::Error> for Failure {
    fn from(error: crate::net::Error) -> Self {
        use crate::net::Error as E;
        match &error {
            E::NoSuchInterface { .. } => Self::new(Exit::HostUnsupported, error.to_string())
                .hint("name an interface of this host under node.interfaces; `ip link` lists them"),
            E::Kernel { .. } if matches!(error.errno(), Some(libc::EPERM | libc::EACCES)) => {
                Self::new(Exit::HostUnsupported, error.to_string())
            }
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}
