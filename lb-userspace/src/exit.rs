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

impl Exit {
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::ConfigInvalid,
        Self::DaemonUnreachable,
        Self::Degraded,
        Self::HostUnsupported,
    ];

    /// The code's line in `sluice --help` and the docs.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Failed => "it was tried and did not work",
            Self::Usage => "the command line makes no sense, or names something that does not exist",
            Self::ConfigInvalid => "the configuration was refused; nothing was changed",
            Self::DaemonUnreachable => "no daemon answers on the admin socket",
            Self::Degraded => "it runs, but not as configured (status --check)",
            Self::HostUnsupported => "this host cannot run it: kernel, privileges or interface",
        }
    }

    /// From the number another process gave; unknown ones mean that it failed.
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Failed)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_as_listed_and_survive_a_trip_through_a_number() {
        for (code, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(exit as usize, code);
            assert_eq!(Exit::from_code(exit as u8), exit);
        }
        assert_eq!(Exit::from_code(99), Exit::Failed);
    }
}
