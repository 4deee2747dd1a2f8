//! The status as a table for people, in the habit of `ipvsadm -Ln`: a service, and under it its backends.
//!
//! Nothing is ever cut off: what does not fit the terminal is wrapped, because the end of a line — why a backend is
//! down — is what the reader came for. Colour is added after the layout, and everything it says is also a word.

use crate::api::types::{BackendStatus, Health, InterfaceStatus, ServiceState, ServiceStatus, Status, Traffic};
use crate::cli::output::Paint;
use crate::model::BackendState;

/// The narrowest last column in which a sentence can be read.
pub(super) const SENTENCE: usize = 24;
/// The narrowest last column that holds one word of health.
const WORD: usize = 10;
/// Names up to here, an IPv4 address, always get a column; longer ones a line of their own when columns are short.
const NAME: usize = 15;

/// Lays out a status. `width`: columns of the terminal, `None` for no limit. `now`: seconds since the Unix epoch.
pub fn status(status: &Status, wide: bool, width: Option<usize>, paint: Paint, now: u64) -> String {
    let width = width.unwrap_or(usize::MAX);
    let mut out = String::new();
    head(&mut out, status, wide, width, paint, now);

    let backends: Vec<&BackendStatus> = status.services.iter().flat_map(|service| &service.backends).collect();
    let layout = if wide {
        Layout::new(WIDE, true, &backends, width)
    } else {
        let usual = Layout::new(TABLE, false, &backends, width);
        if usual.health == HealthAt::Below { Layout::new(NARROW, false, &backends, width) } else { usual }
    };
    if !backends.is_empty() {
        out.push('\n');
        layout.header(&mut out, paint);
    }
    for service in &status.services {
        service_lines(&mut out, service, wide, width, paint);
        for backend in &service.backends {
            layout.row(&mut out, backend, paint);
        }
    }

    if !status.degraded.is_empty() {
        out.push_str(&format!("\n{}\n", paint.bad("DEGRADED")));
        for sentence in &status.degraded {
            wrapped(&mut out, "  - ", sentence, width, |line| line.to_owned());
        }
    }
    out
}

fn head(out: &mut String, status: &Status, wide: bool, width: usize, paint: Paint, now: u64) {
    let uptime = duration(status.uptime_seconds);
    wrapped(out, "", &format!("sluice {}, pid {}, up {uptime}", status.version, status.pid), width, |l| l.to_owned());
    let config = &status.config;
    let age = duration(now.saturating_sub(config.applied_at));
    let text = format!("config {}, generation {}, applied {age} ago", config.path, config.generation);
    wrapped(out, "", &text, width, |l| l.to_owned());
    if let Some(seconds) = config.confirm_in_seconds {
        let text = format!("GOES BACK to the configuration before in {seconds}s, unless `sluice confirm` comes");
        wrapped(out, "", &text, width, |l| paint.warn(l));
    }
    if config.file_differs && !config.rolled_back {
        let text = "the file was changed since; `sluice reload --dry-run` says what a reload would do";
        wrapped(out, "", text, width, |l| l.to_owned());
    }
    if config.last_error.is_some() {
        wrapped(out, "", "LAST RELOAD REFUSED, this is the configuration before it", width, |l| paint.bad(l));
    }
    for InterfaceStatus { name, ifindex, xdp_mode, program_id } in &status.interfaces {
        let mut text = format!("interface {name}: xdp {xdp_mode}");
        if wide {
            text.push_str(&format!(", ifindex {ifindex}, program {program_id}"));
        }
        if xdp_mode == "native" {
            wrapped(out, "", &text, width, |l| l.to_owned());
        } else {
            let loud = text.replacen(xdp_mode, &xdp_mode.to_uppercase(), 1) + " — several times slower than native";
            wrapped(out, "", &loud, width, |l| paint.warn(l));
        }
    }
    if wide {
        let Traffic { packets, bytes } = status.passed;
        let mut passed = format!("passed to the host: {packets} packets, {bytes} bytes");
        if status.passed_fragments > 0 {
            passed += &format!(" ({} fragments whose first one was not seen)", status.passed_fragments);
        }
        wrapped(out, "", &passed, width, |l| l.to_owned());
    }
}

fn service_lines(out: &mut String, service: &ServiceStatus, wide: bool, width: usize, paint: Paint) {
    let protocols: Vec<&str> = service.protocols.iter().map(|protocol| protocol.name()).collect();
    let state = match service.state {
        ServiceState::Up => "up",
        ServiceState::Degraded => "DEGRADED",
        ServiceState::Down => "DOWN",
    };
    let up = service.backends.iter().filter(|backend| backend.health.takes_traffic()).count();
    let line = format!(
        "{}  {state} {up}/{}  {} {}  {} {}",
        service.name,
        service.backends.len(),
        protocols.join("+"),
        service.listen.join(" "),
        service.forward.name(),
        service.scheduler,
    );
    wrapped(out, "", &line, width, |l| match service.state {
        ServiceState::Up => paint.strong(l),
        ServiceState::Degraded => paint.warn(l),
        ServiceState::Down => paint.bad(l),
    });

    let (packets, bytes) = (|n| packets(n, wide), |n| if wide { format!("{n} bytes") } else { bytes(n, false) });
    let mut facts =
        vec![format!("in {} packets {}", packets(service.forwarded.packets), bytes(service.forwarded.bytes))];
    if service.replies.packets > 0 || wide {
        facts.push(format!("back {} packets {}", packets(service.replies.packets), bytes(service.replies.bytes)));
    }
    if service.syns > 0 || wide {
        facts.push(format!("{} syns", packets(service.syns)));
    }
    if wide {
        facts.push(format!("{} fib lookups", service.fib_lookups));
        facts.push(format!("{} later fragments", service.fragments));
        facts.push(format!("{} icmp errors", service.icmp_errors));
        facts.push(format!("{} echoes answered", service.answers.echoes));
        facts.push(format!("{} told too big", service.answers.too_big));
    }
    let plain = |l: &str| l.to_owned();
    wrapped(out, "     ", &facts.join(", "), width, plain);
    let dropped: Vec<String> =
        service.drops.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{} {reason}", packets(*n))).collect();
    if !dropped.is_empty() {
        wrapped(out, "     ", &format!("DROPPED {}", dropped.join(", ")), width, |l| paint.warn(l));
    }
    if wide {
        for ring in &service.rings {
            let moving = match (ring.rows_moving, ring.rows_exceptions) {
                (0, 0) => String::new(),
                (moving, exceptions) => format!(" ({moving} moving, {exceptions} with exceptions)"),
            };
            let text = format!(
                "ring {}/{}: {} rows{moving}, {}",
                ring.family,
                ring.protocol.name(),
                ring.rows,
                ring.fingerprint
            );
            wrapped(out, "     ", &text, width, plain);
        }
    }
}

/// One column of the backends.
struct Column {
    title: &'static str,
    right: bool,
    text: fn(&BackendStatus, exact: bool) -> String,
}

const fn left(title: &'static str, text: fn(&BackendStatus, bool) -> String) -> Column {
    Column { title, right: false, text }
}

const fn right(title: &'static str, text: fn(&BackendStatus, bool) -> String) -> Column {
    Column { title, right: true, text }
}

const BACKEND: Column = left("BACKEND", |b, _| b.name.clone());
const WEIGHT: Column = right("WEIGHT", |b, _| b.weight.to_string());
const STATE: Column = left("STATE", |b, _| state(b));
const SHARE: Column = right("SHARE", |b, _| format!("{:.1}%", b.share * 100.0));
const PACKETS: Column = right("PACKETS", |b, exact| packets(b.forwarded.packets, exact));
const BYTES: Column = right("BYTES", |b, exact| bytes(b.forwarded.bytes, exact));

const TABLE: &[Column] = &[BACKEND, WEIGHT, STATE, SHARE, PACKETS, BYTES];
/// For terminals on which [`TABLE`] leaves no room for health.
const NARROW: &[Column] = &[BACKEND, WEIGHT, STATE, SHARE, PACKETS];
const WIDE: &[Column] = &[
    BACKEND,
    right("ID", |b, _| b.id.to_string()),
    left("ADDRESS", |b, _| b.address.clone()),
    right("PORT", |b, _| b.port.map_or("-".to_owned(), |port| port.to_string())),
    WEIGHT,
    STATE,
    SHARE,
    PACKETS,
    BYTES,
    right("BACK PACKETS", |b, exact| packets(b.replies.packets, exact)),
    right("BACK BYTES", |b, exact| bytes(b.replies.bytes, exact)),
    right("LATENCY", |b, _| b.latency_ms.map_or("-".to_owned(), |ms| format!("{ms:.2}ms"))),
];

pub(super) fn state(backend: &BackendStatus) -> String {
    if backend.leaving {
        return "leaving".to_owned();
    }
    let state = backend.state.name();
    let asked = backend.agent.as_ref().is_some_and(|said| said.starts_with("drain") || said.starts_with("maint"));
    match (backend.overridden, backend.fallback) {
        (true, _) => format!("{state} (override)"),
        (false, _) if asked => format!("{state} (agent)"),
        (false, true) => format!("{state} (fallback)"),
        (false, false) => state.to_owned(),
    }
}

/// The word, and the sentence behind it where there is something to say.
fn health(backend: &BackendStatus, wide: bool) -> (&'static str, Option<String>) {
    let word = match backend.health {
        Health::Down if backend.kept => "DOWN, kept",
        Health::Down => "DOWN",
        other => other.name(),
    };
    let reason = backend.reason.as_deref().filter(|_| wide || backend.health != Health::Up);
    let said: Vec<&str> = reason.into_iter().chain(backend.warning.as_deref()).collect();
    (word, Some(said.join("; ")).filter(|said| !said.is_empty()))
}

const ARROW: &str = "  -> ";
const GAP: &str = "  ";

/// Where the health of a backend stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HealthAt {
    /// In a last column, wrapped within it.
    Column { start: usize, width: usize },
    /// The word in a last column, the sentence on the next line.
    Split,
    /// On the next line.
    Below,
}

/// Column widths, the same for all services.
struct Layout {
    columns: &'static [Column],
    widths: Vec<usize>,
    health: HealthAt,
    terminal: usize,
    /// Exact numbers, and a reason for good health too.
    wide: bool,
}

impl Layout {
    fn new(columns: &'static [Column], wide: bool, backends: &[&BackendStatus], terminal: usize) -> Self {
        let width = |column: &Column| {
            let cells = backends.iter().map(|backend| length(&(column.text)(backend, wide)));
            cells.chain([column.title.len()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = columns.iter().map(width).collect();
        let start = |widths: &[usize]| ARROW.len() + widths.iter().map(|width| width + GAP.len()).sum::<usize>();
        if start(&widths) + SENTENCE > terminal {
            widths[0] = widths[0].min(NAME);
        }
        let start = start(&widths);
        let health = match terminal.saturating_sub(start) {
            width if width >= SENTENCE => HealthAt::Column { start, width },
            width if width >= WORD => HealthAt::Split,
            _ => HealthAt::Below,
        };
        Self { columns, widths, health, terminal, wide }
    }

    fn header(&self, out: &mut String, paint: Paint) {
        let titles: Vec<String> = self.columns.iter().map(|column| column.title.to_owned()).collect();
        let mut line = String::from(ARROW);
        self.cells(&mut line, &titles, |_, cell| cell.to_owned());
        if self.health != HealthAt::Below {
            line.push_str("HEALTH");
        }
        out.push_str(&paint.strong("SERVICE"));
        out.push('\n');
        out.push_str(&paint.strong(line.trim_end()));
        out.push('\n');
    }

    fn row(&self, out: &mut String, backend: &BackendStatus, paint: Paint) {
        let tint = |text: &str| match backend.health {
            Health::Up => paint.good(text),
            Health::Down => paint.bad(text),
            Health::Checking => paint.warn(text),
            Health::Unchecked => text.to_owned(),
        };
        let mut line = String::from(ARROW);
        let mut row: Vec<String> = self.columns.iter().map(|column| (column.text)(backend, self.wide)).collect();
        if length(&row[0]) > self.widths[0] {
            line.push_str(&format!("{}\n{}", row[0], " ".repeat(ARROW.len())));
            row[0].clear();
        }
        self.cells(&mut line, &row, |title, cell| {
            let loud =
                title == "STATE" && (backend.overridden || backend.leaving || backend.state == BackendState::Drain);
            if loud { paint.warn(cell) } else { cell.to_owned() }
        });
        let (word, sentence) = health(backend, self.wide);
        let whole = sentence.as_ref().map_or(word.to_owned(), |sentence| format!("{word}: {sentence}"));
        let below = match self.health {
            HealthAt::Column { start, width } => {
                let parts: Vec<String> = wrap(&whole, width).iter().map(|part| tint(part)).collect();
                line.push_str(&parts.join(&format!("\n{}", " ".repeat(start))));
                None
            }
            HealthAt::Split => {
                line.push_str(&tint(word));
                sentence
            }
            HealthAt::Below => Some(whole),
        };
        out.push_str(line.trim_end());
        out.push('\n');
        if let Some(text) = below {
            wrapped(out, "       ", &text, self.terminal, tint);
        }
    }

    /// The columns, padded, then painted.
    fn cells(&self, line: &mut String, row: &[String], paint: impl Fn(&str, &str) -> String) {
        for ((column, cell), width) in self.columns.iter().zip(row).zip(&self.widths) {
            let padding = " ".repeat(width - length(cell).min(*width));
            let cell = paint(column.title, cell);
            if column.right {
                line.push_str(&padding);
                line.push_str(&cell);
            } else {
                line.push_str(&cell);
                line.push_str(&padding);
            }
            line.push_str(GAP);
        }
    }
}

/// Adds `text` behind `indent`; what does not fit stands below it.
fn wrapped(out: &mut String, indent: &str, text: &str, width: usize, paint: impl Fn(&str) -> String) {
    let hang = if indent.is_empty() { 5 } else { length(indent) };
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        // A line that begins at the margin has more room than those that hang below it.
        match (lines.is_empty(), indent.is_empty()) {
            (true, true) => {
                let mut first = wrap(paragraph, width);
                if first.len() > 1 {
                    let rest = paragraph[first[0].len()..].trim_start().to_owned();
                    first.truncate(1);
                    first.extend(wrap(&rest, width.saturating_sub(hang)));
                }
                lines.extend(first);
            }
            _ => lines.extend(wrap(paragraph, width.saturating_sub(hang))),
        }
    }
    for (i, line) in lines.iter().enumerate() {
        if i == 0 {
            out.push_str(indent);
        } else {
            out.push_str(&" ".repeat(hang));
        }
        out.push_str(&paint(line));
        out.push('\n');
    }
}

/// Breaks at spaces; a word longer than the line keeps its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_inclusive(' ') {
        if !line.is_empty() && length(&line) + length(word.trim_end()) > width {
            lines.push(line.trim_end().to_owned());
            line.clear();
        }
        line.push_str(word);
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// Characters, which is columns for the names that occur here.
fn length(text: &str) -> usize {
    text.chars().count()
}

/// `3d 4h`, `12m 5s`.
pub(super) fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let (unit, name) = units[first];
    let mut text = format!("{}{name}", seconds / unit);
    if let Some((smaller, name)) = units.get(first + 1) {
        let rest = seconds % unit / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest}{name}"));
        }
    }
    text
}

/// Exact while that is readable, then with three or four digits.
fn packets(n: u64, exact: bool) -> String {
    if exact || n < 100_000 {
        return n.to_string();
    }
    scaled(n, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

pub(super) fn bytes(n: u64, exact: bool) -> String {
    if exact {
        return n.to_string();
    }
    scaled(n, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(n: u64, base: u64, units: &[&str]) -> String {
    let (mut unit, mut size) = (0, 1u64);
    // 999.95 would print as 1000.0: the next unit is for it.
    while unit + 1 < units.len() && n as f64 / size as f64 >= base as f64 - 0.05 {
        size = size.saturating_mul(base);
        unit += 1;
    }
    let unit_name = units[unit];
    let space = if unit_name.len() > 1 || unit_name == "B" { " " } else { "" };
    if unit == 0 {
        format!("{n}{space}{unit_name}")
    } else {
        format!("{:.1}{space}{unit_name}", n as f64 / size as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::fixture;

    const NOW: u64 = 1_767_225_600 + 725;

    fn snapshot(name: &str, text: &str) {
        crate::snapshot::check(&format!("{}/tests/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR")), text);
    }

    #[test]
    fn the_table_on_a_narrow_a_wide_and_an_endless_terminal() {
        let shown = |wide, width| super::status(&fixture::status(), wide, width, Paint::PLAIN, NOW);
        for width in [80, 120] {
            let text = shown(false, Some(width));
            for line in text.lines() {
                assert!(length(line) <= width, "{line:?} is wider than {width}");
            }
            snapshot(&format!("status-{width}"), &text);
        }
        snapshot("status", &shown(false, None));
        snapshot("status-wide", &shown(true, None));
    }

    #[test]
    fn colour_changes_no_letter_and_no_column() {
        let plain = super::status(&fixture::status(), false, Some(120), Paint::PLAIN, NOW);
        let coloured = super::status(&fixture::status(), false, Some(120), Paint::COLOUR, NOW);
        assert!(coloured.contains("\x1b["));
        let mut bare = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once("\x1b[") {
            bare.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        bare.push_str(rest);
        assert_eq!(bare, plain);
    }

    #[test]
    fn a_daemon_without_services_has_a_table_too() {
        let mut status = fixture::status();
        status.services.clear();
        status.degraded.clear();
        let text = super::status(&status, false, Some(80), Paint::PLAIN, NOW);
        assert!(!text.contains("BACKEND") && !text.contains("DEGRADED"), "{text}");
    }

    #[test]
    fn numbers_are_exact_until_they_are_long() {
        let table =
            [(0, "0", "0 B"), (1023, "1023", "1023 B"), (99_999, "99999", "97.7 KiB"), (100_000, "100.0k", "97.7 KiB")];
        for (n, wanted_packets, wanted_bytes) in table {
            assert_eq!((packets(n, false).as_str(), bytes(n, false).as_str()), (wanted_packets, wanted_bytes));
        }
        assert_eq!(packets(999_999, false), "1.0M");
        assert_eq!(bytes(1024 * 1024 - 1, false), "1.0 MiB");
        assert_eq!(bytes(u64::MAX, false), "16.0 EiB");
        assert_eq!(packets(12_345_678, true), "12345678");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, wanted) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (725, "12m 5s"), (86_399, "23h 59m"), (273_720, "3d 4h")]
        {
            assert_eq!(duration(seconds), wanted);
        }
    }
}
