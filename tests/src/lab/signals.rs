//! Ctrl-C and friends: the lab goes away first, then the process.
//!
//! Whoever can end in good order (the demo) says so with [`end_in_order`] and calls [`check`] from time to
//! time; a second signal, or the first one anywhere else, removes the labs right here. Nothing helps against
//! SIGKILL but the next run's sweep.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};

static IN_ORDER: AtomicBool = AtomicBool::new(false);
/// The exit code that tells of the signal, 128 + its number; 0 while there was none.
static INTERRUPTED: AtomicU8 = AtomicU8::new(0);

/// Starts listening for SIGINT, SIGTERM and SIGHUP, once per process.
pub fn arm() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        let (ready, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let listen = async {
                let mut interrupt = signal(SignalKind::interrupt())?;
                let mut terminate = signal(SignalKind::terminate())?;
                let mut hangup = signal(SignalKind::hangup())?;
                let _ = ready.send(());
                loop {
                    let code = tokio::select! {
                        _ = interrupt.recv() => 130,
                        _ = terminate.recv() => 143,
                        _ = hangup.recv() => 129,
                    };
                    let again = INTERRUPTED.swap(code, Ordering::SeqCst) != 0;
                    if again || !IN_ORDER.load(Ordering::SeqCst) {
                        super::home::remove_all_of_this_process();
                        std::process::exit(code.into());
                    }
                }
                #[expect(unreachable_code, reason = "gives the block its error type")]
                std::io::Result::Ok(())
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Err(e) = runtime.and_then(|r| r.block_on(listen)) {
                eprintln!("lab: cannot listen for signals ({e}); after Ctrl-C the next run cleans up");
            }
        });
        let _ = wait.recv();
    });
}

/// From now on the first signal only makes [`check`] fail; the caller promises to call it.
pub fn end_in_order() {
    IN_ORDER.store(true, Ordering::SeqCst);
    arm();
}

/// Ctrl-C, as an error that unwinds whatever is under way.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted {
    /// What the process ends with: 128 + the signal's number, as shells say it.
    pub exit_code: u8,
}

/// An error once somebody asked us to stop; for loops that wait.
pub fn check() -> Result<(), Interrupted> {
    match INTERRUPTED.load(Ordering::SeqCst) {
        0 => Ok(()),
        exit_code => Err(Interrupted { exit_code }),
    }
}
