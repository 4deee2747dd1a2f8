//! The agent check: a program on a backend says how much traffic it wants (HAProxy's `agent-check`).
//!
//! It is asked over TCP and answers with a line of words. What it said holds until it says something else, and silence
//! changes nothing: an agent that is gone says nothing of the backend, which its health check is there for. [`Reply`] is
//! one answer, [`Standing`] what follows from all of them, [`Agents`] asks.
//!
//! The trap is a load that wavers: 74 %, 76 %, 73 % would move rows with every answer. Weights come in steps, and follow
//! only an answer that is a whole step away from the one in force.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout};

use super::Key;
use super::schedule::{Random, Schedule};
use crate::model::Agent;

/// Bytes of an answer that are looked at.
const ANSWER: usize = 1_024;

/// Weights are multiples of this many percent.
const STEP: u32 = 5;

/// No backend gets more than this many times its weight, in percent.
const MOST: u32 = 1_000;

/// Part of the interval by which a question is moved at random, as checks are.
const JITTER: f64 = 0.1;

/// What an operator of the backend wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    #[default]
    Ready,
    Drain,
    /// As drain: whether it is checked meanwhile makes no difference to its flows.
    Maint,
}

/// One answer; what is `None` it does not speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    pub percent: Option<u32>,
    pub wish: Option<Wish>,
    /// `Some(None)`: it is up.
    pub down: Option<Option<String>>,
    /// It has a limit of connections, which nobody here counts.
    pub maxconn: bool,
}

impl Reply {
    /// The first line of an answer.
    ///
    /// # Errors
    /// In words, where no word of it is known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let line = text.split(['\r', '\n', '\0']).next().unwrap_or_default();
        let (words, about) = line.split_once('#').unwrap_or((line, ""));
        let mut reply = Self::default();
        let mut known = false;
        for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            let word = word.to_ascii_lowercase();
            match &*word {
                "up" => reply.down = Some(None),
                "down" | "fail" | "failed" | "stopped" => {
                    let about: String = about.trim().chars().filter(|c| !c.is_control()).take(120).collect();
                    let said = if about.is_empty() { word.clone() } else { format!("{word}: {about}") };
                    reply.down = Some(Some(said));
                }
                "ready" => reply.wish = Some(Wish::Ready),
                "drain" => reply.wish = Some(Wish::Drain),
                "maint" => reply.wish = Some(Wish::Maint),
                _ if word.starts_with("maxconn:") => reply.maxconn = true,
                _ => match word.strip_suffix('%').and_then(|number| number.parse::<u32>().ok()) {
                    Some(percent) => reply.percent = Some(percent.min(MOST)),
                    // Later words of the protocol must not cost us the ones we know.
                    None => continue,
                },
            }
            known = true;
        }
        if known { Ok(reply) } else { Err(format!("no word of `{}` is known", line.trim().escape_debug())) }
    }
}

/// What holds for a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Of its weight; a multiple of [`STEP`].
    percent: u32,
    wish: Wish,
    /// What it said when it said that it is down.
    down: Option<String>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { percent: 100, wish: Wish::Ready, down: None }
    }
}

impl Standing {
    pub fn hear(&mut self, reply: &Reply) {
        if let Some(percent) = reply.percent {
            // The smallest step is for whoever wants little, not nothing.
            let step = |percent: u32| ((percent + STEP / 2) / STEP * STEP).max(STEP);
            self.percent = match (self.percent, percent) {
                (_, 0) => 0,
                (now, said) if now == 0 || now.abs_diff(said) >= STEP => step(said),
                (now, _) => now,
            };
        }
        if let Some(wish) = reply.wish {
            self.wish = wish;
        }
        if let Some(down) = &reply.down {
            self.down.clone_from(down);
        }
    }

    pub fn is_draining(&self) -> bool {
        self.wish != Wish::Ready
    }

    pub fn down(&self) -> Option<&str> {
        self.down.as_deref()
    }

    /// What is left of a weight.
    pub fn weight(&self, configured: u32) -> u32 {
        if configured == 0 || self.percent == 0 {
            return 0;
        }
        let weight = u64::from(configured) * u64::from(self.percent) / 100;
        u32::try_from(weight.clamp(1, u64::from(u16::MAX))).unwrap_or(configured)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match (&self.down, self.wish) {
            (Some(down), _) => return f.write_str(down),
            (None, Wish::Ready) => "ready",
            (None, Wish::Drain) => "drain",
            (None, Wish::Maint) => "maint",
        };
        write!(f, "{word} {}%", self.percent)
    }
}

/// Whom to ask.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub key: Key,
    /// The backend's; the agent may have another one.
    pub backend: SocketAddr,
    pub agent: Agent,
}

/// Sent for every answer that is another one than the last.
pub type Answer = (Key, Reply);

/// Asks all agents. Dropping it ends that.
#[derive(Debug)]
pub struct Agents {
    answers: mpsc::UnboundedSender<Answer>,
    asked: HashMap<Key, (Target, AbortHandle)>,
    random: Random,
}

impl Agents {
    pub fn new(answers: mpsc::UnboundedSender<Answer>) -> Self {
        Self { answers, asked: HashMap::new(), random: Random::new() }
    }

    /// Asks exactly these from now on; says who is another backend than before under its name.
    ///
    /// # Panics
    /// Outside a tokio runtime, where there is somebody to ask.
    pub fn set(&mut self, targets: Vec<Target>) -> Vec<Key> {
        let wanted: HashSet<&Key> = targets.iter().map(|target| &target.key).collect();
        self.asked.retain(|key, (_, task)| {
            let stays = wanted.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
        let mut others = Vec::new();
        for target in targets {
            let known = self.asked.get(&target.key);
            if known.is_some_and(|(old, _)| *old == target) {
                continue;
            }
            if let Some((old, task)) = known {
                task.abort();
                if old.backend != target.backend {
                    others.push(target.key.clone());
                }
            }
            let now = tokio::time::Instant::now().into_std();
            let (schedule, first) = Schedule::start(target.agent.interval, JITTER, now, self.random.unit());
            let asking = ask_on(target.clone(), schedule, first.into(), self.answers.clone());
            self.asked.insert(target.key.clone(), (target, tokio::spawn(asking).abort_handle()));
        }
        others
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.asked.values().for_each(|(_, task)| task.abort());
    }
}

async fn ask_on(
    target: Target,
    mut schedule: Schedule,
    mut due: tokio::time::Instant,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let Key { service, backend } = &target.key;
    let address = SocketAddr::new(target.agent.address.unwrap_or(target.backend.ip()), target.agent.port);
    let mut random = Random::new();
    let mut last: Option<Reply> = None;
    let (mut silent, mut noticed) = (false, false);
    loop {
        sleep_until(due).await;
        match timeout(target.agent.timeout, ask(address, &target.agent.send)).await {
            Ok(Ok(reply)) => {
                silent = false;
                if reply.maxconn && !noticed {
                    noticed = true;
                    tracing::info!(
                        service,
                        backend,
                        "its agent speaks of maxconn, which is ignored: connections are not counted"
                    );
                }
                if last.as_ref() != Some(&reply) {
                    // Nobody listens any more only while the process is stopping.
                    let _ = answers.send((target.key.clone(), reply.clone()));
                    last = Some(reply);
                }
            }
            outcome => {
                let why = match outcome {
                    Ok(Err(why)) => why,
                    _ => format!("no answer within {:?}", target.agent.timeout),
                };
                // Once, until it answers again.
                if !silent {
                    tracing::warn!(service, backend, %address, why, "its agent says nothing; what it said before holds");
                }
                silent = true;
            }
        }
        let now = tokio::time::Instant::now().into_std();
        due = schedule.next(target.agent.interval, now, random.signed()).into();
    }
}

async fn ask(address: SocketAddr, send: &[u8]) -> Result<Reply, String> {
    let failed = |e: std::io::Error| format!("the connection failed: {e}");
    let mut stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect: {e}"))?;
    stream.write_all(send).await.map_err(failed)?;
    let mut answer = Vec::new();
    // To the end of the line, or of the answer: not every agent sends the first, or closes in time.
    while answer.len() < ANSWER && !answer.contains(&b'\n') {
        let mut chunk = [0; ANSWER];
        match stream.read(&mut chunk).await.map_err(failed)? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    Reply::parse(&String::from_utf8_lossy(&answer))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn words_are_haproxys_in_any_order() {
        let down = |text: &str| Some(Some(text.to_owned()));
        let table = [
            ("75%\n", Reply { percent: Some(75), ..Reply::default() }),
            ("up 100%\r\n", Reply { percent: Some(100), down: Some(None), ..Reply::default() }),
            ("drain", Reply { wish: Some(Wish::Drain), ..Reply::default() }),
            ("MAINT\n", Reply { wish: Some(Wish::Maint), ..Reply::default() }),
            ("ready,up,50%\n", Reply { percent: Some(50), wish: Some(Wish::Ready), down: Some(None), maxconn: false }),
            ("down#disk full 100%\n", Reply { down: down("down: disk full 100%"), ..Reply::default() }),
            ("fail # oom\n", Reply { down: down("fail: oom"), ..Reply::default() }),
            ("stopped\ndrain\n", Reply { down: down("stopped"), ..Reply::default() }),
            ("up maxconn:30 weight 7", Reply { down: Some(None), maxconn: true, ..Reply::default() }),
            ("99999%", Reply { percent: Some(MOST), ..Reply::default() }),
        ];
        for (text, reply) in table {
            assert_eq!(Reply::parse(text), Ok(reply), "{text:?}");
        }
        for bad in ["", "\n", "hello\n", "%", "-5%", "#up", "5 %", "\u{fffd}\n"] {
            assert!(Reply::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_weight_that_wavers_stays_where_it_is() {
        let mut standing = Standing::default();
        let mut hear = |percent| {
            standing.hear(&Reply { percent: Some(percent), ..Reply::default() });
            (standing.percent, standing.weight(200))
        };
        for (said, follows) in [
            (98, 100),
            (96, 100),
            (95, 95),
            (99, 95),
            (100, 100),
            (74, 75),
            (78, 75),
            (71, 75),
            (80, 80),
            (1, 5),
            (0, 0),
            (1, 5),
            (9, 5),
            (150, 150),
        ] {
            assert_eq!(hear(said), (follows, 2 * follows), "after {said} %");
        }
        standing.percent = 5;
        assert_eq!((standing.weight(3), standing.weight(0)), (1, 0), "little is not nothing");
        standing.percent = MOST;
        assert_eq!(standing.weight(60_000), 65_535);
    }

    #[test]
    fn what_was_said_holds_until_something_else_is() {
        let mut standing = Standing::default();
        for (text, shown, draining) in [
            ("50%", "ready 50%", false),
            ("drain", "drain 50%", true),
            ("down#oom", "down: oom", true),
            ("100%", "down: oom", true),
            ("up", "drain 100%", true),
            ("maint", "maint 100%", true),
            ("ready", "ready 100%", false),
        ] {
            standing.hear(&Reply::parse(text).unwrap());
            assert_eq!((standing.to_string().as_str(), standing.is_draining()), (shown, draining), "after {text}");
        }
        let text = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing);
    }

    fn target(address: SocketAddr) -> Target {
        let agent = Agent {
            address: None,
            port: address.port(),
            send: b"who\n".to_vec(),
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
        };
        Target { key: Key { service: "web".into(), backend: "one".into() }, backend: address, agent }
    }

    #[tokio::test]
    async fn an_answer_is_told_when_it_is_another_one_and_silence_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new("75%\n"));
        let word = Arc::clone(&says);
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = [0; 4];
                if stream.read_exact(&mut question).await.is_ok() && question == *b"who\n" {
                    *count.lock().unwrap() += 1;
                    let word = *word.lock().unwrap();
                    let _ = stream.write_all(word.as_bytes()).await;
                }
            }
        });
        let wait_for = async |n: u32| {
            let from = *asked.lock().unwrap();
            while *asked.lock().unwrap() < from + n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (sender, mut answers) = mpsc::unbounded_channel();
        let mut agents = Agents::new(sender);
        agents.set(vec![target(address)]);
        assert_eq!(answers.recv().await.unwrap().1.percent, Some(75));
        wait_for(4).await;
        assert!(answers.try_recv().is_err(), "it said the same again");
        *says.lock().unwrap() = "nonsense\n";
        wait_for(4).await;
        assert!(answers.try_recv().is_err(), "it said nothing that is known");
        *says.lock().unwrap() = "drain";
        assert_eq!(answers.recv().await.unwrap().1.wish, Some(Wish::Drain));
        // The same again keeps its task; another address is another backend.
        assert_eq!(agents.set(vec![target(address)]), []);
        let mut moved = target(address);
        moved.backend.set_port(1);
        assert_eq!(agents.set(vec![moved.clone()]), [moved.key]);
        agents.set(vec![]);
        tokio::time::sleep(Duration::from_millis(50)).await;
        while answers.try_recv().is_ok() {}
        *says.lock().unwrap() = "50%";
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(answers.try_recv().is_err(), "nobody is asked any more");
    }
}
