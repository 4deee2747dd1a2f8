//! One virtual machine: started on a kernel, heard over a serial port, and always ended.
//!
//! It runs as whoever runs us, needs no root, and can read of the host what that user can; it writes to one directory.
//! Traps: a QEMU whose port is its standard input takes the end of it for the guest's to hang on, so the port is a file;
//! and a `/dev/kvm` that opens may still not run a machine, which is only known by trying.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::initramfs::{self, KEPT_TAG, ROOT_TAG};
use super::kernels::Unpacked;

/// Begins a line that is not a test's.
pub const MARK: &str = "\u{1}vm ";
/// Memory, of which a machine takes what it uses. Test programs have tables of a hundred megabytes.
const MEGABYTES: &str = "4096";
/// Two are enough for what one CPU's maps must not show another, and what small hosts have.
const CPUS: &str = "2";

/// How QEMU executes what the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// Translated: some ten times slower, and works everywhere.
    Tcg,
}

impl Accelerator {
    /// The best that works here.
    pub fn find(qemu: &Path) -> Self {
        // Everything a machine needs is set up before the first instruction, which `-S` holds back.
        let mut probe = Command::new(qemu);
        probe.args(["-S", "-nodefaults", "-display", "none", "-accel", "kvm", "-cpu", "host", "-qmp", "stdio"]);
        let mut works = || -> Option<bool> {
            let mut child = probe.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
            let words = br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#;
            let _ = child.stdin.take()?.write_all(words);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline {
                if let Some(status) = child.try_wait().ok()? {
                    return Some(status.success());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill().and_then(|()| child.wait());
            None
        };
        if works() == Some(true) { Self::Kvm } else { Self::Tcg }
    }
}

/// Where a machine's files go.
#[derive(Debug)]
pub struct Place {
    pub dir: PathBuf,
}

impl Place {
    /// What the kernel said.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// What failing tests left.
    pub fn kept(&self) -> PathBuf {
        self.dir.join("kept")
    }
}

/// What came from a machine.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A test's output, without the end of the line.
    Line(String),
    /// A line of our script, without the mark.
    Mark(String),
    /// Nothing for so long.
    Silence,
    /// The machine is off.
    End,
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    lines: Receiver<Heard>,
}

impl Machine {
    /// Boots `kernel` and runs `script` in it, which writes to `/dev/vport*`.
    pub fn start(
        qemu: &Path,
        accelerator: Accelerator,
        kernel: &Unpacked,
        place: &Place,
        script: &str,
    ) -> Result<Self> {
        let initramfs = place.dir.join("initramfs");
        fs::write(&initramfs, initramfs::archive(kernel, script)?)?;
        let _ = fs::remove_dir_all(place.kept());
        fs::create_dir_all(place.kept())?;
        // There in any case, to be shown.
        File::create(place.console())?;

        let mut command = Command::new(qemu);
        command.args([
            "-machine",
            "q35",
            "-nodefaults",
            "-no-reboot",
            "-display",
            "none",
            "-smp",
            CPUS,
            "-m",
            MEGABYTES,
        ]);
        command.args(match accelerator {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // An old CPU: libraries then do without wide vectors, which translate badly.
            Accelerator::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"],
        });
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&initramfs);
        // A panic ends the machine. Tests change outer maps thousands of times, which waits for a grace period each time;
        // and what holds speculation off makes every indirect jump of a translated CPU dear.
        let words = "console=ttyS0 panic=-1 quiet loglevel=4 rcupdate.rcu_expedited=1 mitigations=off";
        command.args(["-append", words]);
        command.arg("-serial").arg(format!("file:{}", place.console().display()));
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=said"]);
        command.args(["-chardev", "file,id=said,path=/dev/stdout,append=on"]);
        let shared = |id: &str, path: &Path, options: &str| {
            format!("local,id={id},path={},security_model=none,multidevs=remap{options}", path.display())
        };
        command.arg("-fsdev").arg(shared(ROOT_TAG, Path::new("/"), ",readonly=on"));
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev={ROOT_TAG},mount_tag={ROOT_TAG}"));
        command.arg("-fsdev").arg(shared(KEPT_TAG, &place.kept(), ""));
        command.arg("-device").arg(format!("virtio-9p-pci,fsdev={KEPT_TAG},mount_tag={KEPT_TAG}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());

        let us = std::process::id();
        // SAFETY: between fork and exec only these system calls are made.
        unsafe {
            command.pre_exec(move || {
                // However we end, the machine does: no interrupted run leaves one behind.
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 || libc::getppid().cast_unsigned() != us {
                    return Err(std::io::Error::last_os_error());
                }
                // Others use this computer, too.
                libc::setpriority(libc::PRIO_PROCESS, 0, 10);
                Ok(())
            });
        }
        let mut qemu = command.spawn().with_context(|| format!("cannot run {}", qemu.display()))?;
        let stdout = qemu.stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || read(stdout, &sender));
        Ok(Self { qemu, lines })
    }

    /// The next thing that comes, waiting for it until `deadline`.
    pub fn hear(&self, deadline: Instant) -> Heard {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(heard) => heard,
            Err(RecvTimeoutError::Timeout) => Heard::Silence,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn read(stdout: ChildStdout, sender: &Sender<Heard>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    while let Ok(1..) = reader.read_until(b'\n', &mut line) {
        let text = String::from_utf8_lossy(&line);
        for heard in understood(text.trim_end_matches(['\n', '\r'])) {
            if sender.send(heard).is_err() {
                return;
            }
        }
        line.clear();
    }
}

/// A mark may come in the middle of a line, when a test's last one had no end.
fn understood(line: &str) -> Vec<Heard> {
    match line.split_once(MARK) {
        None => vec![Heard::Line(line.to_owned())],
        Some(("", mark)) => vec![Heard::Mark(mark.to_owned())],
        Some((before, mark)) => vec![Heard::Line(before.to_owned()), Heard::Mark(mark.to_owned())],
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, MARK, understood};

    #[test]
    fn a_mark_is_found_behind_a_line_that_was_not_ended() {
        let mark = |words: &str| Heard::Mark(words.to_owned());
        assert_eq!(understood("test a ... ok"), [Heard::Line("test a ... ok".to_owned())]);
        assert_eq!(understood(&format!("{MARK}end 0 1")), [mark("end 0 1")]);
        assert_eq!(
            understood(&format!("Killed{MARK}end 0 137")),
            [Heard::Line("Killed".to_owned()), mark("end 0 137")]
        );
    }
}
