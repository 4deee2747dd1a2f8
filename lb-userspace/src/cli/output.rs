//! What the command line says: data on stdout, talk on stderr.
//!
//! `println!` and `eprintln!` panic when the reader has gone (`sluice status | head -1`), so nothing here uses them:
//! a broken pipe means that the reader has seen enough, which is no error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How data looks on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; fits the terminal.
    #[default]
    Table,
    /// For people, with every column and exact numbers.
    Wide,
    /// The API's own words.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Whether somebody still reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Reader {
    Present,
    Gone,
}

/// Prints a value as `format` says; `people` makes it readable.
pub fn data<T: Serialize>(format: Format, value: &T, people: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    write(&text(format, value, people)?).map(drop)
}

fn text<T: Serialize>(format: Format, value: &T, people: impl FnOnce(&T) -> String) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot print the answer: {e}"));
    match format {
        Format::Table | Format::Wide => Ok(people(value)),
        Format::Json => serde_json::to_string_pretty(value).map(|json| json + "\n").map_err(|e| failed(&e)),
        Format::Yaml => serde_yaml::to_string(value).map_err(|e| failed(&e)),
    }
}

/// Writes to stdout.
pub fn write(text: &str) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Present),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(Failure::new(Exit::Failed, format!("cannot write to stdout: {e}"))),
    }
}

/// Says something to the person at the terminal. If nobody listens, nothing is lost.
pub fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says why the process fails and what to do next.
pub fn report(failure: &Failure) {
    let paint = Paint::for_stream(&io::stderr());
    talk(&format!("{} {}", paint.bad("error:"), failure.message.trim_end()));
    if let Some(hint) = &failure.hint {
        talk(&format!("{} {hint}", paint.strong("hint:")));
    }
}

/// Colour, where there is a terminal that wants it.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    pub const PLAIN: Self = Self(false);
    pub const COLOUR: Self = Self(true);

    /// Colour only on a terminal, and not if `NO_COLOR` (no-color.org) is set or the terminal is dumb.
    pub fn for_stream(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self(stream.is_terminal() && !refused)
    }

    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// The terminal stdout shows on.
#[derive(Clone, Copy, Debug)]
pub struct TerminalSize {
    pub columns: usize,
    pub rows: usize,
}

/// `None` when stdout is not a terminal, where lines may be as long as they need.
pub fn terminal_size() -> Option<TerminalSize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which is valid for the call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    // A serial console knows no size.
    let known = answer == 0 && size.ws_col > 0 && size.ws_row > 0;
    Some(if known {
        TerminalSize { columns: size.ws_col.into(), rows: size.ws_row.into() }
    } else {
        TerminalSize { columns: 80, rows: 24 }
    })
}
