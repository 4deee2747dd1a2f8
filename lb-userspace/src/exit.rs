//! Exit codes: one table for the binary, its man page and scripts.

/// What the process tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Ok = 0,
    /// It was tried and did not work.
    Failed = 1,
    /// The command line makes no sense (clap's own code).
    Usage = 2,
    /// The configuration was refused; nothing was changed.
    ConfigInvalid = 3,
    /// No daemon answers on the admin socket.
    DaemonUnreachable = 4,
    /// It runs, but not as configured: a service without healthy backends, a fallback to generic XDP.
    Degraded = 5,
    /// This host cannot run it: kernel, privileges, interface.
    HostUnsupported = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(code: Exit) -> Self {
        Self::from(code as u8)
    }
}

/// An error that knows its exit code and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// The next step, printed on a line of its own.
    pub hint: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
