//! The exec check: a program's exit code decides, 0 is healthy.
//!
//! The program is an operator's and is trusted to be what they wrote, no more: it runs as `nobody`, without any
//! capability and without a way to gain one, without a shell between, with an environment of its own. The traps: a
//! child of the program that outlives it and keeps its output open (the whole process group is killed when the check is
//! over, and its output is read no longer than the program lives), a program that writes without end (only the first line
//! is kept), and `fork`, which takes a while in a process with large maps, so that it happens off the runtime's threads.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::Outcome;
use super::probe::Attempt;
use crate::model::ExecCheck;

/// `nobody` and `nogroup` on every Linux: what the kernel shows for ids it cannot (`overflowuid`).
const NOBODY: libc::uid_t = 65_534;

/// Bytes of output that are looked at for a first line.
const OUTPUT: usize = 4_096;

/// How long a pipe is read whose program has ended: what is in it is there.
const LEFTOVER: Duration = Duration::from_millis(100);

/// Longest piece of it in a reason.
const LINE: usize = 120;

/// One check; the attempt's address is told to the program.
pub async fn check(attempt: Attempt, check: &ExecCheck) -> Outcome {
    let environment =
        [("SLUICE_ADDRESS", attempt.address.ip().to_string()), ("SLUICE_PORT", attempt.address.port().to_string())];
    match run(&check.command, &environment, attempt.deadline()).await {
        Ok(Some((status, output))) => judge(attempt, status, &output),
        Ok(None) => Outcome::Failed { reason: format!("it did not end within {:?}", attempt.limit), latency: None },
        Err(reason) => Outcome::Skipped { reason },
    }
}

/// Runs a program, and its arguments, to its end: how it ended, and the beginning of its output. `None` when it was
/// killed at the deadline, with everything it started.
///
/// # Errors
/// In words, when it cannot be run.
pub(crate) async fn run(
    words: &[String],
    environment: &[(&str, String)],
    deadline: Instant,
) -> Result<Option<(ExitStatus, Vec<u8>)>, String> {
    let command = command(words, environment);
    let handle = tokio::runtime::Handle::current();
    // The runtime is entered for the child's pipes, and left before anything is waited for.
    let spawned = tokio::task::spawn_blocking(move || {
        let _inside = handle.enter();
        Group::spawn(command)
    });
    let program = words.first().map_or("", String::as_str);
    let mut group = match spawned.await {
        Ok(Ok(group)) => group,
        Ok(Err(error)) => return Err(format!("{program} cannot be run: {error}")),
        Err(_) => return Err(format!("{program} was not run: the process is stopping")),
    };
    match timeout_at(deadline, group.run()).await {
        Ok(Ok(ended)) => Ok(Some(ended)),
        Ok(Err(error)) => Err(format!("{program} cannot be waited for: {error}")),
        Err(_) => Ok(None),
    }
}

fn judge(attempt: Attempt, status: ExitStatus, output: &[u8]) -> Outcome {
    let said = first_line(output).map(|line| format!(": {line}")).unwrap_or_default();
    match (status.code(), status.signal()) {
        (Some(0), _) => attempt.passed(format!("exit code 0{said}")),
        (Some(code), _) => attempt.failed(format!("exit code {code}{said}")),
        (None, signal) => {
            let signal = signal.and_then(|number| Signal::try_from(number).ok());
            attempt.failed(format!("killed by {}{said}", signal.map_or("a signal", Signal::as_str)))
        }
    }
}

/// What it said first, fit for a log.
fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line: String = text.lines().next()?.chars().filter(|c| !c.is_control()).take(LINE).collect();
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn command(words: &[String], environment: &[(&str, String)]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command
        .args(words)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    // SAFETY: between fork and exec only system calls are made; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(without_privileges);
    }
    command
}

/// Gives up everything that this process may do and others may not.
fn without_privileges() -> io::Result<()> {
    /// The version of the capability system calls with two words of each set.
    const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let done = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: none of these calls is given memory, but for `setgroups`, whose list is empty, and `capset`, which reads
    // two structures that live until it returns.
    unsafe {
        // Raw calls concern this thread alone, and in a child there is no other.
        if libc::geteuid() == 0 {
            done(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
            done(libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY))?;
            done(libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY))?;
        }
        done(libc::syscall(libc::SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        // Effective, permitted and inheritable, of 32 capabilities each time.
        let (header, none) = (Header { version: CAPABILITY_VERSION_3, pid: 0 }, [0u32; 6]);
        done(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()))?;
        // Set-user-id programs and file capabilities give nothing back.
        done(libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        // Ours are close-on-exec anyway; what this process was started with may not be.
        let _ = libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    Ok(())
}

/// A program and all it started; killed when it is let go of.
#[derive(Debug)]
struct Group {
    child: Child,
    id: Pid,
}

impl Group {
    fn spawn(mut command: Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let id = child.id().ok_or_else(|| io::Error::other("it has no process id"))?;
        Ok(Self { child, id: Pid::from_raw(id.cast_signed()) })
    }

    /// Waits for the program itself; the beginning of what it wrote.
    async fn run(&mut self) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut output = Vec::new();
        let mut stdout = self.child.stdout.take();
        let status = tokio::select! {
            status = self.child.wait() => status?,
            // Closing its output is not the end of it.
            () = async { read(&mut stdout, &mut output).await; std::future::pending().await } => {
                unreachable!("what is pending never comes")
            }
        };
        // What it left behind could hold the pipe open; what it wrote is in there.
        self.kill();
        let _ = timeout(LEFTOVER, read(&mut stdout, &mut output)).await;
        Ok((status, output))
    }

    /// Its id is nobody else's while a process of it is left; and if none is, it would take all other ids to be used
    /// before this one comes again.
    fn kill(&self) {
        let _ = killpg(self.id, Signal::SIGKILL);
    }
}

/// Reads to the end, and keeps the beginning.
async fn read(stdout: &mut Option<ChildStdout>, output: &mut Vec<u8>) {
    let Some(stdout) = stdout else { return };
    let mut chunk = [0; OUTPUT];
    while let Ok(n @ 1..) = stdout.read(&mut chunk).await {
        // The rest is read, so that the program can write it, and dropped.
        let room = OUTPUT - output.len();
        output.extend_from_slice(&chunk[..n.min(room)]);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_fit_for_a_log() {
        for (output, line) in [
            (&b"OK - 3 replicas\nmore\n"[..], Some("OK - 3 replicas")),
            (b"  \x1b[31mred\x1b[0m  ", Some("[31mred[0m")),
            (b"\n\nlate", None),
            (b"", None),
            (b"\xff\xfe", Some("\u{fffd}\u{fffd}")),
        ] {
            assert_eq!(first_line(output).as_deref(), line, "{output:?}");
        }
        assert_eq!(first_line(&[b'x'; 500]).unwrap().len(), LINE);
    }
}
