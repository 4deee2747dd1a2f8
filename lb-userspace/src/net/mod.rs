//! The host's network as the kernel knows it: links, addresses, routes, neighbours, and the VIPs we add.
//!
//! [`state::NetState`] is plain data and pure look-ups; [`watch::Watcher`] keeps one current. The writers are
//! [`vip`] (addresses) and [`neigh`] (neighbours the data plane needs); both only ever touch what they added.
//!
//! The trap of this module is to believe that netlink is asynchronous. The kernel does a request's work inside
//! `sendmsg`, under its global rtnl lock, whatever the socket's mode; so requests here are plain blocking calls,
//! and whatever runs for long (watching, announcing, keeping neighbours) has a thread of its own. Sockets belong
//! to the network namespace of the thread that opens them.

pub mod addr;
pub mod announce;
pub mod forwarding;
pub mod link;
pub mod neigh;
pub mod route;
mod rtnl;
pub mod state;
pub mod vip;
pub mod watch;

pub use state::{NetState, Resolution, RouteView};

use std::io;
use std::path::PathBuf;

/// What can go wrong between us and the host's network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a request.
    #[error("cannot {what}: {source}{}", advice(.source))]
    Kernel { what: String, source: io::Error },
    /// The configuration names an interface this host does not have.
    #[error("there is no network interface named {name:?} on this host; {}", existing(.exist, .similar))]
    NoSuchInterface { name: String, exist: Vec<String>, similar: Option<String> },
    /// The list of addresses we added could not be read or written.
    #[error("cannot {what} {}: {source}", .path.display())]
    StateFile { what: &'static str, path: PathBuf, source: io::Error },
}

impl Error {
    fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }

    /// The kernel's error number, where it was the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::StateFile { source, .. } => source.raw_os_error(),
            Self::NoSuchInterface { .. } => None,
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; this needs CAP_NET_ADMIN (run as root), and for an IPv6 address that net.ipv6.conf.*.disable_ipv6 is 0"
        }
        _ => "",
    }
}

fn existing(exist: &[String], similar: &Option<String>) -> String {
    match similar {
        Some(similar) => format!("did you mean {similar:?}? It has: {}", exist.join(", ")),
        None if exist.is_empty() => "it has none".to_owned(),
        None => format!("it has: {}", exist.join(", ")),
    }
}
