//! The program's own log (aya-log), for debugging in a lab: compiled out unless asked for when loading.

use aya_log::{EbpfLogger, Error};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The reading end. Variants share its map, so it stays valid when one replaces another.
pub struct PacketLog(EbpfLogger<&'static dyn log::Log>);

impl std::fmt::Debug for PacketLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PacketLog")
    }
}

impl PacketLog {
    /// The log of the program with this id.
    pub fn open(program_id: u32) -> Result<Self, Error> {
        EbpfLogger::init_from_id(program_id).map(Self)
    }

    /// Passes records on to the process's log, at debug level, until it is dropped.
    pub async fn run(self) {
        // SAFETY: the logger owns its file descriptor and keeps it open and the same until it is dropped.
        let logger = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut logger = match logger {
            Ok(logger) => logger,
            Err(e) => {
                tracing::warn!("cannot read the log of packets: {e}");
                return;
            }
        };
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}
