//! Telling systemd how we are doing: the `sd_notify` protocol, which is one datagram to `$NOTIFY_SOCKET`.
//!
//! The unit is `Type=notify`; `notify-reload` works too. The trap there: systemd only believes that a reload has begun if
//! `RELOADING=1` carries the `MONOTONIC_USEC` of this moment, and only believes that it has ended when `READY=1`
//! follows — also when the new configuration was refused. Without it the unit hangs in "reloading".

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long the manager may let us wait; it is PID 1 and usually quick.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to the service manager; does nothing when there is none.
#[derive(Debug, Default)]
pub struct Notify {
    manager: Option<(UnixDatagram, SocketAddr)>,
}

impl Notify {
    /// From the environment systemd gave us.
    pub fn from_env() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        match reach(&name) {
            Ok(manager) => Self { manager: Some(manager) },
            Err(e) => {
                tracing::warn!("cannot notify systemd at {}: {e}", name.display());
                Self::default()
            }
        }
    }

    /// Packets are forwarded; also the end of every reload, accepted or refused.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", line(status)));
    }

    /// A reload has begun.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=Reloading\n", monotonic_usec()));
    }

    /// A clean stop has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Stopping\n");
    }

    /// The line `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", line(status)));
    }

    fn send(&self, message: &str) {
        let Some((socket, manager)) = &self.manager else { return };
        // By address each time: the manager may have been replaced since. Never fatal, because the balancer works
        // without its supervisor.
        if let Err(e) = socket.send_to_addr(message.as_bytes(), manager) {
            tracing::warn!("cannot notify systemd: {e}");
        }
    }
}

/// A path, or `@name` for the abstract namespace (sd_notify(3)).
fn reach(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Waiting a little beats losing the READY=1 without which the unit fails to start; waiting for ever does not.
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok((socket, address))
}

/// A newline would begin another assignment.
fn line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// `CLOCK_MONOTONIC` in microseconds, as systemd reads it.
fn monotonic_usec() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_reload_carries_its_monotonic_time_and_ends_with_ready() {
        let name = format!("sluice-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notify = Notify { manager: Some(reach(&format!("@{name}").into()).unwrap()) };

        let before = monotonic_usec();
        notify.reloading();
        let message = receive(&manager);
        let usec: i64 = message
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .expect("no MONOTONIC_USEC")
            .parse()
            .unwrap();
        assert!(message.starts_with("RELOADING=1\n"), "{message}");
        assert!((before..=monotonic_usec()).contains(&usec));

        notify.ready("2 services,\n3 backends up");
        assert_eq!(receive(&manager), "READY=1\nSTATUS=2 services, 3 backends up\n");
        notify.status("1 of 3 backends down");
        assert_eq!(receive(&manager), "STATUS=1 of 3 backends down\n");
        notify.stopping();
        assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=Stopping\n");
    }

    #[test]
    fn a_manager_that_went_away_stops_nothing_and_its_successor_is_told() {
        let path = std::env::temp_dir().join(format!("sluice-notify-{}", std::process::id()));
        let first = UnixDatagram::bind(&path).unwrap();
        let notify = Notify { manager: Some(reach(&path.clone().into_os_string()).unwrap()) };
        drop(first);
        std::fs::remove_file(&path).unwrap();
        notify.ready("nobody hears this");

        let second = UnixDatagram::bind(&path).unwrap();
        notify.status("somebody does");
        assert_eq!(receive(&second), "STATUS=somebody does\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_manager_that_never_reads_is_waited_for_a_moment_only() {
        let name = format!("sluice-notify-full-{}", std::process::id());
        let _manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let (socket, address) = reach(&format!("@{name}").into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.send_to_addr(b"STATUS=full\n", &address).is_ok() {}
        socket.set_nonblocking(false).unwrap();
        let began = std::time::Instant::now();
        Notify { manager: Some((socket, address)) }.status("one more");
        assert!((PATIENCE / 2..PATIENCE * 5).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
