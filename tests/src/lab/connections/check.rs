//! The judge: holds what clients wrote down against what servers wrote down, and both against the wire.
//!
//! TCP cannot continue a connection on another host: a packet that goes astray meets a kernel that knows nothing of it
//! and answers RST. So a moved connection is a broken one, and "answered by another server" would take a bug at both
//! ends; it is counted all the same. The trap is to ask the clients alone: a harness that opens a new connection
//! where one broke looks perfect. Here every connection of a server must be exactly one client's and the other way
//! round, with the same requests, and no RST may pass the clients' wire before its connection has said goodbye.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::fleet::{Connection, End, Why};
use super::log::Log;
use super::servers::{Accepted, Ended};

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub connections: usize,
    pub answers: u64,
    /// Connections that ended without their client's asking, by number.
    pub broken: Vec<u32>,
    /// Connections that were answered by somebody else than at first.
    pub moved: Vec<u32>,
    /// What one end knows and the other does not, one sentence each.
    pub contradictions: Vec<String>,
    /// RSTs on the clients' wire that met connections which were not over.
    pub resets: u64,
}

impl Verdict {
    /// Judges the records of both ends.
    pub fn of(clients: &[Connection], servers: &[Accepted], resets: u64) -> Self {
        let mut verdict = Self {
            connections: clients.len(),
            answers: clients.iter().map(|c| u64::from(c.answered)).sum(),
            broken: clients.iter().filter(|c| broken(c).is_some()).map(|c| c.number).collect(),
            moved: clients.iter().filter(|c| !c.moved.is_empty()).map(|c| c.number).collect(),
            contradictions: Vec::new(),
            resets,
        };
        // Ports are used again in time, so an address alone is not a name; the accept's number is.
        let mut of_client: HashMap<u32, Vec<&Accepted>> = HashMap::new();
        for accepted in servers {
            match accepted.connection {
                Some(connection) => of_client.entry(connection).or_default().push(accepted),
                None => verdict.contradict(format!(
                    "backend {} accepted {} and was never asked anything; it ended {:?}",
                    accepted.server.backend, accepted.client, accepted.ended
                )),
            }
        }
        for client in clients {
            let theirs = of_client.remove(&client.number).unwrap_or_default();
            verdict.compare(client, &theirs);
        }
        for (number, accepted) in of_client {
            verdict.contradict(format!(
                "connection #{number}, which no client has, was accepted {} times",
                accepted.len()
            ));
        }
        verdict.contradictions.sort();
        verdict
    }

    fn contradict(&mut self, what: String) {
        self.contradictions.push(what);
    }

    /// One client's connection, and what servers say is its.
    fn compare(&mut self, client: &Connection, theirs: &[&Accepted]) {
        let number = client.number;
        let is_broken = broken(client).is_some();
        let accepted = match theirs {
            // Requests may be lost with the connection, then no server knows whose it was.
            [] if client.answered == 0 && (is_broken || client.sent == 0) => return,
            [] => return self.contradict(format!("#{number} was answered {} times by nobody", client.answered)),
            [one] => one,
            [..] => {
                let who: Vec<String> = theirs.iter().map(|a| a.server.backend.to_string()).collect();
                return self.contradict(format!("#{number} was accepted by backends {}", who.join(", ")));
            }
        };
        if client.local != Some(accepted.client) {
            self.contradict(format!("#{number} is {:?} here and {} there", client.local, accepted.client));
        }
        if client.server.is_some_and(|server| server != accepted.server) {
            self.contradict(format!(
                "#{number} was answered by {:?}, accepted by {:?}",
                client.server, accepted.server
            ));
        }
        if accepted.out_of_order > 0 || accepted.first != 1 {
            self.contradict(format!(
                "#{number}'s requests came out of order {} times, beginning with {}",
                accepted.out_of_order, accepted.first
            ));
        }
        // The last request of a broken connection may have been lost, or its answer.
        let all = accepted.requests == client.sent && client.answered == client.sent;
        let all_but_one = client.answered <= accepted.requests && accepted.requests <= client.sent;
        if !(all || is_broken && all_but_one && client.sent <= client.answered + 1) {
            self.contradict(format!(
                "#{number} sent {} requests, {} arrived, {} were answered",
                client.sent, accepted.requests, client.answered
            ));
        }
        if !is_broken && accepted.ended != Some(Ended::InOrder) {
            self.contradict(format!("#{number} closed in order, its server says {:?}", accepted.ended));
        }
    }

    /// Not one connection broke, moved or is in dispute, and no segment was refused.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.moved.is_empty() && self.contradictions.is_empty() && self.resets == 0
    }
}

/// Why a connection ended, if that was not its client's wish.
pub fn broken(connection: &Connection) -> Option<(Instant, &Why)> {
    match &connection.end {
        Some((at, End::Broken(why))) => Some((*at, why)),
        _ => None,
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections, {} requests answered: {} broken, {} moved, {} in dispute; {} RSTs",
            self.connections,
            self.answers,
            self.broken.len(),
            self.moved.len(),
            self.contradictions.len(),
            self.resets
        )
    }
}

/// How many of each are told in full.
const TOLD: usize = 10;

/// The verdict with the stories of the first connections it is about, for whoever has to find out why.
pub fn report(verdict: &Verdict, clients: &[Connection], servers: &[Accepted], log: &Log) -> String {
    let mut out = format!("{verdict}\n");
    let mut by_time: Vec<&Connection> = clients.iter().filter(|c| broken(c).is_some() || !c.moved.is_empty()).collect();
    by_time.sort_by_key(|c| broken(c).map(|(at, _)| at).or(c.moved.first().map(|m| m.1)));
    for connection in by_time.iter().take(TOLD) {
        out += &story(connection, servers, log);
    }
    if by_time.len() > TOLD {
        out += &format!("… and {} more\n", by_time.len() - TOLD);
    }
    let mut after: Vec<(&str, usize)> = Vec::new();
    for (at, _) in by_time.iter().filter_map(|c| broken(c)) {
        let what = log.before(at).map_or("nothing yet", |e| e.what.as_str());
        match after.iter_mut().find(|(w, _)| *w == what) {
            Some((_, n)) => *n += 1,
            None => after.push((what, 1)),
        }
    }
    for (what, count) in after {
        out += &format!("{count} broke after: {what}\n");
    }
    for contradiction in verdict.contradictions.iter().take(TOLD) {
        out += &format!("in dispute: {contradiction}\n");
    }
    if verdict.contradictions.len() > TOLD {
        out += &format!("… and {} more in dispute\n", verdict.contradictions.len() - TOLD);
    }
    out
}

/// One connection's life, with what was going on around its end.
fn story(c: &Connection, servers: &[Accepted], log: &Log) -> String {
    let local = c.local.map_or_else(|| "?".to_owned(), |a: SocketAddr| a.to_string());
    let kind = if c.visitor { ", a visitor" } else { "" };
    let mut out = format!("#{}{kind}: {local} → {}\n", c.number, c.target);
    let mut events = vec![(c.started, "SYN".to_owned())];
    let by = c.server.map_or_else(|| "nobody".to_owned(), |s| format!("backend {}", s.backend));
    let answer = format!("answer {} by {by}, the slowest took {}", c.answered, millis(c.slowest));
    events.extend(c.last_answer.map(|when| (when, answer)));
    events.extend(c.moved.iter().map(|(who, when)| (*when, format!("an answer by backend {} instead", who.backend))));
    events.extend(c.last_sent.map(|when| (when, format!("request {}", c.sent))));
    if let Some((when, why)) = broken(c) {
        events.push((when, why.to_string()));
        let change = log.before(when);
        events.extend(change.map(|e| (e.at, format!("{}, {} before the end", e.what, millis(when - e.at)))));
    }
    // One that nobody asked anything is known by its address alone.
    let its = |a: &&Accepted| a.connection.map_or(Some(a.client) == c.local, |number| number == c.number);
    for a in servers.iter().filter(its) {
        let ended = match &a.ended {
            None => "still open".to_owned(),
            Some(Ended::InOrder) => "closed in order".to_owned(),
            Some(Ended::Broken(why)) => why.clone(),
        };
        let Accepted { server, first, last, .. } = a;
        events.push((
            a.at,
            format!("backend {} accepts; it will see requests {first} to {last}: {ended}", server.backend),
        ));
    }
    events.sort_by_key(|e| e.0);
    for (when, what) in events {
        out += &format!("    {}  {what}\n", log.time(when));
    }
    out
}

fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::super::wire::Server;
    use super::*;

    const SERVER: Server = Server { backend: 3, accept: 0 };

    fn client() -> Connection {
        let now = Instant::now();
        Connection {
            number: 7,
            visitor: false,
            local: Some("192.0.2.10:40000".parse().unwrap()),
            target: "203.0.113.100:7000".parse().unwrap(),
            started: now,
            server: Some(SERVER),
            sent: 5,
            answered: 5,
            last_sent: Some(now),
            last_answer: Some(now),
            slowest: Duration::from_millis(1),
            moved: Vec::new(),
            end: Some((now, End::InOrder)),
        }
    }

    fn server() -> Accepted {
        Accepted {
            server: SERVER,
            client: "192.0.2.10:40000".parse().unwrap(),
            at: Instant::now(),
            connection: Some(7),
            first: 1,
            last: 5,
            requests: 5,
            out_of_order: 0,
            ended: Some(Ended::InOrder),
        }
    }

    fn break_it(c: &mut Connection) {
        c.end = Some((Instant::now(), End::Broken(Why::Error(Errno::ECONNRESET))));
    }

    #[test]
    fn two_ends_that_agree_are_clean() {
        assert!(Verdict::of(&[client()], &[server()], 0).is_clean());
    }

    #[test]
    fn a_client_that_was_reset_is_broken_and_that_is_all() {
        let (mut c, mut s) = (client(), server());
        c.sent = 6;
        break_it(&mut c);
        s.ended = None;
        let verdict = Verdict::of(&[c], &[s], 1);
        assert_eq!((verdict.broken, verdict.contradictions), (vec![7], vec![]));
    }

    #[test]
    fn anything_less_than_agreement_is_seen() {
        type Change = fn(&mut Connection, &mut Accepted);
        let table: &[(&str, Change)] = &[
            ("broken", |c, _| break_it(c)),
            ("never opened", |c, _| c.end = Some((Instant::now(), End::Broken(Why::Unopened(None))))),
            ("answered by another backend", |c, _| c.moved = vec![(Server { backend: 4, accept: 9 }, Instant::now())]),
            ("accepted by another backend than answered", |_, s| s.server.backend = 4),
            ("accepted twice by the same", |_, s| s.server.accept = 4),
            ("a lost request", |_, s| s.requests = 4),
            ("an answer that nobody gave", |_, s| s.requests = 6),
            ("an answer that did not come", |c, _| c.answered = 4),
            ("a request repeated", |_, s| s.out_of_order = 1),
            ("a server that joined later", |_, s| s.first = 2),
            ("another client's address", |_, s| s.client.set_port(1)),
            ("another client's number", |_, s| s.connection = Some(8)),
            ("a connection that was never asked anything", |_, s| s.connection = None),
            ("a server that was reset", |_, s| s.ended = Some(Ended::Broken("reset".into()))),
            ("a server that was left behind", |_, s| s.ended = None),
        ];
        for (what, change) in table {
            let (mut c, mut s) = (client(), server());
            change(&mut c, &mut s);
            assert!(!Verdict::of(&[c], &[s], 0).is_clean(), "{what}");
        }
        assert!(!Verdict::of(&[client()], &[], 0).is_clean(), "a client without a server");
        assert!(!Verdict::of(&[], &[server()], 0).is_clean(), "a server without a client");
        assert!(!Verdict::of(&[client()], &[server(), server()], 0).is_clean(), "two servers of one client");
        assert!(!Verdict::of(&[client()], &[server()], 1).is_clean(), "a RST that nobody admits");
    }

    #[test]
    fn the_report_names_the_change_that_came_before() {
        let mut log = Log::new();
        log.note("weight of n3 from 100 to 300");
        let (mut c, mut s) = (client(), server());
        break_it(&mut c);
        s.ended = None;
        let verdict = Verdict::of(std::slice::from_ref(&c), std::slice::from_ref(&s), 1);
        let report = report(&verdict, &[c], &[s], &log);
        for part in ["#7: 192.0.2.10:40000", "ECONNRESET", "1 broke after: weight of n3", "backend 3 accepts"] {
            assert!(report.contains(part), "no {part} in {report}");
        }
    }
}
