//! What the demo shows while it runs: a panel redrawn in place on a terminal, plain lines elsewhere.
//!
//! The story's sentences stay where they are printed; the panel is always below the last one. With `--json` all of it
//! goes to standard error, because standard output is data.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::figures::{Figures, Phase, answers, fraction};
use crate::lab::config::Config;
use crate::lab::traffic::Outcome;

/// What the panel's figures are over: recent enough to see a change, long enough to be steady.
const WINDOW: Duration = Duration::from_secs(3);
const BAR: usize = 24;
/// What the panel fits into; a line that wraps would throw its redrawing off.
const WIDTH: usize = 80;

#[derive(Debug)]
pub(super) struct View {
    to_stderr: bool,
    terminal: bool,
    began: Instant,
    drawn_at: Option<Instant>,
    /// Lines of the panel on the screen.
    height: usize,
}

impl View {
    pub fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        // A terminal that cannot move its cursor gets plain lines.
        let terminal = terminal && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Self { to_stderr, terminal, began: Instant::now(), drawn_at: None, height: 0 }
    }

    /// Prints something that stays.
    pub fn say(&mut self, text: &str) {
        let clear = self.clear();
        self.write(&format!("{clear}{text}\n"));
    }

    /// Redraws the panel ten times a second; on anything but a terminal, prints a line every two seconds.
    pub fn show(&mut self, phase: &Phase, outcomes: &[Outcome], config: &Config, goal: usize) {
        let every = Duration::from_millis(if self.terminal { 100 } else { 2000 });
        if self.drawn_at.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.drawn_at = Some(Instant::now());
        let recent = Recent::new(phase, outcomes);
        if self.terminal {
            let panel = panel(phase, outcomes.len(), goal, &recent, config, self.began.elapsed());
            let panel: String = panel.lines().map(|line| clip(line, self.columns()) + "\n").collect();
            let clear = self.clear();
            self.height = panel.lines().count();
            self.write(&format!("{clear}{panel}"));
        } else if recent.seconds >= 1.0 {
            let line = line(phase, outcomes, &recent, self.began.elapsed());
            self.write(&line);
        }
    }

    /// Takes the panel away.
    pub fn finish(&mut self) {
        let clear = self.clear();
        self.write(&clear);
    }

    /// The control sequence that goes back to the panel's first line and clears from there.
    fn clear(&mut self) -> String {
        match std::mem::take(&mut self.height) {
            0 => String::new(),
            height => format!("\x1b[{height}A\r\x1b[J"),
        }
    }

    /// The terminal's width.
    fn columns(&self) -> usize {
        let fd = if self.to_stderr { libc::STDERR_FILENO } else { libc::STDOUT_FILENO };
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one `struct winsize`, which `size` is.
        let known = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) } == 0 && size.ws_col > 0;
        if known { usize::from(size.ws_col) } else { WIDTH }
    }

    /// A reader that went away is no reason to stop: the lab has to be removed and the exit code told.
    fn write(&self, text: &str) {
        if self.to_stderr {
            let _ = std::io::stderr().write_all(text.as_bytes());
        } else {
            let mut out = std::io::stdout();
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }
}

/// Figures of the last moments of a phase.
struct Recent {
    figures: Figures,
    seconds: f64,
    shares: Vec<f64>,
}

impl Recent {
    fn new(phase: &Phase, outcomes: &[Outcome]) -> Self {
        let now = Instant::now();
        let from = now.checked_sub(WINDOW).map_or(phase.began, |from| from.max(phase.began));
        // Outcomes come in the order in which they end, so the recent ones are at the end; two windows back is enough
        // for the slowest.
        let older = now.checked_sub(WINDOW * 2);
        let tail = outcomes.iter().rev().take_while(|o| older.is_none_or(|older| o.started + o.latency >= older));
        let recent: Vec<&Outcome> = tail.filter(|o| o.started >= from).collect();
        Self {
            figures: Figures::of(recent.iter().copied()),
            seconds: (now - from).as_secs_f64(),
            shares: phase
                .expected
                .iter()
                .map(|(backend, _)| fraction(answers(recent.iter().copied(), backend)))
                .collect(),
        }
    }

    fn rate(&self) -> f64 {
        self.figures.requests as f64 / self.seconds.max(0.05)
    }
}

fn panel(phase: &Phase, requests: usize, goal: usize, recent: &Recent, config: &Config, elapsed: Duration) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "\n  {:<24} {:>5.1} s", phase.name, elapsed.as_secs_f64());
    let done = (requests as f64 / goal as f64).min(1.0);
    let _ = writeln!(text, "  [{}] {requests} requests, {:.0}/s", bar(done, None), recent.rate());
    let _ = writeln!(
        text,
        "  last {:.0} s: {} failed, latency p50 {:.2} ms, p99 {:.2} ms",
        recent.seconds.ceil(),
        recent.figures.failed,
        recent.figures.percentile_ms(0.5),
        recent.figures.percentile_ms(0.99)
    );
    for ((&(backend, expected), measured), (_, weight)) in
        phase.expected.iter().zip(&recent.shares).zip(config.weights())
    {
        let _ = writeln!(
            text,
            "    {backend} [{}] {:>5.1} % answered, weight {weight} promises {:.1} %",
            bar(*measured, Some(expected)),
            measured * 100.0,
            expected * 100.0
        );
    }
    text
}

fn line(phase: &Phase, outcomes: &[Outcome], recent: &Recent, elapsed: Duration) -> String {
    let failed = outcomes.iter().filter(|o| o.answer.is_err()).count();
    let mut text = format!(
        "{:>5.1} s  {:<22} {:>6} requests, {failed} failed, {:.0}/s, p50 {:.2} ms, p99 {:.2} ms, share",
        elapsed.as_secs_f64(),
        phase.name,
        outcomes.len(),
        recent.rate(),
        recent.figures.percentile_ms(0.5),
        recent.figures.percentile_ms(0.99)
    );
    for ((backend, expected), measured) in phase.expected.iter().zip(&recent.shares) {
        let _ = write!(text, " {backend} {:.1} % ({:.1})", measured * 100.0, expected * 100.0);
    }
    text.push('\n');
    text
}

/// As much of a line as fits; the last column stays free, because some terminals wrap when it is written.
fn clip(line: &str, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

/// A bar filled to `fraction`, with a mark where it should end.
fn bar(fraction: f64, mark: Option<f64>) -> String {
    let place = |f: f64| (f * BAR as f64).round() as usize;
    let (filled, mark) = (place(fraction).min(BAR), mark.map(place));
    (0..BAR)
        .map(|i| match (i < filled, mark) {
            (_, Some(mark)) if i + 1 == mark.max(1) => '|',
            (true, _) => '#',
            (false, _) => '.',
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panel_fits_into_80_columns_and_says_who_answers_how_much() {
        let began = Instant::now();
        let phase = Phase {
            name: "the backend returns",
            began,
            ended: None,
            expected: vec![("b1", 0.25), ("b2", 0.0), ("b3", 0.75)],
        };
        let answer = |name: &str| Outcome {
            client: "client",
            target: crate::lab::traffic::Target::http([192, 0, 2, 1], 80),
            started: Instant::now(),
            latency: Duration::from_millis(12_345),
            answer: Ok(name.to_owned()),
        };
        let outcomes = [answer("b1"), answer("b3"), answer("b3"), answer("b3")];
        let config = Config::at("/run/lab".into(), "/run/lab/bpf".into());
        let panel = panel(&phase, 123_456, 5000, &Recent::new(&phase, &outcomes), &config, Duration::from_secs(100));
        assert!(panel.lines().all(|line| line.chars().count() < WIDTH), "{panel}");
        for words in ["123456 requests", "p50 12345.00 ms", " 25.0 % answered", "weight 200 promises 75.0 %"] {
            assert!(panel.contains(words), "{words} is not in {panel}");
        }
        assert_eq!(clip("wide", 4), "wid");
    }

    #[test]
    fn a_bar_is_as_full_as_its_fraction_and_marks_the_promise() {
        assert_eq!(bar(0.0, None), ".".repeat(BAR));
        assert_eq!(bar(1.5, None), "#".repeat(BAR));
        assert_eq!(bar(0.5, None).matches('#').count(), BAR / 2);
        assert_eq!(bar(0.2, Some(0.5)).find('|'), Some(BAR / 2 - 1));
        assert_eq!(bar(0.5, Some(0.0)).find('|'), Some(0));
    }
}
