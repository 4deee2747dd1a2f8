//! Health checks against real servers, good and bad: what each is found to be, and in which words.
//!
//! One lab, one Sluice, and a table of (server, check) with the verdict and its reason. The servers are all on b1, by
//! port. Needs root, as the other tests of the lab do.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use lb_tests::lab::config::Config;
use lb_tests::lab::daemon::{Daemon, Launcher};
use lb_tests::lab::netns::NetNs;
use lb_tests::lab::process::Process;
use lb_tests::lab::servers;
use lb_tests::lab::{Lab, VIP};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sluice::api::types::{BackendStatus, Event, EventKind, Events, Health, Status};
use sluice::model::BackendState;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A check's time in this file.
const TIMEOUT: Duration = Duration::from_millis(800);

/// What is expected of a check.
#[derive(Clone, Copy)]
enum Is {
    Up(&'static str),
    /// Up, and the beginning of a warning.
    Warned(&'static str, &'static str),
    Down(&'static str),
    /// This host cannot tell.
    Unknown(&'static str),
}

// Ports of the servers on b1.
const GOOD_TLS: u16 = 7001;
const EXPIRED: u16 = 7002;
const EXPIRES_SOON: u16 = 7003;
const NOT_YET: u16 = 7004;
const OTHER_NAME: u16 = 7005;
const OTHER_CA: u16 = 7006;
const CA_ITSELF: u16 = 7007;
const GRPC_TLS: u16 = 7008;
const GRPC: u16 = 7301;
const UDP_ECHO: u16 = 7201;
const UDP_SILENT: u16 = 7202;
const SILENT: u16 = 7101;
const TRICKLE: u16 = 7102;
const CLOSES: u16 = 7103;
const RESETS: u16 = 7104;
const REDIRECTS: u16 = 7105;
const GREETS: u16 = 7106;

/// (what, the check, what comes of it). `{ca}` and `{dir}` are the lab's; nobody listens on port 7199. Reasons are compared
/// up to the first `…`.
#[rustfmt::skip]
const TABLE: &[(&str, &str, Is)] = &[
    // tcp
    ("tcp to nginx", "tcp: { port: 8080 }", Is::Up("connected")),
    ("tcp to nobody", "tcp: { port: 7199 }", Is::Down("connection refused")),
    ("tcp to one that never answers", "tcp: { port: 7101 }", Is::Up("connected")),
    ("tcp to a host that is not there", "tcp: { address: 10.0.0.99, port: 80 }", Is::Down("no …")),
    ("tcp to another address and port", "tcp: { address: 10.0.0.12, port: 8080 }", Is::Up("connected")),
    ("tcp over ipv6", "tcp: { address: 2001:db8:b::11, port: 8080 }", Is::Up("connected")),

    // http
    ("http to nginx", "http: { port: 8080, path: /healthz }", Is::Up("status 200")),
    ("http with the body that is there", "http: { port: 8080, path: /healthz, body_contains: ok }", Is::Up("status 200")),
    ("http with another body", "http: { port: 8080, path: /, body_contains: ready }",
        Is::Down("status 200, but its body does not contain `ready`")),
    ("http with a body that matches", "http: { port: 8080, path: /, body_matches: '^b[0-9]\\n$' }", Is::Up("status 200")),
    ("http with a body that does not", "http: { port: 8080, path: /, body_matches: '^ok' }",
        Is::Down("status 200, but its body does not match `^ok`")),
    ("http with more body than is looked at", "http: { port: 8080, path: /big, body_contains: '1' }",
        Is::Down("status 200, but its body does not contain `1` in its first 64 KiB")),
    ("http to a page that is not there", "http: { port: 8080, path: /gone }", Is::Down("status 404, expected 200-299")),
    ("http to a page that should not be there", "http: { port: 8080, path: /gone, expect: [404, 410] }", Is::Up("status 404")),
    ("http by a method", "http: { port: 8080, path: /healthz, method: HEAD }", Is::Up("status 200")),
    ("http to the tls port", "http: { port: 7001 }", Is::Down("status 400, expected 200-299")),
    ("http to one that never answers", "http: { port: 7101 }", Is::Down("connected, but no response within 800ms")),
    ("http at one byte a second", "http: { port: 7102 }", Is::Down("connected, but no response within 800ms")),
    ("http to one that closes at once", "http: { port: 7103 }", Is::Down("connection …")),
    ("http to one that resets", "http: { port: 7104 }", Is::Down("connection reset before a response")),
    ("http to one that redirects", "http: { port: 7105 }", Is::Down("status 301, expected 200-299")),
    ("http to one that speaks something else", "http: { port: 7106 }", Is::Down("the answer is not HTTP/1")),

    // https
    ("https", "https: { port: 7001, sni: www.sluice.test, ca: {ca} }", Is::Up("status 200")),
    ("https by address", "https: { port: 7001, ca: {ca} }", Is::Up("status 200")),
    ("https by host", "https: { port: 7001, host: 'www.sluice.test:7001', ca: {ca}, body_contains: www.sluice.test }",
        Is::Up("status 200")),
    ("https over h2", "https: { port: 7001, alpn: h2, sni: www.sluice.test, ca: {ca}, body_contains: 'HTTP/2.0' }",
        Is::Up("status 200")),
    ("https over h2, the wrong status", "https: { port: 7001, alpn: h2, path: /gone, ca: {ca} }",
        Is::Down("status 404, expected 200-299")),
    ("https over h2 where there is none", "https: { port: 7005, alpn: h2, verify: false }",
        Is::Down("the backend does not speak h2 (ALPN)")),
    ("https over HTTP/1.1", "https: { port: 7001, ca: {ca}, body_contains: 'HTTP/1.1' }", Is::Up("status 200")),
    ("https, expired", "https: { port: 7002, sni: www.sluice.test, ca: {ca} }",
        Is::Down("certificate expired 3 days ago (…")),
    ("https, expired, and nobody minds", "https: { port: 7002, verify: false, warn_days: 0 }", Is::Up("status 200")),
    ("https, expired, and it is said", "https: { port: 7002, verify: false }",
        Is::Warned("status 200", "its certificate expired 3 days ago (…")),
    ("https, expires soon", "https: { port: 7003, sni: www.sluice.test, ca: {ca} }",
        Is::Warned("status 200", "its certificate expires in 5 days (…")),
    ("https, expires soon enough", "https: { port: 7003, sni: www.sluice.test, ca: {ca}, warn_days: 3 }",
        Is::Up("status 200")),
    ("https, not valid yet", "https: { port: 7004, sni: www.sluice.test, ca: {ca} }",
        Is::Down("certificate is not valid before …")),
    ("https, for another name", "https: { port: 7005, sni: www.sluice.test, ca: {ca} }",
        Is::Down("certificate is not for www.sluice.test, only for other.sluice.test; `sni` says whom to ask for")),
    ("https, of another CA", "https: { port: 7006, sni: www.sluice.test, ca: {ca} }",
        Is::Down("certificate is of no CA that is trusted here; `ca` names another, `verify: false` takes any")),
    ("https, of another CA, and nobody minds", "https: { port: 7006, verify: false }", Is::Up("status 200")),
    ("https, without its CA", "https: { port: 7001, sni: www.sluice.test }", Is::Down("certificate is of no CA …")),
    ("https, the CA itself", "https: { port: 7007, ca: {ca}, sni: ca.sluice.test }",
        Is::Down("certificate is of a CA and no server's; …")),
    ("https, a CA file that is not there", "https: { port: 7001, ca: /nonexistent/ca.pem }",
        Is::Unknown("not checked: the CA file /nonexistent/ca.pem cannot be read: No such file …")),
    ("https, a CA file without any", "https: { port: 7001, ca: {dir}/sluice.yaml }",
        Is::Unknown("not checked: the CA file …")),
    ("https to the http port", "https: { port: 8080, verify: false }", Is::Down("the answer is not TLS")),
    ("https to one that never answers", "https: { port: 7101 }",
        Is::Down("connected, but the TLS handshake was not over within 800ms")),
    ("https to nobody", "https: { port: 7199 }", Is::Down("connection refused")),

    // tls
    ("tls", "tls: { port: 7001, sni: www.sluice.test, ca: {ca} }", Is::Up("handshake done: TLS 1.3")),
    ("tls with a protocol", "tls: { port: 7001, sni: www.sluice.test, ca: {ca}, alpn: [smtp, h2] }",
        Is::Up("handshake done: TLS 1.3, h2")),
    ("tls with a protocol that is not there", "tls: { port: 7001, sni: www.sluice.test, ca: {ca}, alpn: smtp }",
        Is::Down("the backend does not speak smtp (ALPN)")),
    ("tls, expired", "tls: { port: 7002, sni: www.sluice.test, ca: {ca} }",
        Is::Down("certificate expired 3 days ago (…")),
    ("tls, expires soon", "tls: { port: 7003, sni: www.sluice.test, ca: {ca} }",
        Is::Warned("handshake done: TLS 1.3", "its certificate expires in 5 days (…")),
    ("tls to one that greets", "tls: { port: 7106, verify: false }", Is::Down("the answer is not TLS")),
    ("tls to one that closes", "tls: { port: 7103, verify: false }", Is::Down("connection …")),
    ("tls to one that resets", "tls: { port: 7104, verify: false }", Is::Down("connection reset during the TLS handshake")),

    // dns
    ("dns", "dns: { port: 5353, name: who.sluice.test, type: TXT, answer: b1 }", Is::Up("NOERROR, b1")),
    ("dns over tcp", "dns: { port: 5353, over: tcp, name: WHO.sluice.test., type: TXT, answer: b1 }", Is::Up("NOERROR, b1")),
    ("dns over ipv6", "dns: { address: 2001:db8:b::11, port: 5353, name: who.sluice.test, type: TXT }", Is::Up("NOERROR")),
    ("dns, another answer", "dns: { port: 5353, name: who.sluice.test, type: TXT, answer: b2 }",
        Is::Down("NOERROR, but b1, expected b2")),
    ("dns, a name that is not there", "dns: { port: 5353, name: other.sluice.test }", Is::Down("REFUSED, expected NOERROR")),
    ("dns, a name that should not be there", "dns: { port: 5353, name: other.sluice.test, rcode: [NXDOMAIN, REFUSED] }",
        Is::Up("REFUSED")),
    ("dns, no such record", "dns: { port: 5353, name: who.sluice.test, rcode: [NOERROR, REFUSED], answer: 10.0.0.1 }",
        Is::Down("…")),
    ("dns to nobody", "dns: { port: 7199, name: who.sluice.test }", Is::Down("connection refused")),
    ("dns to one that never answers", "dns: { port: 7202, name: who.sluice.test }", Is::Down("no answer within 800ms")),
    ("dns over tcp to one that never answers", "dns: { port: 7101, over: tcp, name: who.sluice.test }",
        Is::Down("connected, but no answer within 800ms")),
    ("dns to one that speaks something else", "dns: { port: 7201, name: who.sluice.test }", Is::Down("the answer is not DNS")),

    // udp
    ("udp", "udp: { port: 7201, send: 'ping', expect: 'pong ping' }", Is::Up("answered with 9 bytes")),
    ("udp, bytes", "udp: { port: 7201, send: '\\x00\\n', expect: '\\x00\\x0a' }", Is::Up("answered with 7 bytes")),
    ("udp, any answer", "udp: { port: 7201, send: x }", Is::Up("answered with 6 bytes")),
    ("udp, another answer", "udp: { port: 7201, send: ping, expect: 'pang\\n' }", Is::Down("answered, but not with `pang\\n`")),
    ("udp to nobody", "udp: { port: 7199, send: ping }", Is::Down("connection refused")),
    ("udp to one that never answers", "udp: { port: 7202, send: ping }", Is::Down("no answer within 800ms")),

    // icmp
    ("icmp", "icmp:", Is::Up("echo reply")),
    ("icmp over ipv6", "icmp: { address: 2001:db8:b::11 }", Is::Up("echo reply")),
    ("icmp to a host that is not there", "icmp: { address: 10.0.0.99 }", Is::Down("no …")),

    // grpc
    ("grpc", "grpc: { port: 7301 }", Is::Up("the server is SERVING")),
    ("grpc, a service", "grpc: { port: 7301, service: shop.v1.Cart }", Is::Up("shop.v1.Cart is SERVING")),
    ("grpc, a service that is down", "grpc: { port: 7301, service: shop.v1.Stock }", Is::Down("shop.v1.Stock is NOT_SERVING")),
    ("grpc, a service nobody knows", "grpc: { port: 7301, service: shop.v1.Other }",
        Is::Down("the health service does not know shop.v1.Other")),
    ("grpc in tls", "grpc: { port: 7008, service: shop.v1.Cart, tls: { sni: www.sluice.test, ca: {ca} } }",
        Is::Up("shop.v1.Cart is SERVING")),
    ("grpc in tls, expires soon", "grpc: { port: 7008, tls: { sni: www.sluice.test, ca: {ca}, warn_days: 3000 } }",
        Is::Warned("the server is SERVING", "its certificate expires in 99 days (…")),
    ("grpc in tls without grpc", "grpc: { port: 7001, tls: { verify: false } }", Is::Down("the answer is not gRPC: status 404")),
    ("grpc without tls to tls", "grpc: { port: 7008 }", Is::Down("the answer is not HTTP/2")),
    ("grpc to nginx", "grpc: { port: 8080 }", Is::Down("the answer is not HTTP/2")),
    ("grpc to one that never answers", "grpc: { port: 7101 }", Is::Down("connected, but no response within 800ms")),
    ("grpc to one that closes", "grpc: { port: 7103 }", Is::Down("connection …")),
    ("grpc to one that resets", "grpc: { port: 7104 }", Is::Down("connection reset before a response")),

    // exec
    ("exec", "exec: { command: /bin/true }", Is::Up("exit code 0")),
    ("exec that says something", "exec: { command: [/bin/sh, -c, 'echo fine; echo more'] }", Is::Up("exit code 0: fine")),
    ("exec that fails", "exec: { command: [/bin/sh, -c, 'echo no space left; exit 2'] }", Is::Down("exit code 2: no space left")),
    ("exec that is killed", "exec: { command: [/bin/sh, -c, 'kill -9 $$'] }", Is::Down("killed by SIGKILL")),
    ("exec that hangs", "exec: { command: [/bin/sleep, '61.25'] }", Is::Down("it did not end within 800ms")),
    ("exec that writes without end", "exec: { command: /usr/bin/yes }", Is::Down("it did not end within 800ms")),
    ("exec that leaves a child behind", "exec: { command: [/bin/sh, -c, 'sleep 61.5 & echo started'] }",
        Is::Up("exit code 0: started")),
    ("exec that closes its output", "exec: { command: [/bin/sh, -c, 'exec >&-; sleep 0.2; exit 3'] }", Is::Down("exit code 3")),
    ("exec, who", "exec: { command: [/bin/sh, -c, 'echo $(id -u) $(id -g) $(id -G)'] }",
        Is::Up("exit code 0: 65534 65534 65534")),
    ("exec, privileges", "exec: { command: [/bin/sh, -c, \
        'echo $(grep -E \"Cap(Inh|Prm|Eff|Amb)|NoNewPrivs\" /proc/self/status)'] }",
        Is::Up("exit code 0: CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapAmb: \
            0000000000000000 NoNewPrivs: 1")),
    ("exec, environment", "exec: { command: [/bin/sh, -c, 'echo \"$SLUICE_ADDRESS $HOME$USER$RUST_LOG\"'] }",
        Is::Up("exit code 0: 10.0.0.11")),
    ("exec, open files", "exec: { command: [/bin/sh, -c, 'ls /proc/$$/fd | tr \"\\n\" \" \"'] }", Is::Up("exit code 0: 0 1 2…")),
    ("exec of nothing", "exec: { command: /nonexistent/check }",
        Is::Unknown("not checked: /nonexistent/check cannot be run: No such file …")),
    ("exec of no program", "exec: { command: /etc/passwd }",
        Is::Unknown("not checked: /etc/passwd cannot be run: Permission denied …")),

    // several
    ("all of two", "all: [{ tcp: { port: 8080 } }, { http: { port: 8080, path: /healthz } }]",
        Is::Up("tcp: connected; http: status 200")),
    ("all of two, one of them down", "all: [{ http: { port: 8080, path: /healthz } }, { tcp: { port: 7199 } }]",
        Is::Down("tcp: connection refused")),
    ("any of two, one of them down", "any: [{ tcp: { port: 7199 } }, { http: { port: 8080, path: /healthz } }]",
        Is::Up("http: status 200")),
    ("any of two, both down", "any: [{ tcp: { port: 7199 } }, { http: { port: 7105 } }]",
        Is::Down("tcp: connection refused; http: status 301, expected 200-299")),
    ("any of two, one of them silent", "any: [{ http: { port: 7101 } }, { tcp: { port: 8080 } }]", Is::Up("tcp: connected")),
    ("all of two, one of them unknown", "all: [{ tcp: { port: 8080 } }, { tls: { port: 7001, ca: /nonexistent/ca.pem } }]",
        Is::Unknown("not checked: tls: the CA file /nonexistent/ca.pem cannot be read: …")),
];

fn name(i: usize) -> String {
    format!("check-{i}")
}

/// A service for each row of the table, all with the backend b1, at a port that nothing but its own service has.
fn services(lab: &Lab) -> String {
    let (ca, dir) = (lab.dir().join("ca.pem"), lab.dir());
    let service = |(i, (_, check, _)): (usize, &(&str, &str, Is))| {
        let check = check.replace("{ca}", &ca.display().to_string()).replace("{dir}", &dir.display().to_string());
        let interval = TIMEOUT.as_millis();
        format!(
            "  - name: {}\n    listen: {}:{}\n    health: {{ {check}, interval: {interval}ms, timeout: {interval}ms }}\n    \
             min_healthy: 0\n    backends: [{{ address: {}, port: {} }}]\n",
            name(i),
            VIP.v4,
            10_000 + i,
            lab.backends[0].address.v4,
            20_000 + i,
        )
    };
    TABLE.iter().enumerate().map(service).collect()
}

/// The certificates of nginx on b1, and its answers.
fn tls_servers(lab: &Lab) -> Process {
    let b1 = &lab.backends[0];
    let root = lab.dir().join("tls");
    std::fs::create_dir_all(&root).unwrap();
    let ca = authority("ca.sluice.test");
    std::fs::write(lab.dir().join("ca.pem"), ca.pem()).unwrap();
    let now = SystemTime::now();
    let (past, future) = (now - 100 * DAY, now + 100 * DAY);
    let www = ["www.sluice.test", "10.0.0.11"];
    let soon = now + 5 * DAY + DAY / 2;
    leaf(&root, GOOD_TLS, &ca, &www, past, future);
    leaf(&root, EXPIRED, &ca, &www, past, now - 3 * DAY - DAY / 2);
    leaf(&root, EXPIRES_SOON, &ca, &www, past, soon);
    leaf(&root, NOT_YET, &ca, &www, now + DAY, future);
    leaf(&root, OTHER_NAME, &ca, &["other.sluice.test"], past, future);
    leaf(&root, OTHER_CA, &authority("other-ca.sluice.test"), &www, past, future);
    std::fs::write(root.join(format!("{CA_ITSELF}.pem")), ca.pem()).unwrap();
    std::fs::write(root.join(format!("{CA_ITSELF}.key")), ca.key().serialize_pem()).unwrap();
    let server = |port: u16| {
        // One of them knows HTTP/1.1 alone.
        let http2 = if port == OTHER_NAME { "" } else { " http2" };
        let pem = root.join(port.to_string());
        format!(
            "  server {{\n    listen {port} ssl{http2};\n    listen [::]:{port} ssl{http2} ipv6only=on;\n    \
             ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_certificate {0}.pem;\n    ssl_certificate_key {0}.key;\n    \
             location = / {{ return 200 \"$ssl_server_name $http_host $server_protocol\\n\"; }}\n    \
             location / {{ return 404; }}\n  }}\n",
            pem.display()
        )
    };
    let servers: String =
        [GOOD_TLS, EXPIRED, EXPIRES_SOON, NOT_YET, OTHER_NAME, OTHER_CA, CA_ITSELF].map(server).concat();
    let grpc = format!(
        "  server {{\n    listen {GRPC_TLS} ssl http2;\n    ssl_certificate {0}.pem;\n    ssl_certificate_key {0}.key;\n    \
         location / {{ grpc_pass grpc://127.0.0.1:{GRPC}; }}\n  }}\n",
        root.join(GOOD_TLS.to_string()).display()
    );
    servers::nginx(&b1.ns, "b1-tls", &root, &(servers + &grpc), GOOD_TLS).unwrap()
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(
    root: &Path,
    port: u16,
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    from: SystemTime,
    until: SystemTime,
) {
    let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    (params.not_before, params.not_after) = (from.into(), until.into());
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, ca).unwrap();
    std::fs::write(root.join(format!("{port}.pem")), certificate.pem()).unwrap();
    std::fs::write(root.join(format!("{port}.key")), key.serialize_pem()).unwrap();
}

/// A server on b1 that treats each connection badly in its own way.
fn nasty(ns: &NetNs, port: u16, treat: fn(TcpStream)) {
    let listener = ns.run(|| TcpListener::bind(("::", port))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || treat(stream));
        }
    });
}

fn nasty_servers(ns: &NetNs) {
    fn keep(mut stream: TcpStream) {
        let _ = stream.read_to_end(&mut Vec::new());
    }
    fn say(mut stream: TcpStream, text: &str) {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(text.as_bytes());
    }
    nasty(ns, SILENT, keep);
    nasty(ns, TRICKLE, |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    nasty(ns, CLOSES, drop);
    nasty(ns, RESETS, |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    nasty(ns, REDIRECTS, |stream| say(stream, "HTTP/1.1 301 Moved\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"));
    nasty(ns, GREETS, |stream| say(stream, "220 mx.sluice.test ESMTP\r\n"));
}

/// Answers every datagram with `pong ` and itself; and a port that answers none.
fn udp_servers(ns: &NetNs) {
    let bind = |port| ns.run(move || UdpSocket::bind(("::", port))).unwrap().unwrap();
    let (echo, silent) = (bind(UDP_ECHO), bind(UDP_SILENT));
    std::thread::spawn(move || {
        let mut datagram = [0; 2_048];
        while let Ok((length, peer)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(&[b"pong ", &datagram[..length]].concat(), peer);
        }
        drop(silent);
    });
}

/// The standard health service as tonic has it.
fn grpc_server(ns: &NetNs) {
    let listener = ns.run(|| TcpListener::bind(("::", GRPC))).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (reporter, service) = tonic_health::server::health_reporter();
            reporter.set_service_status("shop.v1.Cart", ServingStatus::Serving).await;
            reporter.set_service_status("shop.v1.Stock", ServingStatus::NotServing).await;
            let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
    });
}

/// How many processes run `sleep` for so long.
fn sleepers(seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.ends_with(&wanted)).count()
}

fn backend<'s>(status: &'s Status, service: &str) -> &'s BackendStatus {
    &status.services.iter().find(|s| s.name == service).unwrap().backends[0]
}

/// As written, or up to the first `…` of what was expected.
fn is_like(text: Option<&str>, expected: &str) -> bool {
    let text = text.unwrap_or_default();
    expected.split_once('…').map_or(text == expected, |(beginning, _)| text.starts_with(beginning))
}

fn is_as_expected(b: &BackendStatus, expected: Is) -> bool {
    let (health, reason, warning) = match expected {
        Is::Up(reason) => (Health::Up, reason, ""),
        Is::Warned(reason, warning) => (Health::Up, reason, warning),
        Is::Down(reason) => (Health::Down, reason, ""),
        Is::Unknown(reason) => (Health::Checking, reason, ""),
    };
    b.health == health && is_like(b.reason.as_deref(), reason) && is_like(b.warning.as_deref(), warning)
}

#[test]
#[ignore = "needs root"]
fn every_kind_of_server_is_found_to_be_what_it_is_and_told_in_an_operators_words() {
    let lab = Lab::new().unwrap();
    let _tls = tls_servers(&lab);
    let b1 = &lab.backends[0].ns;
    // Several checks ask for closed ports, and a host says so once a second.
    b1.sysctl(&[("net/ipv4/icmp_ratelimit", "0")]).unwrap();
    nasty_servers(b1);
    udp_servers(b1);
    grpc_server(b1);
    let mut config = Config::new(&lab);
    config.appendix = services(&lab);
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    let all = |status: &Status| {
        TABLE.iter().enumerate().all(|(i, (.., expected))| is_as_expected(backend(status, &name(i)), *expected))
    };
    let waited = daemon.wait("every check found what it should", Duration::from_secs(20), all);
    let status = waited.or_else(|_| daemon.status()).unwrap();
    let mut wrong = Vec::new();
    for (i, (what, _, expected)) in TABLE.iter().enumerate() {
        let b = backend(&status, &name(i));
        if !is_as_expected(b, *expected) {
            wrong.push(format!("{what}: {}: {:?} {:?}", b.health.name(), b.reason, b.warning));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), daemon.log(20));
    // What programs leave behind is gone when they end, and what hangs when its time is over.
    let deadline = Instant::now() + Duration::from_secs(5);
    while sleepers("61.5") > 0 {
        assert!(Instant::now() < deadline, "what programs start outlives them");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(sleepers("61.25") <= 1, "a program that hangs is not killed");
    // An expiring certificate is told in the log, once, and in the table, although the backend is up.
    let log = daemon.log(100_000);
    assert_eq!(log.lines().filter(|line| line.contains("expires in 5 days")).count(), 2, "{log}");
    assert!(daemon.cli_ok(&["status"]).unwrap().contains("expires in 5 days"));
}

#[test]
#[ignore = "needs root"]
fn a_certificate_that_is_renewed_is_seen_at_the_next_check_and_a_new_ca_too() {
    let lab = Lab::new().unwrap();
    let mut tls = tls_servers(&lab);
    let config = |lab: &Lab| {
        let mut config = Config::new(lab);
        config.appendix = format!(
            "  - name: renewed\n    listen: {}:443\n    health: {{ https: {{ sni: www.sluice.test, ca: {} }}, interval: 200ms, \
             rise: 1, fall: 1 }}\n    backends: [{{ address: {}, port: {EXPIRED} }}]\n",
            VIP.v4,
            lab.dir().join("ca.pem").display(),
            lab.backends[0].address.v4,
        );
        config.yaml()
    };
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &config(&lab)).unwrap();
    let is = |health: Health, reason: &'static str| {
        move |status: &Status| {
            let b = backend(status, "renewed");
            b.health == health && is_like(b.reason.as_deref(), reason)
        }
    };
    let soon = Duration::from_secs(10);
    daemon.wait("it has expired", soon, is(Health::Down, "certificate expired 3 days ago (…")).unwrap();
    // Another CA, and a certificate of it.
    tls.end();
    let (root, ca, now) = (lab.dir().join("tls"), authority("new-ca.sluice.test"), SystemTime::now());
    leaf(&root, EXPIRED, &ca, &["www.sluice.test"], now - DAY, now + 100 * DAY);
    let servers = format!(
        "  server {{\n    listen {EXPIRED} ssl;\n    listen [::]:{EXPIRED} ssl ipv6only=on;\n    ssl_certificate {0}.pem;\n    \
         ssl_certificate_key {0}.key;\n    location = / {{ return 200; }}\n  }}\n",
        root.join(EXPIRED.to_string()).display()
    );
    let _tls = servers::nginx(&lab.backends[0].ns, "b1-tls-2", &root, &servers, EXPIRED).unwrap();
    daemon.wait("its CA is not known", soon, is(Health::Down, "certificate is of no CA …")).unwrap();
    std::fs::write(lab.dir().join("ca.pem"), ca.pem()).unwrap();
    daemon.wait("it is good", soon, is(Health::Up, "status 200")).unwrap();
}

/// A port of a backend's host that answers, until it is made not to. The kernel completes handshakes; nobody accepts them.
struct Mortal<'l> {
    ns: &'l NetNs,
    port: u16,
    listener: Option<TcpListener>,
}

impl<'l> Mortal<'l> {
    fn new(ns: &'l NetNs, port: u16) -> Self {
        let mut mortal = Self { ns, port, listener: None };
        mortal.revive();
        mortal
    }

    fn kill(&mut self) {
        self.listener = None;
    }

    fn revive(&mut self) {
        let port = self.port;
        self.listener = Some(self.ns.run(move || TcpListener::bind(("::", port))).unwrap().unwrap());
    }
}

/// How soon what is waited for has to come.
const SOON: Duration = Duration::from_secs(10);

fn events(daemon: &Daemon, arguments: &[&str]) -> Vec<Event> {
    let line = [&["backends", "events", "-o", "json"], arguments].concat();
    serde_json::from_str::<Events>(&daemon.cli_ok(&line).unwrap()).unwrap().events
}

#[test]
#[ignore = "needs root"]
fn every_change_of_health_is_an_event_and_the_list_says_why() {
    let lab = Lab::new().unwrap();
    let mut server = Mortal::new(&lab.backends[0].ns, 7_401);
    let mut config = Config::new(&lab);
    config.appendix = format!(
        "  - name: mortal\n    listen: {}:7401\n    health: {{ tcp: {{}}, interval: 100ms, timeout: 100ms, rise: 2, fall: 2 }}\n    \
         backends: [{{ name: b, address: {}, port: 7401 }}]\n",
        VIP.v4, lab.backends[0].address.v4,
    );
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    let is = |health: Health| move |status: &Status| backend(status, "mortal").health == health;
    daemon.wait("it is up", SOON, is(Health::Up)).unwrap();
    server.kill();
    let status = daemon.wait("it is down", SOON, is(Health::Down)).unwrap();
    assert_eq!(backend(&status, "mortal").transitions, 2);
    let list = daemon.cli_ok(&["backends", "list", "--service", "mortal"]).unwrap();
    assert!(list.contains("DOWN") && list.contains("connection refused"), "{list}");
    server.revive();
    daemon.wait("it is up again", SOON, is(Health::Up)).unwrap();
    daemon.cli_ok(&["drain", "mortal/b"]).unwrap();

    let seen = events(&daemon, &["--service", "mortal", "--backend", "b"]);
    let told: Vec<_> = seen.iter().map(|e| (e.kind, e.from.as_str(), e.to.as_str(), e.reason.as_str())).collect();
    let expected = [
        (EventKind::Health, "checking", "up", "connected"),
        (EventKind::Health, "up", "down", "connection refused"),
        (EventKind::Health, "down", "up", "connected"),
        (EventKind::State, "active", "drain", "by an operator"),
    ];
    assert_eq!(told, expected);
    assert_eq!(seen[2].last_error.as_deref(), Some("connection refused"));
    assert!(seen[..3].iter().all(|e| e.latency_ms.is_some_and(|ms| ms < 100.0)), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms && pair[0].number < pair[1].number), "{seen:?}");
    let log = daemon.log(100_000);
    assert!(log.contains("backend is down") && log.contains("connection refused"), "{log}");

    let status = daemon.status().unwrap();
    let checks = &status.services.iter().find(|s| s.name == "mortal").unwrap().checks;
    assert!(checks.failed >= 2 && checks.took.count == checks.passed + checks.failed, "{checks:?}");
    assert_eq!(checks.ejections, 1);
    assert!(status.checks_late.count > 10, "{:?}", status.checks_late);
}

/// A service whose backends are ports of b1, checked ten times a second. `keys` are its own, each line indented by four.
fn pool(lab: &Lab, name: &str, port: u16, keys: &str, backends: &[(u16, &str)]) -> String {
    let backends = backends.iter().map(|(port, keys)| {
        format!("      - {{ name: b{port}, address: {}, port: {port}{keys} }}\n", lab.backends[0].address.v4)
    });
    format!(
        "  - name: {name}\n    listen: {}:{port}\n    health: {{ tcp: {{}}, interval: 100ms, timeout: 100ms, rise: 2, fall: 2 }}\n{keys}    \
         backends:\n{}",
        VIP.v4,
        backends.collect::<String>()
    )
}

/// Shares of new flows, in the order of the file.
fn shares(status: &Status, service: &str) -> Vec<f64> {
    status.services.iter().find(|s| s.name == service).unwrap().backends.iter().map(|b| b.share).collect()
}

#[test]
#[ignore = "needs root"]
fn what_looks_dead_is_kept_or_replaced_as_the_service_says() {
    let lab = Lab::new().unwrap();
    let b1 = &lab.backends[0].ns;
    let mut servers: Vec<Mortal<'_>> = [7_511, 7_512, 7_513, 7_521, 7_522, 7_523, 7_531, 7_532, 7_533, 7_541, 7_542]
        .map(|port| Mortal::new(b1, port))
        .into();
    let mut each = |ports: &[u16], act: fn(&mut Mortal<'_>)| {
        servers.iter_mut().filter(|server| ports.contains(&server.port)).for_each(act);
    };
    let mut config = Config::new(&lab);
    config.appendix = [
        pool(&lab, "careful", 7_510, "    max_ejected: 34%\n", &[(7_511, ""), (7_512, ""), (7_513, "")]),
        pool(&lab, "panicky", 7_520, "    panic_threshold: 50%\n", &[(7_521, ""), (7_522, ""), (7_523, "")]),
        pool(&lab, "spared", 7_530, "", &[(7_531, ""), (7_532, ""), (7_533, ", fallback: true")]),
        pool(&lab, "open", 7_540, "    on_empty: fail-open\n", &[(7_541, ""), (7_542, "")]),
    ]
    .concat();
    // A fallback has no share, so this is not `start`.
    let mut daemon = Daemon::spawn(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    let status = daemon.wait("all is well", SOON, |status| status.degraded.is_empty()).unwrap();
    assert_eq!(shares(&status, "spared")[2], 0.0, "a fallback waits");
    assert_eq!(daemon.cli(&["status", "--check"]).unwrap().status.code(), Some(0));

    each(&[7_511, 7_512, 7_521, 7_522, 7_531, 7_532, 7_541, 7_542], |server| server.kill());
    let service = |status: &Status, name: &str| status.services.iter().find(|s| s.name == name).unwrap().clone();
    let settled = |status: &Status| {
        let kept = |name| service(status, name).backends.iter().filter(|b| b.kept).count();
        (kept("careful"), kept("panicky"), kept("open")) == (1, 2, 2)
            && shares(status, "spared")[2] == 1.0
            && service(status, "panicky").panic
    };
    let status = daemon.wait("each does as it was told", SOON, settled).unwrap();
    let zeros = |name| shares(&status, name).iter().filter(|share| **share == 0.0).count();
    assert_eq!([zeros("careful"), zeros("panicky"), zeros("spared"), zeros("open")], [1, 0, 2, 0]);
    assert!(service(&status, "open").fail_open && service(&status, "spared").fallback);
    let ready = ["careful", "panicky", "spared", "open"].map(|name| service(&status, name).ready);
    assert_eq!(ready, [true, true, true, false]);
    for words in
        ["service panicky: PANIC", "service spared: fallback", "service open: every backend", "looks dead and is kept"]
    {
        assert!(status.degraded.iter().any(|line| line.contains(words)), "{words}: {:?}", status.degraded);
    }
    assert_eq!(daemon.cli(&["status", "--check"]).unwrap().status.code(), Some(5));
    // The kernel answers for the fallback, and nobody else is there to. A ring's change takes a while for SYNs.
    let connect = || TcpStream::connect_timeout(&(VIP.v4, 7_530).into(), Duration::from_secs(10));
    lab.client.run(connect).unwrap().expect("the fallback takes connections");
    let list = daemon.cli_ok(&["backends", "list", "--service", "panicky"]).unwrap();
    assert_eq!(list.matches("DOWN, kept").count(), 2, "{list}");

    each(&[7_511, 7_512, 7_521, 7_522, 7_531, 7_532, 7_541, 7_542], |server| server.revive());
    let back =
        daemon.wait("the dead are back", SOON, |status| shares(status, "careful").iter().all(|share| *share > 0.0));
    let status = back.unwrap();
    assert!(service(&status, "panicky").panic && service(&status, "spared").fallback, "until it has been quiet");
    let status = daemon.wait("it has been quiet", 2 * SOON, |status| status.degraded.is_empty()).unwrap();
    assert_eq!(shares(&status, "spared")[2], 0.0);
    let told: Vec<_> = events(&daemon, &[])
        .into_iter()
        .filter(|e| !matches!(e.kind, EventKind::Health | EventKind::Ready))
        .map(|e| (e.service, e.kind, e.to))
        .collect();
    for (name, kind) in [("panicky", EventKind::Panic), ("spared", EventKind::Fallback), ("open", EventKind::Open)] {
        let of: Vec<_> =
            told.iter().filter(|(service, ..)| service == name).map(|(_, k, to)| (*k, to.as_str())).collect();
        assert_eq!(of, [(kind, "on"), (kind, "off")], "{name}: {told:?}");
    }
    assert!(told.contains(&("careful".to_owned(), EventKind::Kept, "kept".to_owned())), "{told:?}");
}

/// The status code of `/readyz`.
fn readyz(lab: &Lab) -> u16 {
    let answer = lab.lb.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect("127.0.0.1:9480")?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    answer.unwrap().unwrap().split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn hooks_are_told_in_order_and_readiness_does_not_flap() {
    let lab = Lab::new().unwrap();
    let mut server = Mortal::new(&lab.backends[0].ns, 7_601);
    // A receiver on the balancer's host, and a file that `nobody` may write to.
    let listener = lab.lb.run(|| TcpListener::bind("127.0.0.1:9999")).unwrap().unwrap();
    let (sent, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = String::new();
            let mut chunk = [0; 4096];
            while !request.ends_with('}') {
                let Ok(n @ 1..) = stream.read(&mut chunk) else { break };
                request.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
            let body = request.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            if sent.send(serde_json::from_str::<Event>(body).unwrap()).is_err() {
                return;
            }
        }
    });
    let file = std::env::temp_dir().join(format!("{}-hook", lab.name()));
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let mut config = Config::new(&lab);
    config.appendix = pool(&lab, "mortal", 7_600, "", &[(7_601, "")])
        + &format!(
            "hooks:\n  - {{ on: service, exec: [/bin/sh, -c, 'echo $SLUICE_SERVICE $SLUICE_EVENT $SLUICE_TO >> {}'] }}\n  \
             - {{ on: backend, webhook: \"http://127.0.0.1:9999/x\" }}\n  - {{ exec: /bin/false }}\n",
            file.display()
        );
    let mut daemon = Daemon::start(&lab, Launcher::beside_us().unwrap(), &config.yaml()).unwrap();
    let ready = |wanted: bool| move |s: &Status| s.services.iter().any(|s| s.name == "mortal" && s.ready == wanted);
    daemon.wait("it is ready", SOON, ready(true)).unwrap();
    assert_eq!(readyz(&lab), 200);
    for _ in 0..3 {
        server.kill();
        daemon.wait("it is down", SOON, |status| backend(status, "mortal").health == Health::Down).unwrap();
        daemon.wait("it is unready", SOON, ready(false)).unwrap();
        assert_eq!(readyz(&lab), 503);
        server.revive();
        daemon.wait("it is up", SOON, |status| backend(status, "mortal").health == Health::Up).unwrap();
        assert_eq!(readyz(&lab), 503, "it came up a moment ago");
    }
    let up = Instant::now();
    daemon.wait("it is ready again", SOON, ready(true)).unwrap();
    assert!(up.elapsed() >= Duration::from_secs(4), "{:?}", up.elapsed());
    assert_eq!(readyz(&lab), 200);

    let told = || std::fs::read_to_string(&file).unwrap();
    let expected = ["mortal ready ready", "mortal ready unready", "mortal ready ready"];
    let deadline = Instant::now() + SOON;
    while told().lines().filter(|line| line.starts_with("mortal")).count() < expected.len() {
        assert!(Instant::now() < deadline, "{}", told());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(told().lines().filter(|line| line.starts_with("mortal")).collect::<Vec<_>>(), expected);
    std::fs::remove_file(&file).unwrap();
    let mortal: Vec<String> = std::iter::from_fn(|| received.recv_timeout(Duration::from_secs(1)).ok())
        .filter(|event| event.service == "mortal")
        .map(|event| event.to)
        .collect();
    assert_eq!(mortal, ["up", "down", "up", "down", "up", "down", "up"]);
    let hooks = daemon.status().unwrap().hooks;
    assert!(hooks[0].done >= 3 && hooks[1].done >= 7 && hooks[2].failed >= 10, "{hooks:?}");
    assert!(hooks.iter().all(|hook| hook.lost == 0) && hooks[2].done == 0, "{hooks:?}");
}

#[test]
#[ignore = "needs root"]
fn an_agent_says_how_much_traffic_its_backend_gets() {
    let lab = Lab::new().unwrap();
    let b1 = &lab.backends[0].ns;
    let _servers = [7_701, 7_702].map(|port| Mortal::new(b1, port));
    let says = std::sync::Arc::new(std::sync::Mutex::new("100%\n".to_owned()));
    let word = std::sync::Arc::clone(&says);
    let listener = b1.run(|| TcpListener::bind(("::", 7_799))).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(word.lock().unwrap().as_bytes());
        }
    });
    // The first of two pools has the agent, so that the other shows what the checks alone say.
    let agent = "    agent: { port: 7799, interval: 100ms }\n";
    let mut config = Config::new(&lab);
    config.appendix = pool(&lab, "asked", 7_700, agent, &[(7_701, "")]) + &pool(&lab, "not", 7_710, "", &[(7_702, "")]);
    let launcher = Launcher::beside_us().unwrap();
    let mut daemon = Daemon::start(&lab, launcher.clone(), &config.yaml()).unwrap();
    type Wished = fn(&BackendStatus) -> bool;
    let table: [(&str, Wished); 7] = [
        ("75%\n", |b| b.weight == 75 && b.share == 1.0),
        ("77% maxconn:30\n", |b| b.weight == 75),
        ("drain\n", |b| b.state == BackendState::Drain && !b.overridden && b.share == 0.0 && b.health == Health::Up),
        ("ready 20%\n", |b| b.state == BackendState::Active && b.weight == 20),
        ("down#disk full\n", |b| {
            b.health == Health::Down && b.reason.as_deref() == Some("its agent says down: disk full")
        }),
        ("nonsense\n", |b| b.health == Health::Down),
        ("up drain 50%\n", |b| b.health == Health::Up && b.state == BackendState::Drain && b.weight == 50),
    ];
    for (word, wished) in table {
        *says.lock().unwrap() = word.to_owned();
        std::thread::sleep(Duration::from_millis(250));
        let what = format!("the agent said {word:?}");
        let status = daemon.wait(&what, SOON, |status| wished(backend(status, "asked"))).unwrap();
        let other = backend(&status, "not");
        assert_eq!((other.weight, other.health, other.state), (100, Health::Up, BackendState::Active), "{what}");
    }
    let told: Vec<String> = events(&daemon, &["--service", "asked"])
        .into_iter()
        .filter(|e| e.kind == EventKind::Agent)
        .map(|e| e.to)
        .collect();
    assert_eq!(told, ["ready 75%", "drain 75%", "ready 20%", "down: disk full", "drain 50%"]);
    let log = daemon.log(100_000);
    assert_eq!(log.matches("speaks of maxconn").count(), 1, "{log}");

    // Over a restart it holds, though the agent says nothing new.
    *says.lock().unwrap() = "nonsense\n".to_owned();
    daemon.stop().unwrap();
    let mut daemon = Daemon::spawn(&lab, launcher, &config.yaml()).unwrap();
    let drained = |status: &Status| backend(status, "asked").agent.as_deref() == Some("drain 50%");
    let status = daemon.wait("it is there again", SOON, drained).unwrap();
    assert_eq!(backend(&status, "asked").share, 0.0);
}
