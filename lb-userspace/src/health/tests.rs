//! The checks against real sockets on the loopback, and the checker on a stopped clock.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::{Instant, sleep, timeout};

use super::probe::Attempt;
use super::*;
use crate::api::types::Health;
use crate::model::{Check, CheckKind, HealthCheck, HttpCheck, Need};

/// For checks that are meant to run out of time.
const LIMIT: Duration = Duration::from_millis(300);
/// For checks that are answered; long, because test machines are busy.
const PATIENT: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// A server on a free port that does `serve` with each connection.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that reads a request's head and answers with these bytes, then closes.
async fn answering(answer: impl Into<Vec<u8>>) -> SocketAddr {
    let answer: Arc<Vec<u8>> = Arc::new(answer.into());
    server(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            read_head(&mut stream).await;
            stream.write_all(&answer).await.unwrap();
        }
    })
    .await
}

/// Keeps a connection open and says nothing.
async fn hold(stream: TcpStream) {
    pending::<()>().await;
    drop(stream);
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A port that refuses: bound, so that nobody else gets it, and not listening.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A listener whose queue is full, so that the kernel drops further SYNs: nobody answers.
async fn full() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 16, "the queue never fills");
    }
    (listener, waiting, address)
}

/// Sockets of this process connected to `address`, by the kernel's own table; closed ones have no inode.
fn sockets_to(address: SocketAddr) -> usize {
    let remote = format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let open = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[2] == remote && fields[9] != "0"
    };
    table.lines().skip(1).filter(open).count()
}

/// Waits until this process has `count` sockets connected to `address`, and no longer than is decent.
async fn only_sockets_left(address: SocketAddr, count: usize) {
    let start = Instant::now();
    while sockets_to(address) != count {
        assert!(start.elapsed() < 2 * SECOND, "{} sockets, expected {count}", sockets_to(address));
        sleep(Duration::from_millis(10)).await;
    }
}

fn get() -> HttpCheck {
    HttpCheck {
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        headers: vec![],
        expect: vec![(200, 299)],
        body_contains: None,
        body_matches: None,
    }
}

fn is_failure(outcome: &Outcome, reason: &str) {
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    assert_eq!(outcome.reason(), reason);
}

mod tcp_check {
    use super::*;

    #[tokio::test]
    async fn a_completed_handshake_is_all_it_takes() {
        for address in [server(|stream| async move { drop(stream) }).await, server(hold).await] {
            let outcome = tcp::check(Attempt::now(address, PATIENT)).await;
            assert!(
                matches!(&outcome, Outcome::Passed { reason, latency, .. } if reason == "connected" && *latency < PATIENT)
            );
        }
    }

    #[tokio::test]
    async fn a_closed_port_refuses_and_a_full_queue_is_silent() {
        let (_socket, address) = refusing();
        is_failure(&tcp::check(Attempt::now(address, PATIENT)).await, "connection refused");
        let (_listener, _waiting, address) = full().await;
        let start = Instant::now();
        is_failure(&tcp::check(Attempt::now(address, LIMIT)).await, "no answer within 300ms");
        assert!((LIMIT..LIMIT + 2 * SECOND).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_address_without_a_route_has_none() {
        // 240.0.0.0/4 is reserved (RFC 1112 §4); Linux refuses 255.255.255.255 for TCP without sending anything.
        let outcome = tcp::check(Attempt::now("255.255.255.255:80".parse().unwrap(), PATIENT)).await;
        is_failure(&outcome, "no route to its network");
    }

    #[tokio::test]
    async fn a_server_that_greets_late_sees_a_clean_end_and_no_reset() {
        let (saw, mut seen) = mpsc::unbounded_channel();
        let address = server(move |mut stream| {
            let saw = saw.clone();
            async move {
                sleep(Duration::from_millis(50)).await;
                stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
                sleep(Duration::from_millis(20)).await;
                // A reset after a FIN does not show in reads, only here.
                let error = stream.take_error().unwrap().map(|e| e.kind());
                let end = stream.read(&mut [0; 64]).await.map_err(|e| e.kind());
                saw.send((error, end)).unwrap();
            }
        })
        .await;
        assert!(matches!(tcp::check(Attempt::now(address, PATIENT)).await, Outcome::Passed { .. }));
        assert_eq!(seen.recv().await.unwrap(), (None, Ok(0)));
    }

    #[tokio::test]
    async fn no_socket_outlives_its_check_for_long() {
        let (_listener, _waiting, silent) = full().await;
        let occupied = sockets_to(silent);
        let holding = server(hold).await;
        for _ in 0..50 {
            tcp::check(Attempt::now(holding, PATIENT)).await;
        }
        assert!(sockets_to(holding) > 0, "the goodbye takes its time");
        tcp::check(Attempt::now(silent, LIMIT)).await;
        only_sockets_left(holding, 0).await;
        only_sockets_left(silent, occupied).await;
    }
}

mod http_check {
    use super::*;

    #[tokio::test]
    async fn the_status_decides() {
        let table = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Ok("status 200")),
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok("status 204")),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", Ok("status 200")),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Ok("status 200")),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Ok("status 200")),
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", Err("status 503, expected 200-299")),
            ("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", Err("status 302, expected 200-299")),
            ("", Err("connection closed before a response")),
            ("HTTP/1.1 200", Err("connection closed before a response")),
            ("SSH-2.0-OpenSSH_10.0\r\n", Err("the answer is not HTTP/1")),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
                Err("status 200, but the connection closed before the end of the response"),
            ),
        ];
        for (answer, expected) in table {
            let outcome = http::check(Attempt::now(answering(answer).await, PATIENT), &get()).await;
            match expected {
                Ok(reason) => assert!(
                    matches!(&outcome, Outcome::Passed { reason: r, .. } if r == reason),
                    "{answer:?}: {outcome:?}"
                ),
                Err(reason) => is_failure(&outcome, reason),
            }
        }
    }

    #[tokio::test]
    async fn a_redirect_is_a_code_like_any_other() {
        let address = answering("HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\n\r\n").await;
        let check = HttpCheck { expect: vec![(200, 200), (301, 302)], ..get() };
        assert_eq!(http::check(Attempt::now(address, PATIENT), &check).await.reason(), "status 301");
    }

    #[tokio::test]
    async fn the_request_is_as_configured() {
        let (saw, mut seen) = mpsc::unbounded_channel();
        let address = server(move |mut stream| {
            let saw = saw.clone();
            async move {
                saw.send(read_head(&mut stream).await).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            }
        })
        .await;
        let check = HttpCheck {
            method: "HEAD".into(),
            path: "/ready?full=1".into(),
            host: Some("shop.example".into()),
            headers: vec![("X-Probe".into(), "lb 1".into())],
            ..get()
        };
        assert_eq!(http::check(Attempt::now(address, PATIENT), &check).await.reason(), "status 200");
        let head = seen.recv().await.unwrap();
        let mut lines: Vec<&str> = head.trim_end().lines().collect();
        assert_eq!(lines.remove(0), "HEAD /ready?full=1 HTTP/1.1");
        lines.sort_unstable();
        let agent = concat!("User-Agent: sluice/", env!("CARGO_PKG_VERSION"));
        assert_eq!(lines, ["Connection: close", "Host: shop.example", agent, "X-Probe: lb 1"]);
    }

    /// One deadline covers all: no server can hold a check longer, whatever it dribbles.
    #[tokio::test]
    async fn a_slow_server_is_given_up_in_time() {
        async fn dribble(mut stream: TcpStream, text: &'static str, pause: Duration) {
            read_head(&mut stream).await;
            for byte in text.bytes() {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(pause).await;
            }
            pending().await
        }
        let never = server(hold).await;
        let dribbling = server(|s| dribble(s, "HTTP/1.1 200 OK\r\n\r\n", Duration::from_millis(50))).await;
        let by_the_second = server(|s| dribble(s, "HTTP/1.1 200 OK\r\n\r\n", SECOND)).await;
        let hanging = server(|s| dribble(s, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", Duration::ZERO)).await;
        let (_listener, _waiting, full) = full().await;
        for (address, reason) in [
            (never, "connected, but no response within 300ms"),
            (dribbling, "connected, but no response within 300ms"),
            (by_the_second, "connected, but no response within 300ms"),
            (hanging, "connected, but status 200 was not followed by a whole response within 300ms"),
            (full, "no answer within 300ms"),
        ] {
            let start = Instant::now();
            let outcome = http::check(Attempt::now(address, LIMIT), &get()).await;
            is_failure(&outcome, reason);
            assert_eq!(outcome.latency(), None);
            assert!((LIMIT..LIMIT + 2 * SECOND).contains(&start.elapsed()), "{reason}: {:?}", start.elapsed());
        }
        for address in [never, dribbling, by_the_second, hanging] {
            only_sockets_left(address, 0).await;
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_read_so_far_and_no_further() {
        let (saw, mut seen) = mpsc::unbounded_channel();
        let address = server(move |mut stream| {
            let saw = saw.clone();
            async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut sent = 0;
                while let Ok(n) = stream.write(&[b'x'; 8192]).await {
                    sent += n;
                }
                saw.send(sent).unwrap();
            }
        })
        .await;
        let start = Instant::now();
        assert_eq!(http::check(Attempt::now(address, PATIENT), &get()).await.reason(), "status 200");
        assert!(start.elapsed() < PATIENT);
        assert!(seen.recv().await.unwrap() > http::BODY_LIMIT, "the server saw us leave");
    }

    #[tokio::test]
    async fn a_refusal_and_a_reset_are_told_apart() {
        let (_socket, address) = refusing();
        is_failure(&http::check(Attempt::now(address, PATIENT), &get()).await, "connection refused");
        let resetting = server(|mut stream| async move {
            read_head(&mut stream).await;
            stream.set_zero_linger().unwrap();
        })
        .await;
        is_failure(&http::check(Attempt::now(resetting, PATIENT), &get()).await, "connection reset before a response");
    }
}

fn key(backend: impl Into<String>) -> Key {
    Key { service: "web".into(), backend: backend.into() }
}

fn tcp_target(backend: impl Into<String>, address: SocketAddr, interval: Duration) -> Target {
    let check = HealthCheck {
        checks: vec![Check { kind: CheckKind::Tcp, address: None, port: None }],
        need: Need::All,
        interval,
        fast_interval: interval,
        down_interval: interval,
        timeout: interval / 2,
        rise: 2,
        fall: 3,
        jitter: 0.1,
    };
    Target { key: key(backend), address, check }
}

fn http_target(backend: &str, address: SocketAddr, interval: Duration) -> Target {
    let mut target = tcp_target(backend, address, interval);
    target.check.checks[0].kind = CheckKind::Http(get());
    target
}

mod on_a_stopped_clock {
    use super::*;

    /// When each check of each backend began, since the start.
    type Times = Arc<Mutex<Vec<(String, Duration)>>>;

    /// A checker whose checks take as long as `takes` says and find `finds`; tokio moves its clock forward
    /// whenever all tasks sleep.
    fn checker(
        takes: impl Fn(&str) -> Duration + Send + Sync + 'static,
        finds: impl Fn(&str) -> Outcome + Send + Sync + 'static,
    ) -> (Checker, UnboundedReceiver<Transition>, Times) {
        let (sender, transitions) = mpsc::unbounded_channel();
        let times = Times::default();
        let (begun, start) = (Arc::clone(&times), Instant::now());
        let (takes, finds) = (Arc::new(takes), Arc::new(finds));
        let checker = Checker::with_probe(sender, move |target| {
            let (begun, takes, finds) = (Arc::clone(&begun), Arc::clone(&takes), Arc::clone(&finds));
            Box::pin(async move {
                let name = &target.key.backend;
                begun.lock().unwrap().push((name.clone(), start.elapsed()));
                sleep(takes(name)).await;
                finds(name)
            })
        });
        (checker, transitions, times)
    }

    fn passed() -> Outcome {
        Outcome::passed("connected", Duration::from_millis(1))
    }

    fn failed() -> Outcome {
        Outcome::Failed { reason: "connection refused".into(), latency: None }
    }

    fn target(backend: impl Into<String>) -> Target {
        tcp_target(backend, "192.0.2.1:80".parse().unwrap(), SECOND)
    }

    fn of(times: &Times, backend: &str) -> Vec<Duration> {
        times.lock().unwrap().iter().filter(|(name, _)| name == backend).map(|(_, at)| *at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_checks_neither_drift_nor_leave_their_jitter() {
        let (mut checker, _transitions, times) = checker(|_| Duration::from_millis(7), |_| passed());
        checker.set_targets(vec![target("a")]);
        sleep(1_001 * SECOND).await;
        let at = of(&times, "a");
        assert!(at[0] <= schedule::INITIAL_SPREAD + Duration::from_millis(1));
        assert!((1_000..=1_002).contains(&at.len()), "{} checks", at.len());
        // Every check is within 10 % (and the timer's millisecond) of a point of one grid.
        let off: Vec<f64> = at[1..].iter().enumerate().map(|(i, t)| t.as_secs_f64() - i as f64).collect();
        let (low, high) = off.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        assert!(high - low <= 0.202, "checks stray over {:.3} s", high - low);
        assert!(high - low > 0.15, "no jitter: {:.3} s", high - low);
    }

    /// One target's checks, without keeping them all: how many, and how far the earliest and the latest strayed from a
    /// grid of one second.
    #[derive(Clone, Copy, Debug)]
    struct Strayed {
        checks: u32,
        low: f64,
        high: f64,
    }

    /// `targets` that are checked every second for `seconds`, and one among them whose checks take two and a half. Stated
    /// bounds: every other target has one check a second, none of them strays from its grid by more than its jitter of
    /// 10 % to either side, and no tenth of a second has more checks than the average by six standard deviations of
    /// checks that know nothing of each other.
    async fn neither_drift_nor_bursts(targets: usize, seconds: u64) {
        let start = Instant::now();
        let strayed = Arc::new(Mutex::new(vec![Strayed { checks: 0, low: f64::MAX, high: f64::MIN }; targets]));
        let tenths = Arc::new(Mutex::new(vec![0u32; 10 * (seconds as usize + 1)]));
        let (sender, _transitions) = mpsc::unbounded_channel();
        let (each, all) = (Arc::clone(&strayed), Arc::clone(&tenths));
        let mut checker = Checker::with_probe(sender, move |target| {
            let (each, all) = (Arc::clone(&each), Arc::clone(&all));
            Box::pin(async move {
                let at = start.elapsed();
                let i: usize = target.key.backend.parse().unwrap();
                {
                    let one = &mut each.lock().unwrap()[i];
                    // The first comes as soon as it can, the grid begins with the second.
                    if one.checks > 0 {
                        let off = at.as_secs_f64() - f64::from(one.checks);
                        (one.low, one.high) = (one.low.min(off), one.high.max(off));
                    }
                    one.checks += 1;
                }
                if let Some(tenth) = all.lock().unwrap().get_mut(at.as_millis() as usize / 100) {
                    *tenth += 1;
                }
                if i == 0 {
                    sleep(Duration::from_millis(2_500)).await;
                }
                passed()
            })
        });
        checker.set_targets((0..targets).map(|i| target(i.to_string())).collect());
        sleep(SECOND * seconds as u32).await;

        let strayed = strayed.lock().unwrap();
        // 0.2 s of jitter, and the timer's millisecond.
        let bad = strayed[1..]
            .iter()
            .filter(|one| !(seconds..=seconds + 2).contains(&u64::from(one.checks)) || one.high - one.low > 0.202);
        assert_eq!(bad.clone().count(), 0, "{:?} of {targets} targets", bad.take(3).collect::<Vec<_>>());
        let expected = seconds as f64 / 3.0;
        let slow = f64::from(strayed[0].checks);
        assert!((expected * 0.8..expected * 1.2 + 2.0).contains(&slow), "{slow} checks of the slow one");
        // Until the grids have begun, everybody is looked at as soon as can be.
        let tenths = &tenths.lock().unwrap()[20..10 * seconds as usize];
        let average = targets as f64 / 10.0;
        let bound = average + 6.0 * average.sqrt();
        let most = tenths.iter().copied().max().unwrap();
        assert!(f64::from(most) <= bound, "{most} checks in a tenth of a second, {bound:.0} are allowed");
        println!("{targets} targets, {seconds} s: at most {most} checks in a tenth of a second, {average} on average");
    }

    /// A minute of two thousand targets. An hour of ten thousand is 36 million checks:
    /// `SLUICE_DRIFT=10000x3600 cargo test --release -p lb-userspace neither_drift -- --nocapture`.
    #[tokio::test(start_paused = true)]
    async fn checks_neither_drift_nor_burst_nor_wait_for_a_slow_one() {
        let size = std::env::var("SLUICE_DRIFT").unwrap_or_else(|_| "2000x60".to_owned());
        let (targets, seconds) = size.split_once('x').expect("SLUICE_DRIFT is TARGETSxSECONDS");
        neither_drift_nor_bursts(targets.parse().unwrap(), seconds.parse().unwrap()).await;
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// A backend that flaps in any pattern, through the checker. The model knows no counters: a verdict changes with a
        /// run of equal results that is as long as it takes, and with the very first result.
        #[test]
        fn a_backend_that_flaps_is_told_of_as_its_runs_say(
            rise in 1u32..5,
            fall in 1u32..5,
            runs in proptest::collection::vec((proptest::bool::ANY, 1usize..7), 1..14),
        ) {
            let results: Vec<bool> = runs.iter().flat_map(|&(up, n)| std::iter::repeat_n(up, n)).collect();
            let mut expected = vec![results[0]];
            for run in results.chunk_by(|a, b| a == b) {
                let enough = if run[0] { rise } else { fall } as usize;
                if expected.last() != Some(&run[0]) && run.len() >= enough {
                    expected.push(run[0]);
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let told = runtime.block_on(async {
                let next = Arc::new(Mutex::new(results.into_iter()));
                let (done, mut all_done) = mpsc::unbounded_channel();
                let (mut checker, mut transitions, _) = checker(|_| Duration::from_millis(1), move |_| {
                    match next.lock().unwrap().next() {
                        Some(true) => passed(),
                        Some(false) => failed(),
                        None => {
                            let _ = done.send(());
                            Outcome::Skipped { reason: "it is over".into() }
                        }
                    }
                });
                let mut target = target("flaps");
                (target.check.rise, target.check.fall) = (rise, fall);
                checker.set_targets(vec![target]);
                all_done.recv().await;
                std::iter::from_fn(|| transitions.try_recv().ok()).map(|t| t.up).collect::<Vec<_>>()
            });
            proptest::prop_assert_eq!(told, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_backend_delays_no_other_and_is_checked_once_at_a_time() {
        let takes = |name: &str| if name == "slow" { Duration::from_millis(3_500) } else { Duration::ZERO };
        let (mut checker, _transitions, times) = checker(takes, |_| passed());
        checker.set_targets(["slow", "a", "b"].map(target).into());
        sleep(60 * SECOND).await;
        for name in ["a", "b"] {
            assert!((59..=62).contains(&of(&times, name).len()), "{name}: {}", of(&times, name).len());
        }
        let slow = of(&times, "slow");
        assert!((12..=18).contains(&slow.len()), "{} checks of the slow one", slow.len());
        for pair in slow.windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(3_500), "two at once: {pair:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_targets_start_at_once_and_settle_apart() {
        let (mut checker, mut transitions, times) = checker(|_| Duration::from_millis(1), |_| passed());
        checker.set_targets((0..10_000).map(|i| target(i.to_string())).collect());
        sleep(Duration::from_millis(250)).await;
        for _ in 0..10_000 {
            assert!(transitions.try_recv().expect("a verdict for everyone within a quarter second").up);
        }
        sleep(5 * SECOND).await;
        // The last second, in tenths: about 1,000 each.
        let mut tenths = [0; 10];
        for (_, at) in times.lock().unwrap().iter().filter(|(_, at)| (4_000..5_000).contains(&at.as_millis())) {
            tenths[(at.as_millis() as usize - 4_000) / 100] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1_200).contains(n)), "{tenths:?}");
    }

    /// A switch dies: everybody's checks fail, at another pace, and the network still sees them one by one.
    #[tokio::test(start_paused = true)]
    async fn ten_thousand_targets_that_fail_together_make_no_burst() {
        let broken = Arc::new(Mutex::new(false));
        let state = Arc::clone(&broken);
        let finds = move |_: &str| if *state.lock().unwrap() { failed() } else { passed() };
        let (mut checker, mut transitions, times) = checker(|_| Duration::from_millis(1), finds);
        let targets = (0..10_000).map(|i| {
            let mut target = target(i.to_string());
            (target.check.fast_interval, target.check.down_interval) = (SECOND / 4, 2 * SECOND);
            target
        });
        checker.set_targets(targets.collect());
        sleep(10 * SECOND).await;
        *broken.lock().unwrap() = true;
        let broke = Instant::now();
        while transitions.try_recv().is_ok() {}
        times.lock().unwrap().clear();
        sleep(10 * SECOND).await;
        let down = std::iter::from_fn(|| transitions.try_recv().ok()).inspect(|t| assert!(!t.up));
        let last = down.map(|t| t.at).max().unwrap();
        // Up to an interval and its jitter until the first failure, and two fast ones.
        assert!(last - broke.into_std() <= SECOND.mul_f64(1.7), "{:?}", last - broke.into_std());
        // A thousand in each tenth before; while verdicts change each target is looked at four times as often, at most.
        let mut tenths = [0; 100];
        for (_, at) in times.lock().unwrap().iter() {
            tenths[((at.as_millis() as usize - 10_000) / 100).min(99)] += 1;
        }
        assert!(tenths.iter().all(|n| *n < 4_000), "{tenths:?}");
        // Then every two seconds, no closer together than they were.
        assert!(tenths[20..].iter().all(|n| *n < 1_300), "{tenths:?}");
        let seconds: Vec<i32> = tenths[40..].chunks(20).map(|tenths| tenths.iter().sum()).collect();
        assert!(seconds.iter().all(|n| (9_000..11_000).contains(n)), "{seconds:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_looked_at_sooner_while_its_verdict_changes_and_later_while_it_is_down() {
        let up = Arc::new(Mutex::new(true));
        let state = Arc::clone(&up);
        let finds = move |_: &str| if *state.lock().unwrap() { passed() } else { failed() };
        let (mut checker, mut transitions, times) = checker(|_| Duration::ZERO, finds);
        let mut target = target("a");
        target.check.jitter = 0.0;
        (target.check.fast_interval, target.check.down_interval) = (SECOND / 10, 5 * SECOND);
        checker.set_targets(vec![target]);
        assert!(transitions.recv().await.unwrap().up);
        sleep(5 * SECOND).await;
        *up.lock().unwrap() = false;
        assert!(!transitions.recv().await.unwrap().up);
        sleep(20 * SECOND).await;
        *up.lock().unwrap() = true;
        assert!(transitions.recv().await.unwrap().up);
        sleep(5 * SECOND).await;
        let at = of(&times, "a");
        let gaps: Vec<u64> =
            at.windows(2).skip(1).map(|w| ((w[1] - w[0]).as_secs_f64() * 10.0).round() as u64).collect();
        let steady = gaps.iter().take_while(|gap| **gap == 10).count();
        assert!((3..=6).contains(&steady), "{gaps:?}");
        let rest = &gaps[steady..];
        // Three failures, a tenth apart; five seconds each while down; two successes, a tenth apart; seconds again.
        assert!(rest.starts_with(&[1, 1, 50, 50, 50, 50]), "{gaps:?}");
        let back: Vec<u64> = rest[6..].iter().copied().skip_while(|gap| *gap == 50).collect();
        assert!(back.len() >= 4 && back[0] == 1 && back[1..].iter().all(|gap| *gap == 10), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn verdicts_are_told_once_with_their_reason() {
        let up = Arc::new(Mutex::new(true));
        let state = Arc::clone(&up);
        let (mut checker, mut transitions, _) =
            checker(|_| Duration::ZERO, move |_| if *state.lock().unwrap() { passed() } else { failed() });
        let target = target("a");
        checker.set_targets(vec![target.clone()]);
        assert_eq!(checker.snapshot(&target.key).unwrap().health, Health::Checking);
        assert_eq!(checker.snapshot(&key("nobody")), None);

        let first = transitions.recv().await.unwrap();
        assert_eq!((first.key, first.address, first.up), (target.key.clone(), target.address, true));
        sleep(10 * SECOND).await;
        assert!(transitions.try_recv().is_err(), "nothing changed");

        *up.lock().unwrap() = false;
        let broke = Instant::now();
        let down = transitions.recv().await.unwrap();
        assert!(!down.up);
        assert_eq!(down.reason, "connection refused");
        assert!(broke.elapsed() <= 3 * SECOND + SECOND / 5, "{:?}", broke.elapsed());
        let snapshot = checker.snapshot(&target.key).unwrap();
        assert_eq!((snapshot.health, snapshot.since), (Health::Down, down.at));
        assert_eq!(snapshot.reason.as_deref(), Some("connection refused"));

        *up.lock().unwrap() = true;
        let mended = Instant::now();
        assert!(transitions.recv().await.unwrap().up);
        assert!(mended.elapsed() <= 2 * SECOND + SECOND / 5, "{:?}", mended.elapsed());
        assert_eq!(checker.snapshot(&target.key).unwrap().latency, Some(Duration::from_millis(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_leaves_unchanged_targets_and_their_times_alone() {
        let (mut checker, mut transitions, times) = checker(|_| Duration::ZERO, |_| passed());
        checker.set_targets(["kept", "leaves"].map(target).into());
        sleep(5 * SECOND).await;
        let before = checker.snapshot(&key("kept")).unwrap();
        // Reloads faster than the interval must not put the next check off.
        for i in 0..50 {
            checker.set_targets(vec![target("kept"), target(format!("new {i}"))]);
            sleep(SECOND / 10).await;
        }
        let kept = of(&times, "kept");
        assert!((10..=12).contains(&kept.len()), "{} checks in ten seconds", kept.len());
        assert_eq!(checker.snapshot(&key("kept")).unwrap().since, before.since);
        assert_eq!(checker.snapshot(&key("leaves")), None);
        assert!(of(&times, "leaves").iter().all(|&at| at < 5 * SECOND));
        let told = std::iter::from_fn(|| transitions.try_recv().ok()).filter(|t| t.key == key("kept")).count();
        assert_eq!(told, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn another_check_keeps_the_verdict_until_it_decides() {
        let finds = Arc::new(Mutex::new(passed()));
        let state = Arc::clone(&finds);
        let (mut checker, mut transitions, times) = checker(|_| Duration::ZERO, move |_| state.lock().unwrap().clone());
        checker.set_targets(vec![target("a")]);
        assert!(transitions.recv().await.unwrap().up);
        sleep(5 * SECOND).await;

        *finds.lock().unwrap() = failed();
        let changed = Instant::now();
        let checks = of(&times, "a").len();
        let mut other = target("a");
        other.check.fall = 2;
        other.check.checks[0].port = Some(81);
        other.address.set_port(81);
        checker.set_targets(vec![other]);
        assert_eq!(checker.snapshot(&key("a")).unwrap().health, Health::Up);
        sleep(schedule::INITIAL_SPREAD + SECOND / 100).await;
        assert_eq!(of(&times, "a").len(), checks + 1, "the new check begins at once");
        assert_eq!(checker.snapshot(&key("a")).unwrap().health, Health::Up);
        let down = transitions.recv().await.unwrap();
        assert!(!down.up && down.address.port() == 81);
        assert!(changed.elapsed() <= 2 * SECOND, "{:?}", changed.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn another_address_is_another_backend() {
        let (mut checker, mut transitions, _) = checker(|_| Duration::from_millis(5), |_| passed());
        for address in ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.2:81"] {
            let mut target = target("a");
            target.address = address.parse().unwrap();
            checker.set_targets(vec![target.clone()]);
            assert_eq!(checker.snapshot(&key("a")).unwrap().health, Health::Checking, "{address}");
            assert_eq!(transitions.recv().await.unwrap().address, target.address);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_result_of_a_removed_or_changed_target_does_not_count() {
        let takes = |name: &str| if name == "slow" { 10 * SECOND } else { Duration::ZERO };
        let (mut checker, mut transitions, times) = checker(takes, |_| failed());
        checker.set_targets(vec![target("slow")]);
        sleep(SECOND).await;
        assert_eq!(of(&times, "slow").len(), 1, "in flight");
        checker.set_targets(vec![]);
        sleep(20 * SECOND).await;
        assert!(transitions.try_recv().is_err(), "a result of nobody");
        checker.set_targets(vec![target("slow")]);
        sleep(SECOND).await;
        drop(checker);
        sleep(20 * SECOND).await;
        assert!(transitions.recv().await.is_none(), "a dropped checker tells nothing and lets go of its end");
    }

    #[tokio::test(start_paused = true)]
    async fn what_this_host_could_not_check_counts_for_nothing() {
        let finds = Arc::new(Mutex::new(passed()));
        let state = Arc::clone(&finds);
        let (mut checker, mut transitions, _) = checker(|_| Duration::ZERO, move |_| state.lock().unwrap().clone());
        checker.set_targets(vec![target("a")]);
        assert!(transitions.recv().await.unwrap().up);
        *finds.lock().unwrap() = Outcome::Skipped { reason: "too many open files".into() };
        sleep(60 * SECOND).await;
        assert!(transitions.try_recv().is_err());
        let snapshot = checker.snapshot(&key("a")).unwrap();
        assert_eq!(snapshot.health, Health::Up);
        assert_eq!(snapshot.reason.as_deref(), Some("not checked: too many open files"));
    }
}

mod for_real {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_backend_that_dies_and_comes_back_is_seen_both_times() {
        let interval = Duration::from_millis(400);
        let (sender, mut transitions) = mpsc::unbounded_channel();
        let mut checker = Checker::new(sender);
        let healthy = answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let sick = answering("HTTP/1.1 503 Sick\r\ncontent-length: 0\r\n\r\n").await;
        let silent = server(hold).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mortal = listener.local_addr().unwrap();
        checker.set_targets(vec![
            http_target("healthy", healthy, interval),
            http_target("sick", sick, interval),
            http_target("silent", silent, interval),
            tcp_target("mortal", mortal, interval),
        ]);

        let mut first = Vec::new();
        for _ in 0..4 {
            let t = timeout(PATIENT, transitions.recv()).await.expect("a verdict").unwrap();
            assert_eq!(t.latency.is_some(), t.key.backend != "silent", "{t:?}");
            first.push((t.key.backend, t.up, t.reason));
        }
        first.sort();
        let expected = [
            ("healthy", true, "status 200"),
            ("mortal", true, "connected"),
            ("sick", false, "status 503, expected 200-299"),
            ("silent", false, "connected, but no response within 200ms"),
        ];
        assert_eq!(first, expected.map(|(name, up, reason)| (name.to_owned(), up, reason.to_owned())));

        drop(listener);
        let died = Instant::now();
        let down = timeout(PATIENT, transitions.recv()).await.expect("it is seen").unwrap();
        assert_eq!((down.key, down.up, down.reason.as_str()), (key("mortal"), false, "connection refused"));
        // Interval × fall, one interval on top, and a busy machine.
        assert!(died.elapsed() <= interval * 4 + SECOND, "{:?}", died.elapsed());

        let _listener = TcpListener::bind(mortal).await.unwrap();
        let up = timeout(PATIENT, transitions.recv()).await.expect("it is seen").unwrap();
        assert_eq!((up.key, up.up), (key("mortal"), true));
        assert_eq!(checker.snapshot(&key("healthy")).unwrap().health, Health::Up);
    }
}
