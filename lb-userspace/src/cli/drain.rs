//! `sluice drain`: no new flows for one backend, and perhaps waiting until its old ones are over.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::api::client::Client;
use crate::api::types::DrainProgress;
use crate::cli::Ended;
use crate::cli::connection::{Connection, Target};
use crate::cli::output::{self, Format, Reader};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::model::BackendState;

/// Take a backend out of the ring: no new connections; those it has stay
///
/// With --wait, this shows how many of its flows are left, and how long flows may still turn up that were silent since:
/// nobody keeps a list of flows before their row moves. It ends when none is left and none can turn up: exit code 0, and
/// the backend may be stopped. At --timeout, UDP flows that are busy still go to other backends, and connections that
/// are left end this with exit code 1; they stay where they are.
///
/// The drain is an override: it stays over reloads and restarts of the daemon, and `sluice status` marks it, until
/// `sluice undrain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sluice drain web/10.0.0.11\n  \
    sluice drain web/10.0.0.11 --wait --timeout 5m && ssh 10.0.0.11 systemctl stop nginx\n  \
    sluice drain web/10.0.0.11 --wait --idle 30s\n  \
    sluice drain web/canary --wait -o json       one object per second, the last has `\"done\":true`")]
pub struct Drain {
    /// Which backend, as `sluice status` names it
    #[arg(value_name = "SERVICE/BACKEND")]
    target: Target,
    /// Wait until it has no flows left
    #[arg(short, long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", requires = "wait", value_parser = config::duration)]
    timeout: Duration,
    /// Count flows as gone that are silent for so long: shorter to wait, and a connection that is only idle for longer
    /// breaks when the backend is stopped
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = config::duration)]
    idle: Option<Duration>,
    #[command(flatten)]
    connection: Connection,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How often the daemon is asked. It counts about as often.
const PACE: Duration = Duration::from_secs(1);
/// Between two lines where nobody watches a bar.
const LINES: Duration = Duration::from_secs(10);
/// After the deadline: for one more count.
const LAST_COUNT: Duration = Duration::from_secs(5);

impl Drain {
    pub fn execute(self) -> Ended {
        if !self.wait {
            return self.connection.set_backend_state(self.target, BackendState::Drain, self.output);
        }
        if let Some(idle) = self.idle {
            let idle = idle.as_secs();
            output::talk(&format!(
                "flows that are silent for {idle} s count as gone; if one is only idle, stopping the backend breaks it"
            ));
        }
        self.connection.talk(async |client| self.wait(&client).await)
    }

    async fn wait(&self, client: &Client) -> Ended {
        let Target { service, backend } = &self.target;
        client.set_backend_state(service.clone(), backend.clone(), BackendState::Drain).await?;
        let mut show = Show::new(self.output);
        let mut deadline = Instant::now() + self.timeout;
        let mut evicted = false;
        loop {
            let progress = client.drain_progress(service.clone(), backend.clone(), self.idle).await?;
            if show.progress(&progress)? == Reader::Gone {
                return Ok(Exit::Ok);
            }
            if !progress.draining {
                show.end();
                return Err(Failure::new(
                    Exit::Failed,
                    format!("{service}/{backend} takes new flows again: somebody undrained it"),
                ));
            }
            if progress.done {
                show.end();
                output::talk(&format!("{service}/{backend} has no flows left"));
                return Ok(Exit::Ok);
            }
            if Instant::now() >= deadline && evicted {
                show.end();
                return Err(left(&progress, self.timeout));
            }
            if Instant::now() >= deadline {
                evicted = true;
                let moved = client.evict_udp(service.clone(), backend.clone()).await?.flows;
                if moved > 0 {
                    show.end();
                    output::talk(&format!("busy UDP flows that go to other backends now: {moved}"));
                }
                deadline += LAST_COUNT;
            }
            tokio::time::sleep(PACE.min(deadline.saturating_duration_since(Instant::now()))).await;
        }
    }
}

/// What a wait that was too short ends with.
fn left(progress: &DrainProgress, waited: Duration) -> Failure {
    let DrainProgress { service, backend, flows, ruled_out_in_seconds, .. } = progress;
    let what = match (flows, ruled_out_in_seconds) {
        (Some(0), seconds) => format!("no flow is known, but silent ones may turn up for another {seconds} s"),
        (Some(1), _) => "1 flow is left".to_owned(),
        (Some(n), _) => format!("{n} flows are left"),
        (None, _) => "nothing was counted yet".to_owned(),
    };
    Failure::new(Exit::Failed, format!("{service}/{backend} after {waited:?}: {what}"))
        .hint("it stays drained: wait again, count silent flows as gone with --idle, or stop it and break what is left")
}

/// Progress, as the reader likes it.
#[derive(Debug)]
struct Show {
    format: Format,
    /// A bar that is drawn over and over, on stderr.
    bar: bool,
    /// What there was most of, for the bar.
    most: (u64, u32),
    told: Option<(Instant, String)>,
}

impl Show {
    fn new(format: Format) -> Self {
        let people = matches!(format, Format::Table | Format::Wide);
        Self { format, bar: people && io::stderr().is_terminal(), most: (0, 0), told: None }
    }

    fn progress(&mut self, progress: &DrainProgress) -> Result<Reader, Failure> {
        let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot print the progress: {e}"));
        match self.format {
            Format::Json => {
                return output::write(&(serde_json::to_string(progress).map_err(|e| failed(&e))? + "\n"));
            }
            Format::Yaml => {
                return output::write(&format!("---\n{}", serde_yaml::to_string(progress).map_err(|e| failed(&e))?));
            }
            Format::Table | Format::Wide => {}
        }
        let flows = progress.flows.unwrap_or(0);
        self.most = (self.most.0.max(flows), self.most.1.max(progress.ruled_out_in_seconds));
        let line = sentence(progress);
        if self.bar {
            let bar = bar(self.most, (flows, progress.ruled_out_in_seconds));
            let _ = write!(io::stderr().lock(), "\r\x1b[K{bar} {line}");
        } else if self.told.as_ref().is_none_or(|(at, told)| at.elapsed() >= LINES && *told != line) {
            output::talk(&line);
            self.told = Some((Instant::now(), line));
        }
        Ok(Reader::Present)
    }

    /// What comes next begins on a line of its own.
    fn end(&self) {
        if self.bar {
            output::talk("");
        }
    }
}

fn sentence(progress: &DrainProgress) -> String {
    let DrainProgress { service, backend, flows, ruled_out_in_seconds, .. } = progress;
    let flows = match flows {
        None => "counting its flows".to_owned(),
        Some(1) => "1 flow left".to_owned(),
        Some(n) => format!("{n} flows left"),
    };
    let unseen = match ruled_out_in_seconds {
        0 => String::new(),
        s => format!(", silent ones may turn up for {}:{:02}", s / 60, s % 60),
    };
    format!("{service}/{backend}: {flows}{unseen}")
}

/// How much is done of what takes longer: flows that end, or time that passes.
fn bar(most: (u64, u32), left: (u64, u32)) -> String {
    const WIDTH: usize = 20;
    let part = |most: f64, left: f64| if most > 0.0 { 1.0 - left / most } else { 1.0 };
    let done = part(most.0 as f64, left.0 as f64).min(part(most.1.into(), left.1.into()));
    let full = (done * WIDTH as f64) as usize;
    format!("[{}{}]", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(flows: Option<u64>, ruled_out_in_seconds: u32) -> DrainProgress {
        let (service, backend) = ("web".to_owned(), "b".to_owned());
        DrainProgress { service, backend, draining: true, flows, ruled_out_in_seconds, done: false }
    }

    #[test]
    fn progress_is_one_sentence() {
        assert_eq!(sentence(&progress(None, 0)), "web/b: counting its flows");
        assert_eq!(sentence(&progress(Some(12), 125)), "web/b: 12 flows left, silent ones may turn up for 2:05");
        assert_eq!(sentence(&progress(Some(1), 0)), "web/b: 1 flow left");
    }

    #[test]
    fn the_bar_is_as_far_as_what_takes_longer() {
        assert_eq!(bar((0, 0), (0, 0)), "[####################]");
        assert_eq!(bar((100, 60), (100, 30)), "[--------------------]");
        assert_eq!(bar((100, 60), (25, 30)), "[##########----------]");
        assert_eq!(bar((100, 60), (0, 0)), "[####################]");
    }

    #[test]
    fn what_is_left_at_the_deadline_is_told_with_its_number() {
        let told = |flows, seconds| left(&progress(flows, seconds), Duration::from_secs(300)).message;
        assert_eq!(told(Some(3), 0), "web/b after 300s: 3 flows are left");
        assert_eq!(
            told(Some(0), 40),
            "web/b after 300s: no flow is known, but silent ones may turn up for another 40 s"
        );
    }
}
