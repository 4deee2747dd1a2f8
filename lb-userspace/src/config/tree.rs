//! YAML text into a tree in which every key and value knows where it stands.
//!
//! YAML is a hostile format: aliases multiply ("billion laughs"), nesting is free, keys may repeat or be lists,
//! a NUL ends some parsers' input early. Everything of that kind ends here; what comes out is bounded in depth
//! and size and has text keys, each once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::STARTER;
use super::diagnose::{At, Problems, Source, Span, excerpt, quote};

/// Deeper nesting is an attack or an accident: the deepest place in the schema is 7 levels down.
const MAX_DEPTH: usize = 64;
const DEEPEST: &str = "no configuration is that deep: is a bracket too many, or is it the wrong file?";
/// Values in the file, aliases counted as often as they are used. The largest pool (65,535 backends with every
/// key set) needs about a quarter of this.
const MAX_NODES: usize = 2_000_000;

/// A value.
#[derive(Debug)]
pub(super) struct Node<'t> {
    pub span: Span,
    pub kind: Kind<'t>,
    /// Values in here, this one included.
    size: usize,
    /// Levels in here, this one included.
    height: usize,
}

#[derive(Debug)]
pub(super) enum Kind<'t> {
    /// Nothing after the colon, `~` or `null`.
    Null,
    Scalar {
        text: Cow<'t, str>,
        /// Written without quotes, so it may mean a number or a word of the schema.
        plain: bool,
    },
    Sequence(Vec<Rc<Node<'t>>>),
    Mapping(Vec<Entry<'t>>),
}

#[derive(Debug)]
pub(super) struct Entry<'t> {
    pub key: Cow<'t, str>,
    pub key_span: Span,
    pub value: Rc<Node<'t>>,
}

impl<'t> Node<'t> {
    fn leaf(span: Span, kind: Kind<'t>) -> Rc<Self> {
        Rc::new(Self { span, kind, size: 1, height: 1 })
    }

    /// What a person would call it: "a list", "the text `x`".
    pub fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping (`key: value`)".to_owned(),
            Kind::Scalar { text, .. } if text.is_empty() => "an empty text".to_owned(),
            Kind::Scalar { text, plain: false } => format!("the text \"{}\"", excerpt(text)),
            Kind::Scalar { text, plain: true } => match &**text {
                "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => {
                    format!("the truth value `{}`", excerpt(text))
                }
                t if t.parse::<f64>().is_ok() && t.bytes().any(|b| b.is_ascii_digit()) => {
                    format!("the number `{}`", excerpt(text))
                }
                _ => format!("`{}`", excerpt(text)),
            },
        }
    }
}

/// The text under `key`, if there is one: what people know an entry by.
pub(super) fn label<'n>(entries: &'n [Entry<'_>], key: &str) -> Option<&'n str> {
    match &entries.iter().find(|e| e.key == key)?.value.kind {
        Kind::Scalar { text, .. } if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// A node that stands nowhere.
#[cfg(test)]
pub(super) fn text(text: &str) -> Rc<Node<'_>> {
    Node::leaf(Span::default(), Kind::Scalar { text: text.into(), plain: true })
}

/// Says where the innermost of the open containers stands.
fn located(stack: &[Frame<'_>], at: &At<'_>, say: &mut dyn FnMut(&At<'_>)) {
    let Some((frame, inner)) = stack.split_first() else { return say(at) };
    match &frame.content {
        Open::Sequence(items) => {
            let name = match inner.first().map(|frame| &frame.content) {
                Some(Open::Mapping { entries, .. }) => label(entries, "name").or_else(|| label(entries, "address")),
                _ => None,
            };
            located(inner, &at.item(items.len(), name), say);
        }
        Open::Mapping { key: Slot::Key(key, _), .. } => located(inner, &at.key(key), say),
        Open::Mapping { .. } => located(inner, at, say),
    }
}

/// A container that is still open.
struct Frame<'t> {
    span: Span,
    anchor: usize,
    size: usize,
    height: usize,
    content: Open<'t>,
}

enum Open<'t> {
    Sequence(Vec<Rc<Node<'t>>>),
    Mapping {
        entries: Vec<Entry<'t>>,
        /// Line on which each key stood first.
        seen: HashMap<Cow<'t, str>, u32>,
        key: Slot<'t>,
    },
}

/// What the next value in a mapping is.
enum Slot<'t> {
    AwaitKey,
    Key(Cow<'t, str>, Span),
    /// The value belongs to a key that was refused.
    Refused,
}

/// Reads the one document of the file. `None` when nothing of it can be used; then there is a problem that
/// says why.
pub(super) fn read<'t>(source: &'t Source<'t>, problems: &mut Problems<'_>) -> Option<Rc<Node<'t>>> {
    if let Some((offset, c)) = source.text.char_indices().find(|(_, c)| !allowed(*c)) {
        let name = match c {
            '\u{feff}' => "a byte order mark inside the file".to_owned(),
            c => format!("a control character (U+{:04X})", c as u32),
        };
        problems.add(source.point_at(offset), &At::TOP, format!("{name} is not allowed"), "remove it");
        return None;
    }
    Reader { source, problems, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None }.run()
}

/// YAML's printable characters (§5.1). A NUL would end the parser's input early and hide the rest of the file.
fn allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..)
}

struct Reader<'t, 'p, 'q> {
    source: &'t Source<'t>,
    problems: &'p mut Problems<'q>,
    stack: Vec<Frame<'t>>,
    anchors: HashMap<usize, Rc<Node<'t>>>,
    nodes: usize,
    root: Option<Rc<Node<'t>>>,
}

/// The rest of the file cannot be used.
struct Stop;

impl<'t> Reader<'t, '_, '_> {
    fn run(mut self) -> Option<Rc<Node<'t>>> {
        let mut documents = 0;
        for event in Parser::new_from_str(self.source.text) {
            let (event, span) = match event {
                Ok((event, span)) => (event, convert(span)),
                Err(error) => {
                    let mark = error.marker();
                    self.syntax_error(mark.line() as u32, mark.col() as u32, error.info());
                    return None;
                }
            };
            let result = match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => Ok(()),
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    self.document(span, documents)
                }
                Event::Scalar(text, style, anchor, tag) => self.scalar(span, text, style, anchor, tag.is_some()),
                Event::Alias(anchor) => self.alias(span, anchor),
                Event::SequenceStart(anchor, tag) => self.open(span, anchor, tag.is_some(), Open::Sequence(Vec::new())),
                Event::MappingStart(anchor, tag) => {
                    let content = Open::Mapping { entries: Vec::new(), seen: HashMap::new(), key: Slot::AwaitKey };
                    self.open(span, anchor, tag.is_some(), content)
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    self.close();
                    Ok(())
                }
            };
            if let Err(Stop) = result {
                return None;
            }
        }
        if self.root.as_ref().is_none_or(|root| matches!(root.kind, Kind::Null)) {
            let message = "the file holds no configuration";
            self.problems.add(Span::point(1, 0), &At::TOP, message, STARTER);
            return None;
        }
        self.root
    }

    fn document(&mut self, span: Span, count: usize) -> Result<(), Stop> {
        if count == 1 {
            return Ok(());
        }
        let hint = "Sluice reads one document per file: remove everything from `---` on, or split the file";
        self.problems.add(span, &At::TOP, "a second YAML document starts here", hint);
        Err(Stop)
    }

    /// A problem at the place that is being read.
    fn complain(&mut self, span: Span, message: &str, hint: &str) {
        // The names on the way are looked for, which would add up in a file of mistakes.
        let way = if self.problems.is_full() { &[][..] } else { &self.stack[..] };
        located(way, &At::TOP, &mut |at| self.problems.add(span, at, message, hint));
    }

    fn tagged(&mut self, span: Span) {
        self.complain(span, "YAML tags (`!…`) have no meaning here", "remove the tag");
    }

    fn scalar(
        &mut self,
        span: Span,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tagged: bool,
    ) -> Result<(), Stop> {
        if tagged {
            self.tagged(span);
        }
        if let Some(Frame { content: Open::Mapping { key: key @ Slot::AwaitKey, seen, .. }, .. }) =
            self.stack.last_mut()
        {
            let first = seen.get(&text).copied();
            let merge = text == "<<" && style == ScalarStyle::Plain;
            if merge {
                *key = Slot::Refused;
                let hint = "write the keys out, or put what services share under `defaults`";
                self.complain(span, "merge keys (`<<`) are not part of YAML 1.2", hint);
            } else if let Some(first) = first {
                *key = Slot::Refused;
                let message = format!("duplicate key {}: it already stands on line {first}", quote(&text));
                self.complain(span, &message, "keep one of the two");
            } else {
                seen.insert(text.clone(), span.line);
                *key = Slot::Key(text, span);
            }
            return Ok(());
        }
        let plain = style == ScalarStyle::Plain;
        let kind = match &*text {
            "" | "~" | "null" | "Null" | "NULL" if plain => Kind::Null,
            _ => Kind::Scalar { text, plain },
        };
        self.value(Node::leaf(span, kind), anchor, span)
    }

    fn alias(&mut self, span: Span, anchor: usize) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            self.complain(span, "the alias stands inside the value it names", "write the value out");
            return Err(Stop);
        };
        if let Some(Frame { content: Open::Mapping { key: key @ Slot::AwaitKey, .. }, .. }) = self.stack.last_mut() {
            *key = Slot::Refused;
            self.complain(span, "an alias cannot be a key", "write the key out");
            return Ok(());
        }
        self.value(node, 0, span)
    }

    fn open(&mut self, span: Span, anchor: usize, tagged: bool, content: Open<'t>) -> Result<(), Stop> {
        if tagged {
            self.tagged(span);
        }
        if let Some(Frame { content: Open::Mapping { key: key @ Slot::AwaitKey, .. }, .. }) = self.stack.last_mut() {
            *key = Slot::AwaitKey;
            let suspect = usual_suspect(self.source, span.line);
            let (span, message, hint) = suspect.unwrap_or_else(|| {
                (span, "a key must be plain text, not a list or mapping".to_owned(), "write `key: value`".to_owned())
            });
            self.complain(span, &message, &hint);
            return Err(Stop);
        }
        if self.stack.len() >= MAX_DEPTH {
            self.problems.add(span, &At::TOP, format!("nested more than {MAX_DEPTH} levels deep"), DEEPEST);
            return Err(Stop);
        }
        self.stack.push(Frame { span, anchor, size: 1, height: 1, content });
        Ok(())
    }

    fn close(&mut self) {
        let Some(frame) = self.stack.pop() else { return };
        let kind = match frame.content {
            Open::Sequence(items) => Kind::Sequence(items),
            Open::Mapping { entries, .. } => Kind::Mapping(entries),
        };
        let node = Rc::new(Node { span: frame.span, kind, size: frame.size, height: frame.height });
        // Its values were counted one by one when they were read.
        self.place(node, frame.anchor);
    }

    /// A value that is complete as it comes: a scalar, or everything behind an alias.
    fn value(&mut self, node: Rc<Node<'t>>, anchor: usize, span: Span) -> Result<(), Stop> {
        self.nodes += node.size;
        if self.nodes > MAX_NODES {
            let message = format!("the file holds more than {MAX_NODES} values, aliases counted as often as used");
            self.problems.add(span, &At::TOP, message, "no configuration is that large: is it the right file?");
            return Err(Stop);
        }
        if self.stack.len() + node.height > MAX_DEPTH {
            self.problems.add(span, &At::TOP, format!("nested more than {MAX_DEPTH} levels deep"), DEEPEST);
            return Err(Stop);
        }
        self.place(node, anchor);
        Ok(())
    }

    fn place(&mut self, node: Rc<Node<'t>>, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        parent.size += node.size;
        parent.height = parent.height.max(node.height + 1);
        match &mut parent.content {
            Open::Sequence(items) => items.push(node),
            Open::Mapping { entries, key, .. } => {
                if let Slot::Key(key, key_span) = std::mem::replace(key, Slot::AwaitKey) {
                    entries.push(Entry { key, key_span, value: node });
                }
            }
        }
    }

    /// The parser's own words, unless the line shows one of the usual mistakes.
    fn syntax_error(&mut self, line: u32, column: u32, info: &str) {
        // Something missing at the end is found behind the last line.
        let line = line.clamp(1, self.source.last_line());
        let (span, message, hint) = usual_suspect(self.source, line)
            .or_else(|| earlier_suspect(self.source, line, info))
            .unwrap_or_else(|| {
                let (message, hint) = explain(info);
                (Span::point(line, column), message, hint)
            });
        self.problems.add(span, &At::TOP, message, hint);
    }
}

fn convert(span: saphyr_parser::Span) -> Span {
    Span {
        line: span.start.line() as u32,
        column: span.start.col() as u32,
        end_line: span.end.line() as u32,
        end_column: span.end.col() as u32,
    }
}

/// What editors and web pages put where a space was: the no-break space and its relatives.
const ODD_SPACES: [char; 5] = ['\u{a0}', '\u{2003}', '\u{2009}', '\u{202f}', '\u{3000}'];

/// Nobody writes longer lines by hand, and the search for suspects is quadratic.
const LONGEST_SUSPECT: usize = 2_000;

/// Where, what, and what to do.
type Suspect = (Span, String, String);

/// Mistakes that a look at the line explains better than the grammar does.
fn usual_suspect(source: &Source<'_>, line: u32) -> Option<Suspect> {
    let text = source.line(line);
    if text.len() > LONGEST_SUSPECT {
        return None;
    }
    let span = |start: usize, end: usize| {
        let column = |byte: usize| text[..byte].chars().count() as u32;
        Span { line, column: column(start), end_line: line, end_column: column(end) }
    };
    let told = |span, message: &str, hint: String| Some((span, message.to_owned(), hint));
    let indentation = text.len() - text.trim_start_matches([' ', '\t', '-']).len();
    if let Some(tab) = text[..indentation].find('\t') {
        return told(span(tab, tab + 1), "a tab in the indentation", "YAML is indented with spaces only".to_owned());
    }
    if let Some(start) = text.find(ODD_SPACES) {
        let end = start + text[start..].chars().next().map_or(0, char::len_utf8);
        let message = "this looks like a space and is another character";
        return told(span(start, end), message, "replace it with a space".to_owned());
    }
    for placeholder in ["{{", "{%"] {
        if let Some(start) = text.find(placeholder) {
            let message = "a template placeholder stands where a value should be";
            return told(span(start, start + 2), message, "render the template first".to_owned());
        }
    }
    for (start, _) in text.match_indices('[') {
        let Some(close) = text[start..].find("]:").map(|i| start + i) else { continue };
        let quoted = text[..start].ends_with(['"', '\'']);
        if quoted || text[start + 1..close].parse::<Ipv6Addr>().is_err() {
            continue;
        }
        let digits = text[close + 2..].bytes().take_while(u8::is_ascii_digit).count();
        let end = close + 2 + digits;
        let message = "square brackets start a list in YAML, so an IPv6 endpoint needs quotes";
        return told(span(start, end), message, format!("write \"{}\"", &text[start..end]));
    }
    for (colons, _) in text.match_indices("::") {
        let end = colons + 2;
        let address = text[..colons].bytes().rev().take_while(|b| b.is_ascii_hexdigit() || *b == b':').count();
        let start = colons - address;
        let ends_here = text[end..].is_empty() || text[end..].starts_with([' ', ',', '}', ']']);
        if ends_here && text[start..end].parse::<Ipv6Addr>().is_ok() && !text[..start].ends_with(['"', '\'']) {
            let message = "a colon at the end makes a key in YAML, so this address needs quotes";
            return told(span(start, end), message, format!("write \"{}\"", &text[start..end]));
        }
    }
    None
}

/// Mistakes that the grammar only notices on a later line.
fn earlier_suspect(source: &Source<'_>, line: u32, info: &str) -> Option<Suspect> {
    let bare = |number: u32| source.line(number).split(" #").next().unwrap_or_default().trim_end();
    let before = (1..line).rev().find(|n| !bare(*n).is_empty() && !bare(*n).trim_start().starts_with('#'))?;
    if source.line(before).contains(ODD_SPACES) {
        return usual_suspect(source, before);
    }
    let text = bare(before);
    let start = text.len() - text.trim_start().len();
    let column = |byte: usize| text[..byte].chars().count() as u32;
    let span = |from, to| Span { line: before, column: column(from), end_line: before, end_column: column(to) };
    let word = text.trim_start();
    let is_key = word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if is_key && (info.contains("simple key") || info.contains("mapping values")) {
        let message = format!("no colon behind `{}`", excerpt(word));
        return Some((span(start, text.len()), message, format!("write `{}:`", excerpt(word))));
    }
    for (open, close, form) in [('{', '}', "{ … }"), ('[', ']', "[ … ]")] {
        let unclosed = text.matches(open).count() > text.matches(close).count();
        if info.contains("invalid indentation") && unclosed {
            let at = text.rfind(open)?;
            let message = format!("the `{form}` that starts here is not closed before the next line");
            return Some((span(at, at + 1), message, format!("close it with `{close}`, or indent its other lines")));
        }
    }
    None
}

/// The parser speaks of tokens; this speaks of what to look for.
fn explain(info: &str) -> (String, String) {
    /// Part of the parser's message, ours, and the way out. The first match counts.
    const KNOWN: &[(&str, &str, &str)] = &[
        (
            "mapping values are not allowed",
            "a second `: ` in one value",
            "put the value in quotes, or start a new line for the next key",
        ),
        (
            "expected ',' or '}'",
            "the `{ … }` is not closed, or a comma is missing",
            "separate entries with `,` and close with `}`",
        ),
        (
            "expected ',' or ']'",
            "the `[ … ]` is not closed, or a comma is missing",
            "separate entries with `,` and close with `]`",
        ),
        (
            "block mapping, did not find expected key",
            "this line does not fit the indentation of the lines before it",
            "indent the keys of one mapping alike",
        ),
        (
            "block collection, did not find expected '-'",
            "this line does not fit the list before it",
            "indent it like the other keys of its entry, or start a new entry with `- `",
        ),
        (
            "simple key expect",
            "a `key: value` is expected here, and there is no `: `",
            "a colon needs a space after it",
        ),
        (
            "invalid indentation in quoted",
            "the quoted text that starts here is not closed",
            "close it with the quote it opens with",
        ),
        (
            "invalid indentation",
            "the indentation does not fit the lines before it",
            "indent the keys of one mapping alike",
        ),
        ("unknown anchor", "no anchor of this name stands before it", "quote the value if the `*` is part of it"),
        (
            "quoted scalar, found unexpected",
            "the quoted text that starts here is not closed",
            "close it with the quote it opens with",
        ),
        (
            "unknown escape character",
            "unknown `\\` sequence in a double-quoted text",
            "write `\\\\`, or use single quotes",
        ),
        ("directive", "a line that starts with `%` has no place here", "remove it"),
        ("tab", "a tab where only spaces may stand", "replace it with spaces"),
        ("unexpected character", "a value cannot start with this character", "put the value in quotes"),
        ("plain scalar cannot start", "a value cannot start with this character", "put the value in quotes"),
        ("recursion limit", "nested too deep", DEEPEST),
    ];
    match KNOWN.iter().find(|(part, ..)| info.contains(part)) {
        Some((_, message, hint)) => ((*message).to_owned(), (*hint).to_owned()),
        None => {
            let hint = "put the value in quotes if it contains special characters";
            (format!("this is not YAML: {}", excerpt(info)), hint.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every scalar with the text its span covers.
    fn walk(node: &Node<'_>, source: &Source<'_>, out: &mut Vec<(String, String)>) {
        let slice = |span: Span| -> String {
            assert_eq!(span.line, span.end_line);
            let (from, to) = (span.column as usize, span.end_column as usize);
            source.line(span.line).chars().take(to).skip(from).collect::<String>().trim_end().to_owned()
        };
        match &node.kind {
            Kind::Null => {}
            Kind::Scalar { text, .. } => out.push((text.to_string(), slice(node.span))),
            Kind::Sequence(items) => items.iter().for_each(|n| walk(n, source, out)),
            Kind::Mapping(entries) => {
                for entry in entries {
                    out.push((entry.key.to_string(), slice(entry.key_span)));
                    walk(&entry.value, source, out);
                }
            }
        }
    }

    #[test]
    fn every_value_knows_where_it_stands() {
        let minimal = include_str!("../../../deploy/config/minimal.yaml");
        let odd = "é: [ä , \"b c\" ,{d: 'e', \"f\":g}]  # ü\n\n# x\n漢字 :\n  - - 1\n    - ~\n  -   k:   v w \n      l : [\n         \"m\" ]\n? n\n: - o\n";
        for text in [minimal, odd] {
            for end in ["\n", "\r\n", "\r"] {
                let text = text.replace('\n', end);
                let source = Source::new("f", &text);
                let mut problems = Problems::new(&source);
                let root = read(&source, &mut problems).expect("the file is YAML");
                let mut values = Vec::new();
                walk(&root, &source, &mut values);
                assert!(values.len() > 10);
                for (value, slice) in values {
                    assert_eq!(value, slice.trim_matches(['"', '\'']), "with line ends {end:?}");
                }
            }
        }
    }

    #[test]
    fn a_mapping_starts_at_its_first_key() {
        let source = Source::new("f", "a:\n  - b: 1\n    c: 2\n");
        let mut problems = Problems::new(&source);
        let root = read(&source, &mut problems).expect("the file is YAML");
        let Kind::Mapping(entries) = &root.kind else { panic!() };
        let Kind::Sequence(items) = &entries[0].value.kind else { panic!() };
        assert_eq!((items[0].span.line, items[0].span.column), (2, 4));
    }
}
