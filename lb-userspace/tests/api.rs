//! The servers and the client over real sockets.

mod common;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{Duration, Instant};

use common::{Directory, admin, controller, healthy, serve, status};
use sluice::api::client::Client;
use sluice::api::server;
use sluice::api::types::PlanRequest;
use sluice::control::handle::{Handle, Request};
use sluice::exit::Exit;
use sluice::model::BackendState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// Sends `request` as it is and returns all that comes back until the other side closes.
async fn raw(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    let mut answer = Vec::new();
    // The other side may answer and close before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

fn post_with(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn code(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("none")
}

#[tokio::test]
async fn the_client_gets_the_status_whole() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let got = Client::new(&socket).status().await.unwrap();
    assert_eq!(serde_json::to_value(got).unwrap(), serde_json::to_value(status()).unwrap());
}

#[tokio::test]
async fn a_refused_reload_keeps_its_words_and_its_exit_code() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    let client = Client::new(&socket);
    assert_eq!(client.reload(None).await.unwrap().generation, 5);
    let failure = client.reload(None).await.unwrap_err();
    let wanted = common::refused();
    assert_eq!((failure.exit, failure.message, failure.hint), (wanted.exit, wanted.message, wanted.hint));
}

#[tokio::test]
async fn names_reach_the_controller_as_they_were_typed() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (_served, asked) = admin(&socket, status());
    let client = Client::new(&socket);
    for name in ["10.0.0.11", "[2001:db8::1]:80", "a/b c%2F?#", "ü"] {
        client.set_backend_state("web".to_owned(), name.to_owned(), BackendState::Drain).await.unwrap();
        assert_eq!(asked.lock().unwrap().pop().unwrap(), ("web".to_owned(), name.to_owned(), BackendState::Drain));
    }
    let failure =
        client.set_backend_state("web".to_owned(), "nobody".to_owned(), BackendState::Active).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(failure.hint.as_deref(), Some("it has 10.0.0.11 and canary"));
}

#[tokio::test]
async fn every_refusal_has_its_http_status_and_a_json_body() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (_served, asked) = admin(&socket, status());
    let table = [
        (get("/v1/status"), "200"),
        (get("/v1/events"), "200"),
        (get("/v1/events?after=12"), "200"),
        (get("/v1/events?after=noon"), "400"),
        (post("/v1/reload"), "200"),
        (post("/v1/reload"), "422"),
        (post("/v1/flows"), "200"),
        (post_with("/v1/flows", r#"{ "client": "nobody", "limit": 1 }"#), "400"),
        (post("/v1/rollback"), "200"),
        (post("/v1/confirm"), "200"),
        (post("/v1/reload?confirm=soon"), "400"),
        (get("/v1/status?all"), "400"),
        (post("/v1/plan"), "200"),
        (get("/v1/plan"), "405"),
        (post_with("/v1/plan", r#"{ "file": "new.yaml", "text": "version: 1" }"#), "200"),
        (post_with("/v1/plan", "version: 1"), "400"),
        (post("/v1/services/web/backends/canary/drain"), "200"),
        (post("/v1/services/web/backends/nobody/drain"), "404"),
        (get("/v1/services/web/backends/canary/drain"), "200"),
        (get("/v1/services/web/backends/canary/drain?idle=30"), "200"),
        (get("/v1/services/web/backends/canary/undrain"), "405"),
        (post("/v1/services/web/backends/canary/evict-udp"), "200"),
        (post("/v1/services/web/backends/%ff/drain"), "400"),
        (get("/v2/status"), "404"),
        (get("/metrics"), "404"),
        (format!("GET /v1/status HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(40_000)), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ];
    for (request, wanted) in table {
        let line = request.lines().next().unwrap_or_default().to_owned();
        let answer = raw(UnixStream::connect(&socket).await.unwrap(), &request).await;
        assert_eq!(code(&answer), wanted, "{line}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        // What is not HTTP at all is refused below us, without a body.
        if !body.is_empty() {
            let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{line}: {e}: {body}"));
            assert_eq!(json.get("error").is_some(), wanted != "200", "{line}: {json}");
            assert!(wanted == "200" || json["exit"].as_u64().is_some_and(|exit| exit > 0), "{line}: {json}");
        }
    }
    assert_eq!(asked.lock().unwrap().len(), 1, "a refused request reached the controller");
}

#[tokio::test]
async fn a_body_nobody_asked_for_is_read_if_small_and_refused_if_large() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let _served = admin(&socket, status());
    for (length, wanted) in [(100, "200"), (1_000_000, "413")] {
        let request = format!(
            "POST /v1/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        );
        let answer = raw(UnixStream::connect(&socket).await.unwrap(), &request).await;
        assert_eq!(code(&answer), wanted, "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body.get("error").is_some(), wanted != "200", "{body}");
    }
}

#[tokio::test]
async fn a_file_to_make_a_plan_for_arrives_whole() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (handle, mut requests) = Handle::new();
    let _served = serve(server::bind_unix(&socket).unwrap(), handle);
    // Larger than any other request may be, and full of what JSON escapes.
    let sent = PlanRequest { file: "new.yaml".to_owned(), text: "# \"ü\"\t\n".repeat(200_000) };
    let text = sent.text.clone();
    let asking = tokio::spawn(async move { Client::new(&socket).plan(Some(&sent)).await });
    let Some(Request::Plan(Some(got), answer)) = requests.recv().await else { panic!("no request arrived") };
    assert!(got.file == "new.yaml" && got.text == text);
    answer.send(Ok(common::plan("new.yaml"))).unwrap();
    assert_eq!(asking.await.unwrap().unwrap().generation, 4);
}

#[tokio::test]
async fn only_owner_and_group_may_use_the_socket() {
    let directory = Directory::new();
    let socket = directory.join("run/sluice/admin.sock");
    let _bound = server::bind_unix(&socket).unwrap();
    let file = std::fs::metadata(&socket).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_a_living_ones_is_not() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");

    // std leaves the file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let (served, _) = admin(&socket, status());
    Client::new(&socket).status().await.unwrap();

    let failure = server::bind_unix(&socket).unwrap_err();
    assert!(failure.message.contains("another daemon answers"), "{failure}");
    assert!(failure.hint.is_some());
    Client::new(&socket).status().await.expect("the living daemon lost its socket");

    served.stop.send(true).unwrap();
    served.task.await.unwrap();
    assert!(!socket.exists(), "a clean stop leaves no socket behind");
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    let path = directory.join("precious");
    std::fs::write(&path, "data").unwrap();
    let failure = server::bind_unix(&path).unwrap_err();
    assert!(failure.message.contains("is no socket"), "{failure}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn a_path_longer_than_the_kernel_takes_is_explained() {
    let directory = Directory::new();
    let failure = server::bind_unix(&directory.join(&"x".repeat(150))).unwrap_err();
    assert!(failure.hint.unwrap().contains("107"), "{}", failure.message);
}

#[tokio::test]
async fn a_stopping_daemon_leaves_its_successors_socket_alone() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let old = server::bind_unix(&socket).unwrap();
    std::fs::remove_file(&socket).unwrap();
    let _new = server::bind_unix(&socket).unwrap();
    drop(old);
    assert!(socket.exists());
}

#[tokio::test]
async fn answers_under_way_survive_the_stop_and_idle_peers_do_not_delay_it() {
    let directory = Directory::new();
    let socket = directory.join("admin.sock");
    let (handle, mut requests) = Handle::new();
    let served = serve(server::bind_unix(&socket).unwrap(), handle);
    let _idle = UnixStream::connect(&socket).await.unwrap();
    let client = Client::new(&socket);
    let asking = tokio::spawn(async move { client.status().await });
    let Some(Request::Status(answer)) = requests.recv().await else { panic!("no question arrived") };

    let began = Instant::now();
    served.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(UnixStream::connect(&socket).await.is_err(), "new peers are taken during the stop");
    answer.send(status()).unwrap();
    asking.await.unwrap().expect("the answer under way was cut off");
    served.task.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "the stop took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_unreachable_daemon_is_exit_4_and_the_hint_fits_the_reason() {
    let directory = Directory::new();
    let missing = directory.join("missing.sock");
    let failure = Client::new(&missing).status().await.unwrap_err();
    assert_eq!(failure.exit, Exit::DaemonUnreachable);
    assert!(failure.message.contains(missing.to_str().unwrap()), "{failure}");
    assert!(failure.hint.unwrap().contains("is the daemon running?"));

    let dead = directory.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let failure = Client::new(&dead).status().await.unwrap_err();
    assert_eq!(failure.exit, Exit::DaemonUnreachable);
    assert!(failure.hint.unwrap().contains("nobody listens"));

    let gone = directory.join("gone.sock");
    let (handle, requests) = Handle::new();
    drop(requests);
    let _served = serve(server::bind_unix(&gone).unwrap(), handle);
    let failure = Client::new(&gone).status().await.unwrap_err();
    assert_eq!(failure.exit, Exit::DaemonUnreachable, "{failure}");
}

#[tokio::test]
async fn somebody_elses_server_is_named_in_the_hint() {
    let directory = Directory::new();
    let socket = directory.join("other.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = "HTTP/1.1 200 OK\r\nServer: sluice/9.9.9\r\nContent-Length: 2\r\n\r\n[]";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let failure = Client::new(&socket).status().await.unwrap_err();
    assert!(failure.message.contains("cannot understand"), "{failure}");
    assert!(failure.hint.unwrap().contains("sluice/9.9.9"));
}

#[tokio::test]
async fn probes_tell_alive_from_ready() {
    let serve_status = async |status| {
        let bound = server::bind_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.local_addr().unwrap();
        let (handle, _) = controller(status);
        (serve(bound, handle), address)
    };
    let ask = async |address, request: String| raw(TcpStream::connect(address).await.unwrap(), &request).await;

    let (_served, address) = serve_status(status()).await;
    assert_eq!(code(&ask(address, get("/healthz")).await), "200", "a dead backend is no reason for a restart");
    let answer = ask(address, get("/readyz")).await;
    assert_eq!(code(&answer), "503");
    assert!(answer.contains("service dns: 0 of 2 backends up; 10.0.1.54: connection refused"), "{answer}");
    assert!(!answer.contains("service web"), "{answer}");

    let (_served, address) = serve_status(healthy()).await;
    assert_eq!(code(&ask(address, get("/readyz")).await), "200");
    let metrics = ask(address, get("/metrics")).await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nsluice_service_up{service=\"web\"} 1\n"), "{metrics}");
    let head = ask(address, get("/metrics").replacen("GET", "HEAD", 1)).await;
    assert_eq!(code(&head), "200");
    assert!(head.ends_with("\r\n\r\n"), "a HEAD has no body: {head}");
    assert_eq!(code(&ask(address, post("/metrics")).await), "405");
    assert_eq!(code(&ask(address, post("/v1/reload")).await), "404", "TCP must not change anything");
    assert_eq!(code(&ask(address, get("/")).await), "200");
}

#[tokio::test]
async fn without_a_controller_the_process_is_alive_and_not_ready() {
    let bound = server::bind_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = bound.local_addr().unwrap();
    let (handle, requests) = Handle::new();
    drop(requests);
    let _served = serve(bound, handle);
    for (path, wanted) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "503")] {
        assert_eq!(code(&raw(TcpStream::connect(address).await.unwrap(), &get(path)).await), wanted, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_controller_is_alive_and_not_ready() {
    let bound = server::bind_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = bound.local_addr().unwrap();
    let (handle, _requests) = Handle::new();
    let _served = serve(bound, handle);
    for (path, wanted) in [("/healthz", "200"), ("/readyz", "503"), ("/metrics", "503")] {
        let answer = raw(TcpStream::connect(address).await.unwrap(), &get(path)).await;
        assert_eq!(code(&answer), wanted, "{path}: {answer}");
    }
}

#[tokio::test]
async fn an_address_in_use_says_how_to_find_who_has_it() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let failure = server::bind_http(holder.local_addr().unwrap()).await.unwrap_err();
    assert!(failure.hint.unwrap().contains("ss -ltnp"), "{}", failure.message);
    let failure = server::bind_http("192.0.2.1:9480".parse().unwrap()).await.unwrap_err();
    assert!(failure.hint.unwrap().contains("no address of this host"), "{}", failure.message);
}

/// The clock is tokio's and jumps when everybody waits, so the limits are passed without waiting for them.
#[tokio::test(start_paused = true)]
async fn silent_peers_are_hung_up_on_and_their_slots_given_back() {
    let bound = server::bind_http("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = bound.local_addr().unwrap();
    let (handle, _) = controller(healthy());
    let _served = serve(bound, handle);
    let mut silent = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost:").await.unwrap();
        silent.push(stream);
    }
    let answer = raw(TcpStream::connect(address).await.unwrap(), &get("/healthz")).await;
    assert_eq!(code(&answer), "200", "all slots stayed with peers that say nothing");
    for stream in &mut silent {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}
