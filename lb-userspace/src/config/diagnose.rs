//! Problems of a configuration file: where, what, and what to write instead.
//!
//! The trap is stopping at the first problem. An operator who fixes one typo per run gives up at the fourth, so
//! every stage reports into [`Problems`] and goes on with what it could read. The other half of the trap is
//! reporting one mistake twice: a stage that finds a value missing because an earlier stage refused it stays
//! silent.
//!
//! Columns and spans count characters, not bytes; a tab is one character.

use std::fmt;

use serde_json::json;

use crate::exit::{Exit, Failure};

/// More than this in one file is one mistake made often; the rest is only counted.
const MOST_SHOWN: usize = 100;
/// Characters of a source line shown around the place; longer lines are cut.
const SOURCE_WINDOW: usize = 110;
/// Longest piece of the file repeated in a message.
const QUOTE_LIMIT: usize = 60;

/// A stretch of the file. Lines count from 1, columns from 0; the end is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub line: u32,
    pub column: u32,
    pub end_line: u32,
    pub end_column: u32,
}

impl Span {
    /// One character.
    pub const fn point(line: u32, column: u32) -> Self {
        Self { line, column, end_line: line, end_column: column + 1 }
    }
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `None` when it is about the file as a whole.
    pub position: Option<Position>,
    pub message: String,
    /// Where in the configuration: `services[0] (web) · backends[2]`; empty at the top.
    pub path: String,
    pub hint: Option<String>,
}

/// Where in the file, with the line itself so that it can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Characters to underline, at least 1.
    pub width: u32,
    /// The source line, or the window of it around the place.
    pub source: String,
    /// Where in `source` the underlining starts, in characters from 0.
    pub caret: u32,
}

/// Every problem of one file, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    pub file: String,
    pub list: Vec<Diagnostic>,
    /// Found, but beyond what is worth showing.
    pub suppressed: usize,
}

impl Diagnostics {
    /// A problem with the file itself.
    pub(super) fn about_file(file: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let diagnostic = Diagnostic {
            position: None,
            message: message.into(),
            path: String::new(),
            hint: Some(hint.into()).filter(|h| !h.is_empty()),
        };
        Self { file: file.to_owned(), list: vec![diagnostic], suppressed: 0 }
    }

    /// How many problems there are, shown or not.
    pub fn count(&self) -> usize {
        self.list.len() + self.suppressed
    }

    /// For `-o json`: `{file, count, errors: [{line, column, path, message, hint, source}]}`; what does not apply
    /// is null.
    pub fn to_json(&self) -> serde_json::Value {
        let errors: Vec<_> = self
            .list
            .iter()
            .map(|d| {
                json!({
                    "line": d.position.as_ref().map(|p| p.line),
                    "column": d.position.as_ref().map(|p| p.column),
                    "path": d.path,
                    "message": d.message,
                    "hint": d.hint,
                    "source": d.position.as_ref().map(|p| &p.source),
                })
            })
            .collect();
        json!({ "file": self.file, "count": self.count(), "errors": errors })
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = printable(&self.file);
        for d in &self.list {
            let Some(p) = &d.position else {
                writeln!(f, "{file}: error: {}", d.message)?;
                if let Some(hint) = &d.hint {
                    writeln!(f, "  hint: {hint}")?;
                }
                writeln!(f)?;
                continue;
            };
            writeln!(f, "{file}:{}:{}: error: {}", p.line, p.column, d.message)?;
            let number = p.line.to_string();
            let gutter = " ".repeat(number.len());
            writeln!(f, "{}", format!("  {number} | {}", printable(&p.source)).trim_end())?;
            // Tabs are repeated so that the underline stands below its text however wide a tab is.
            let lead: String =
                p.source.chars().take(p.caret as usize).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            writeln!(f, "  {gutter} | {lead}{}", "^".repeat(p.width as usize))?;
            if !d.path.is_empty() {
                writeln!(f, "  {gutter} in {}", d.path)?;
            }
            if let Some(hint) = &d.hint {
                writeln!(f, "  {gutter} hint: {hint}")?;
            }
            writeln!(f)?;
        }
        if self.suppressed > 0 {
            writeln!(f, "… and {} more, not shown", self.suppressed)?;
        }
        match self.count() {
            1 => write!(f, "1 error in {file}"),
            n => write!(f, "{n} errors in {file}"),
        }
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for Failure {
    fn from(diagnostics: Diagnostics) -> Self {
        Self::new(Exit::ConfigInvalid, format!("the configuration is refused, nothing was changed\n\n{diagnostics}"))
    }
}

/// The text of the file, by line.
#[derive(Debug)]
pub(super) struct Source<'t> {
    pub file: &'t str,
    pub text: &'t str,
    /// Byte offset at which each line starts.
    lines: Vec<usize>,
}

impl<'t> Source<'t> {
    /// Lines end as YAML says (§5.4): LF, CR LF, or CR alone.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let mut lines = vec![0];
        for (i, b) in bytes.iter().enumerate() {
            if *b == b'\n' || (*b == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
                lines.push(i + 1);
            }
        }
        Self { file, text, lines }
    }

    /// Line `number` (from 1) without its end; empty past the end of the file.
    pub fn line(&self, number: u32) -> &'t str {
        let index = (number as usize).saturating_sub(1);
        let Some(&start) = self.lines.get(index) else { return "" };
        let end = self.lines.get(index + 1).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    pub fn last_line(&self) -> u32 {
        self.lines.len() as u32
    }

    /// The span of one byte offset.
    pub fn point_at(&self, offset: usize) -> Span {
        let index = self.lines.partition_point(|&start| start <= offset).saturating_sub(1);
        let column = self.text[self.lines[index]..offset].chars().count();
        Span::point(index as u32 + 1, column as u32)
    }

    fn position(&self, span: Span) -> Position {
        let line = self.line(span.line);
        let length = line.chars().count();
        let column = (span.column as usize).min(length);
        let end = if span.end_line > span.line { length } else { (span.end_column as usize).min(length) };
        // The parser ends some scalars behind the white space that follows them.
        let marked: String = line.chars().take(end).skip(column).collect();
        let mut width = marked.trim_end().chars().count().max(1);
        let mut caret = column;
        let source = if length <= SOURCE_WINDOW {
            line.to_owned()
        } else {
            // The place stays in sight with a third of the window before it.
            let from = column.saturating_sub(SOURCE_WINDOW / 3).min(length - SOURCE_WINDOW);
            let head = if from > 0 { "…" } else { "" };
            let tail = if from + SOURCE_WINDOW < length { "…" } else { "" };
            caret = column - from + head.chars().count();
            width = width.min((from + SOURCE_WINDOW).saturating_sub(column).max(1));
            format!("{head}{}{tail}", line.chars().skip(from).take(SOURCE_WINDOW).collect::<String>())
        };
        Position { line: span.line, column: column as u32 + 1, width: width as u32, source, caret: caret as u32 }
    }
}

/// Collects problems while the file is read and checked.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    source: &'t Source<'t>,
    list: Vec<(Span, Diagnostic)>,
    suppressed: usize,
}

impl<'t> Problems<'t> {
    pub fn new(source: &'t Source<'t>) -> Self {
        Self { source, list: Vec::new(), suppressed: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Nothing more will be shown, so a hint need not be thought up.
    pub fn is_full(&self) -> bool {
        self.list.len() >= MOST_SHOWN
    }

    pub fn add(&mut self, span: Span, at: &At<'_>, message: impl Into<String>, hint: impl Into<String>) {
        let message = message.into();
        // What an anchor holds is read once per alias; its mistakes are told once.
        if self.list.iter().any(|(s, d)| *s == span && d.message == message) {
            return;
        }
        if self.is_full() {
            self.suppressed += 1;
            return;
        }
        let hint = Some(hint.into()).filter(|h| !h.is_empty());
        let position = Some(self.source.position(span));
        self.list.push((span, Diagnostic { position, message, path: at.to_string(), hint }));
    }

    pub fn complain(&mut self, span: Span, at: &At<'_>, complaint: Complaint) {
        self.add(span, at, complaint.message, complaint.hint);
    }

    pub fn finish(mut self) -> Diagnostics {
        self.list.sort_by_key(|(span, _)| *span);
        Diagnostics {
            file: self.source.file.to_owned(),
            list: self.list.into_iter().map(|(_, d)| d).collect(),
            suppressed: self.suppressed,
        }
    }
}

/// What is wrong with a value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub message: String,
    /// Empty for none.
    pub hint: String,
}

impl Complaint {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// A place in the configuration, as a chain up to the top; written out only when there is something to say.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'p> {
    parent: Option<&'p At<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Top,
    Key(&'p str),
    Item(usize, Option<&'p str>),
}

impl<'p> At<'p> {
    pub const TOP: At<'static> = At { parent: None, step: Step::Top };

    pub fn key(&'p self, key: &'p str) -> At<'p> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    /// An entry of a list, from 0, with the name people know it by.
    pub fn item(&'p self, index: usize, name: Option<&'p str>) -> At<'p> {
        At { parent: Some(self), step: Step::Item(index, name) }
    }

    /// An entry of a list, or the value itself where it stands for a list of one.
    pub fn entry(&'p self, index: Option<usize>) -> At<'p> {
        index.map_or(*self, |index| self.item(index, None))
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
            if matches!(self.step, Step::Key(_)) && !matches!(parent.step, Step::Top) {
                write!(f, " · ")?;
            }
        }
        match self.step {
            Step::Top => Ok(()),
            Step::Key(key) => write!(f, "{}", excerpt(key)),
            Step::Item(index, None) => write!(f, "[{index}]"),
            Step::Item(index, Some(name)) => write!(f, "[{index}] ({})", excerpt(name)),
        }
    }
}

/// A piece of the file as it may stand in a message: short, on one line, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    let mut out: String = text.chars().take(QUOTE_LIMIT).flat_map(printable_char).collect();
    if text.chars().nth(QUOTE_LIMIT).is_some() {
        out.push('…');
    }
    out
}

/// A value of the file as it stands at the start of a message.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { format!("`{}`", excerpt(text)) }
}

/// Keeps tabs; makes everything else that moves a cursor or hides text visible.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c == '\t' { vec!['\t'] } else { printable_char(c) }).collect()
}

fn printable_char(c: char) -> Vec<char> {
    // Bidirectional controls reorder what a terminal shows ("Trojan Source", CVE-2021-42574).
    let hides = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if c.is_control() || hides { vec!['\u{fffd}'] } else { vec![c] }
}

/// The candidate a person most likely meant by `word`.
pub(super) fn closest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Nobody mistypes a name this long, and the distance is quadratic.
    if word.len() > 48 {
        return None;
    }
    let plain = |s: &str| s.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let word = plain(word);
    let allowed = match word.len() {
        0..=2 => 1,
        3..=5 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&word, &plain(c)), c))
        // A word of which nothing is left is a different word.
        .filter(|(distance, c)| *distance <= allowed && *distance < c.len().min(word.len().max(1)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}
