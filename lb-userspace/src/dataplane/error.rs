//! What can go wrong between us and the kernel, in words that say what to do.

use std::io;
use std::path::PathBuf;

use super::kernel::{self, OLDEST};
use crate::exit::{Exit, Failure};

#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    #[error("not permitted to load BPF programs")]
    NotPermitted,
    #[error("the kernel refused the program: {0}")]
    Refused(String),
    #[error("Linux {release} is too old, {}.{} or newer is needed: {why}", OLDEST.0, OLDEST.1)]
    TooOld { release: String, why: String },
    #[error("the kernel cannot create the map {name}: {why}")]
    Map { name: String, why: String },
    #[error("writing the map {name} failed: {why}")]
    Write { name: &'static str, why: String },
    #[error("the map {name} is full: it has room for {room} entries, {wanted} are wanted")]
    Full { name: &'static str, room: usize, wanted: usize },
    #[error("cannot use {path}: {why}")]
    Directory { path: PathBuf, why: String },
    #[error("{interface}: another program already runs at XDP there{holder}")]
    Occupied { interface: String, holder: String },
    #[error("{interface}: the driver cannot run XDP natively ({why})")]
    NotNative { interface: String, why: String },
    #[error("{interface}: attaching failed: {why}")]
    Attach { interface: String, why: String },
    #[error("there is no interface called {0}")]
    NoInterface(String),
    #[error("another sluice is running on this host{0}")]
    Locked(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DataplaneError {
    /// What the kernel refused, with its age for a reason if it is old.
    pub(super) fn or_too_old(self) -> Self {
        match kernel::too_old() {
            Some(release) => Self::TooOld { release, why: self.to_string() },
            None => self,
        }
    }
}

impl From<DataplaneError> for Failure {
    fn from(error: DataplaneError) -> Self {
        use DataplaneError as E;
        let exit = match &error {
            E::NotPermitted
            | E::Refused(_)
            | E::TooOld { .. }
            | E::Map { .. }
            | E::Directory { .. }
            | E::NotNative { .. } => Exit::HostUnsupported,
            E::NoInterface(_) => Exit::HostUnsupported,
            _ => Exit::Failed,
        };
        let hint = match &error {
            E::NotPermitted => Some(
                "run it as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_NET_RAW; in a \
                 container: --privileged --network host",
            ),
            E::Refused(_) => Some(
                "this kernel should take it: please report the message with the output of `uname -a`; docs/kernels.md lists \
                 where Sluice was tried",
            ),
            E::TooOld { .. } => Some("boot a newer kernel; docs/kernels.md says what each feature needs"),
            E::Map { .. } => Some("if memory is short, lower `limits`"),
            E::Directory { .. } => {
                Some("a bpffs must be mounted there: mount -t bpf bpf /sys/fs/bpf (or set node.bpf_dir)")
            }
            E::NotNative { .. } => Some("use `xdp: auto` or `xdp: generic` for this interface, at a lower speed"),
            E::Full { .. } => Some("raise `limits` in the configuration and restart"),
            E::Locked(_) => {
                Some("stop it first (systemctl stop sluice), or give this one its own node.run_dir and node.bpf_dir")
            }
            E::NoInterface(_) => Some("`ip link` lists the interfaces; name one of them under node.interfaces"),
            _ => None,
        };
        let failure = Failure::new(exit, error.to_string());
        if let E::Occupied { interface, .. } = &error {
            return failure.hint(format!("stop that program, or take it off: ip link set dev {interface} xdp off"));
        }
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
