//! The backends' servers: nginx for HTTP, dnsmasq for DNS over UDP, both answering with the backend's name.
//!
//! Real programs with real TCP stacks below them: what they accept is what users' servers accept.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::netns::NetNs;
use super::process::Process;
use super::slowness;

/// Where the backends' nginx listens.
pub const HTTP_PORT: u16 = 8080;
/// Where the backends' dnsmasq listens, UDP and TCP.
pub const DNS_PORT: u16 = 5353;
/// Bytes of `/big`.
pub const BIG: usize = 1 << 20;
/// The name whose TXT record is the backend's name.
pub const WHO: &str = "who.sluice.test";

/// Starts nginx in `ns`. `/` answers `name`, `/healthz` answers 200, `/big` a megabyte of zeroes; every answer
/// names the backend in `x-backend`.
pub fn http(ns: &NetNs, name: &str, dir: &Path) -> Result<Process> {
    let root = dir.join(format!("{name}-nginx"));
    std::fs::create_dir_all(&root)?;
    std::fs::write(root.join("big"), vec![b'0'; BIG])?;
    let here = root.display();
    let server = format!(
        "  add_header x-backend {name};\n\
         \x20 server {{\n    listen {HTTP_PORT} backlog=1024;\n    listen [::]:{HTTP_PORT} ipv6only=on backlog=1024;\n\
         \x20   location = / {{ return 200 \"{name}\\n\"; }}\n\
         \x20   location = /healthz {{ return 200 \"ok\\n\"; }}\n\
         \x20   location = /big {{ root {here}; }}\n  }}\n"
    );
    nginx(ns, name, &root, &server, HTTP_PORT)
}

/// Starts nginx in `ns` with `servers` as its HTTP configuration, one of which listens on `port`, on both families.
pub fn nginx(ns: &NetNs, name: &str, root: &Path, servers: &str, port: u16) -> Result<Process> {
    std::fs::create_dir_all(root)?;
    let conf = root.join("nginx.conf");
    let here = root.display();
    // One process, no workers: ending it by its id ends all of it, as a crash of the machine would.
    std::fs::write(
        &conf,
        format!(
            "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 1000; }}\n\
             http {{\n  access_log off;\n  default_type text/plain;\n\
             \x20 client_body_temp_path {here}/body;\n  proxy_temp_path {here}/proxy;\n\
             \x20 fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n  scgi_temp_path {here}/scgi;\n\
             {servers}}}\n"
        ),
    )?;
    let mut command = ns.command("nginx")?;
    command.arg("-c").arg(&conf).arg("-p").arg(root).args(["-e", "stderr"]);
    let mut server = Process::start(name, command, &root.join("log"), Signal::SIGKILL)
        .context("nginx is the lab's HTTP server (Debian: nginx-light)")?;
    wait_listening(ns, &mut server, port)?;
    Ok(server)
}

/// Starts dnsmasq in `ns`; a TXT query for [`WHO`] answers `name`.
pub fn dns(ns: &NetNs, name: &str, dir: &Path) -> Result<Process> {
    let mut command = ns.command("dnsmasq")?;
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--group=root", "--pid-file="])
        .args(["--log-facility=-", "--no-resolv", "--no-hosts", "--no-poll"])
        .arg(format!("--port={DNS_PORT}"))
        .arg(format!("--txt-record={WHO},{name}"));
    let mut server = Process::start(name, command, &dir.join(format!("{name}-dnsmasq.log")), Signal::SIGKILL)
        .context("dnsmasq is the lab's DNS server (Debian: dnsmasq-base)")?;
    wait_listening(ns, &mut server, DNS_PORT)?;
    Ok(server)
}

fn wait_listening(ns: &NetNs, server: &mut Process, port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5) * slowness();
    loop {
        let open = ns.run(|| {
            ["127.0.0.1", "::1"].iter().all(|host| {
                host.parse().is_ok_and(|ip| {
                    let address = SocketAddr::new(ip, port);
                    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
                })
            })
        })?;
        if open {
            return Ok(());
        }
        if let Some(status) = server.ended() {
            bail!("a server in {} ended with {status}:\n{}", ns.name(), server.tail(10));
        }
        if Instant::now() > deadline {
            bail!("a server in {} does not listen on port {port}:\n{}", ns.name(), server.tail(10));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
