//! Hooks: programs and receivers that are told of events, so that a route or a VIP can follow a service's health.
//!
//! Each hook has a queue and a task of its own. Events reach it one after the other and in order, because what is
//! withdrawn after it was announced must not come out the other way around; a slow hook delays no other, and the
//! controller never waits for one. The trap is a hook that hangs: its time is bounded, so is its queue, and what does
//! not fit is lost to it, counted and said.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::api::types::{Event, HookStatus};
use crate::health::exec;
use crate::model::{Call, Hook, Url};

/// Events that wait for one hook.
const QUEUE: usize = 256;

/// All hooks of the configuration.
#[derive(Debug, Default)]
pub(super) struct Hooks(Vec<Running>);

#[derive(Debug)]
struct Running {
    hook: Hook,
    queue: mpsc::Sender<Event>,
    counts: Arc<Counts>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
}

impl Hooks {
    /// Exactly these from now on. One that was there before keeps its queue and its counts.
    ///
    /// # Panics
    /// Outside a tokio runtime, where a hook is new.
    pub fn set(&mut self, hooks: &[Hook]) {
        let mut before = std::mem::take(&mut self.0);
        for hook in hooks {
            let known = before.iter().position(|running| running.hook == *hook);
            self.0.push(known.map_or_else(|| Running::start(hook.clone()), |at| before.swap_remove(at)));
        }
    }

    pub fn tell(&self, event: &Event) {
        for running in &self.0 {
            if !running.hook.on.contains(&event.kind.subject()) {
                continue;
            }
            if running.queue.try_send(event.clone()).is_err() {
                let lost = running.counts.lost.fetch_add(1, Ordering::Relaxed) + 1;
                // A hook that hangs while thousands of backends die would fill the log.
                if lost.is_power_of_two() {
                    warn!("hook {}: it is too slow, {lost} events are lost to it", name(&running.hook));
                }
            }
        }
    }

    pub fn status(&self) -> Vec<HookStatus> {
        // Two hooks may call the same thing.
        let mut seen: HashMap<String, u32> = HashMap::new();
        let status = |running: &Running| {
            let name = name(&running.hook);
            let again = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
            let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
            HookStatus {
                hook: if *again == 1 { name } else { format!("{name} ({again})") },
                done: count(&running.counts.done),
                failed: count(&running.counts.failed),
                lost: count(&running.counts.lost),
            }
        };
        self.0.iter().map(status).collect()
    }
}

impl Running {
    fn start(hook: Hook) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(run(hook.clone(), events, Arc::clone(&counts))).abort_handle();
        Self { hook, queue, counts, task }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it is called in messages and metrics.
fn name(hook: &Hook) -> String {
    match &hook.call {
        Call::Exec(command) => command.first().cloned().unwrap_or_default(),
        Call::Webhook(url) => url.to_string(),
    }
}

async fn run(hook: Hook, mut events: mpsc::Receiver<Event>, counts: Arc<Counts>) {
    while let Some(event) = events.recv().await {
        let outcome = match &hook.call {
            Call::Exec(command) => execute(command, &event, hook.timeout).await,
            Call::Webhook(url) => match timeout(hook.timeout, post(url, &event)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("no answer within {:?}", hook.timeout)),
            },
        };
        match outcome {
            Ok(()) => {
                counts.done.fetch_add(1, Ordering::Relaxed);
                debug!("hook {}: told of event {}", name(&hook), event.number);
            }
            Err(why) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                warn!("hook {}: event {} of service {}: {why}", name(&hook), event.number, event.service);
            }
        }
    }
}

async fn execute(command: &[String], event: &Event, limit: Duration) -> Result<(), String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let environment = [
        ("SLUICE_EVENT", event.kind.name().to_owned()),
        ("SLUICE_NUMBER", event.number.to_string()),
        ("SLUICE_TIME_MS", event.at_ms.to_string()),
        ("SLUICE_SERVICE", event.service.clone()),
        ("SLUICE_BACKEND", text(&event.backend)),
        ("SLUICE_ADDRESS", text(&event.address)),
        ("SLUICE_FROM", event.from.clone()),
        ("SLUICE_TO", event.to.clone()),
        ("SLUICE_REASON", event.reason.clone()),
    ];
    let deadline = tokio::time::Instant::now() + limit;
    match exec::run(command, &environment, deadline).await {
        Ok(Some((status, _))) if status.success() => Ok(()),
        Ok(Some((status, _))) => Err(format!("it ended with {status}")),
        Ok(None) => Err(format!("it did not end within {limit:?}, and was killed")),
        Err(why) => Err(why),
    }
}

/// The event as JSON, by POST.
async fn post(url: &Url, event: &Event) -> Result<(), String> {
    let body = serde_json::to_vec(event).map_err(|e| format!("it cannot be written as JSON: {e}"))?;
    let authority = match url.host.contains(':') {
        true => format!("[{}]:{}", url.host, url.port),
        false => format!("{}:{}", url.host, url.port),
    };
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(|e| format!("cannot connect: {e}"))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(&url.path)
        .header(HOST, authority)
        .header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| format!("it makes no valid request: {e}"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("the answer is not HTTP/1: {e}"))?;
    // The body of the answer says nothing that is waited for.
    let driver = tokio::spawn(connection).abort_handle();
    let answer = sender.send_request(request).await;
    driver.abort();
    match answer.map_err(|e| format!("no answer: {e}"))?.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("it answered with status {}", status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::types::EventKind;
    use crate::model::Subject;

    fn event(number: u64, kind: EventKind) -> Event {
        Event {
            number,
            at_ms: 1_767_225_600_123,
            kind,
            service: "web".to_owned(),
            backend: (kind == EventKind::Health).then(|| "one".to_owned()),
            address: None,
            from: "up".to_owned(),
            to: "down".to_owned(),
            reason: "it's \"down\"; $(reboot)".to_owned(),
            latency_ms: None,
            last_error: None,
        }
    }

    fn hook(call: Call, on: &[Subject]) -> Hook {
        Hook { on: on.to_vec(), call, timeout: Duration::from_secs(5) }
    }

    async fn until(hooks: &Hooks, wished: impl Fn(&HookStatus) -> bool) -> HookStatus {
        for _ in 0..500 {
            let status = hooks.status().remove(0);
            if wished(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", hooks.status());
    }

    #[tokio::test]
    async fn a_program_is_told_by_its_environment_and_in_order() {
        let file: PathBuf = std::env::temp_dir().join(format!("sluice-hook-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&file, permissions).unwrap();
        let script = format!(
            "echo \"$SLUICE_NUMBER $SLUICE_EVENT $SLUICE_SERVICE $SLUICE_TO $SLUICE_REASON\" >> {}",
            file.display()
        );
        let command = ["/bin/sh", "-c", &script].map(str::to_owned).into();
        let mut hooks = Hooks::default();
        hooks.set(&[hook(Call::Exec(command), &[Subject::Service])]);
        hooks.tell(&event(1, EventKind::Health));
        for number in 2..5 {
            hooks.tell(&event(number, EventKind::Ready));
        }
        until(&hooks, |status| status.done == 3).await;
        let told = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let line = |number| format!("{number} ready web down it's \"down\"; $(reboot)\n");
        assert_eq!(told, [2, 3, 4].map(line).concat(), "and nothing of backends");
    }

    #[tokio::test]
    async fn what_fails_or_hangs_is_counted_and_does_not_stop_the_next() {
        let sleep = |seconds: &str| Call::Exec(["/bin/sleep", seconds].map(str::to_owned).into());
        let mut hooks = Hooks::default();
        let quick = Duration::from_millis(100);
        hooks.set(&[Hook { timeout: quick, ..hook(sleep("61.75"), &[Subject::Service]) }]);
        hooks.tell(&event(1, EventKind::Ready));
        hooks.tell(&event(2, EventKind::Ready));
        until(&hooks, |status| status.failed == 2).await;
        // While the first hangs, its queue fills, and nobody waits for that.
        hooks.set(&[hook(sleep("61.75"), &[Subject::Service])]);
        for number in 0..QUEUE as u64 + 11 {
            hooks.tell(&event(number, EventKind::Ready));
        }
        assert!((10..=11).contains(&hooks.status()[0].lost), "{:?}", hooks.status());
    }

    #[tokio::test]
    async fn a_receiver_gets_the_event_as_json() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = Url { host: "127.0.0.1".into(), port, path: "/x?node=a".into() };
        let mut hooks = Hooks::default();
        hooks.set(&[hook(Call::Webhook(url), &[Subject::Backend, Subject::Service])]);
        for (number, answer, failed) in [(1, "204 No Content", 0), (2, "503 Sick", 1)] {
            hooks.tell(&event(number, EventKind::Health));
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with('}') {
                let mut chunk = [0; 4096];
                let n = stream.read(&mut chunk).await.unwrap();
                request.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
            }
            assert!(request.starts_with("POST /x?node=a HTTP/1.1\r\n"), "{request}");
            let (_, body) = request.split_once("\r\n\r\n").unwrap();
            assert_eq!(serde_json::from_str::<Event>(body).unwrap(), event(number, EventKind::Health));
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            until(&hooks, |status| status.done + status.failed == number && status.failed == failed).await;
        }
    }

    #[tokio::test]
    async fn a_hook_that_stays_keeps_its_counts() {
        let run = |program: &str| hook(Call::Exec(vec![program.to_owned()]), &[Subject::Service]);
        let mut hooks = Hooks::default();
        hooks.set(&[run("/bin/true")]);
        hooks.tell(&event(1, EventKind::Ready));
        until(&hooks, |status| status.done == 1).await;
        hooks.set(&[run("/bin/false"), run("/bin/true"), run("/bin/true")]);
        let status: Vec<_> = hooks.status().into_iter().map(|s| (s.hook, s.done)).collect();
        let expected = [("/bin/false", 0), ("/bin/true", 1), ("/bin/true (2)", 0)];
        assert_eq!(status, expected.map(|(name, done)| (name.to_owned(), done)));
    }
}
