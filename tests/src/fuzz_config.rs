//! The fuzzer of the configuration loader: files people might write, broken the way people and attackers break them.
//!
//! Whatever a file holds, the loader answers: within a bound of processor time, without a panic, with a model that
//! its own `show` leads back to, or with reasons that are safe to print. All of a run follows from its seed.
//!
//! The trap is noise: random bytes end in the first line of the parser. So the files start from the corpus of bad
//! ones and from good ones, and mutations know about lines, blocks, keys and values.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use sluice::config::schema::{TABLES, Value};
use sluice::config::{self, Diagnostics};

use crate::fuzz::random::Random;

/// Files grow by mutation up to about this; longer ones say nothing new and take their time.
const LONGEST: usize = 256 << 10;
/// What reading one file may take, unoptimised: so much, and so much more for each byte. Linear work takes far less.
const PATIENCE: Duration = Duration::from_secs(1);
const PATIENCE_PER_BYTE: Duration = Duration::from_micros(30);
/// Most text that a refusal may print: a hundred problems with their lines.
const MOST_TOLD: usize = 200_000;

const REPORT: Duration = Duration::from_secs(10);

/// What is put in place of a value, besides the words and keys of the tables.
const HOSTILE: &[&str] = &[
    "",
    "~",
    "null",
    "true",
    "0",
    "1",
    "-1",
    "65535",
    "65536",
    "4294967296",
    "99999999999999999999999",
    "010",
    "0x10",
    "1e9",
    ".inf",
    "1.5",
    "500ms",
    "2s",
    "0s",
    "15m",
    "9999h",
    "18446744073709551615h",
    "10%",
    "50%",
    "51%",
    "-1%",
    "eth0",
    "eth0:1",
    "10.0.0.11",
    "203.0.113.10",
    "203.0.113.10:443",
    "203.0.113.10:0",
    "[2001:db8::10]:443",
    "\"[2001:db8::10]:443\"",
    "2001:db8::10",
    "2001:db8::",
    "::",
    "::ffff:10.0.0.1",
    "fe80::1%2",
    "127.0.0.1",
    "255.255.255.255",
    "192.0.2.0/24",
    "192.0.2.1/24",
    "/",
    "/healthz",
    "http://x/y",
    "200",
    "200-299",
    "299-200",
    "[]",
    "{}",
    "[1, 2]",
    "{ a: b }",
    "off",
    "none",
    "\"",
    "'",
    "|",
    ">",
    "&a",
    "*a",
    "&a *a",
    "&a [*a]",
    "!!str x",
    "!x",
    "<<",
    "<<: *a",
    "? x",
    "- - -",
    "{",
    "[",
    "}",
    "]",
    "[[[[[[[[",
    "{a: {a: {a: {a: ",
    "#",
    ": ",
    ":",
    ",",
    "%",
    "@",
    "`",
    "---",
    "...",
    "%YAML 1.2\n---",
    "\t",
    "\r",
    "\0",
    "\u{feff}",
    "\u{a0}",
    "\u{202e}",
    "\u{85}",
    "\u{2028}",
    "\u{10ffff}",
    "é漢字",
    "\\",
    "\"\\n\"",
    "\"\\u202e\"",
    "\"\\x00\"",
    "{{ vip }}",
    "{% if %}",
    "“x”",
];

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub seed: u64,
    /// The run ends with the file in which either is used up.
    pub time: Option<Duration>,
    pub files: Option<u64>,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub files: u64,
    pub accepted: u64,
    /// Messages, without what they quote.
    pub messages: BTreeSet<String>,
    pub slowest: Duration,
    /// What went wrong, and the file it went wrong with.
    pub finding: Option<(String, PathBuf)>,
}

/// Where mutations start from, and what they put in.
struct Material {
    files: Vec<String>,
    words: Vec<String>,
    /// What is worth putting behind a key, by its name.
    values: BTreeMap<&'static str, Vec<String>>,
}

impl Material {
    fn read() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let corpus = root.join("lb-userspace/tests/config-corpus");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&corpus)
            .with_context(|| format!("cannot list {}", corpus.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        paths.push(root.join("deploy/config/minimal.yaml"));
        // The directory's order is not the same everywhere, and a seed has to be.
        paths.sort();
        let mut files = Vec::new();
        for path in paths {
            files.push(String::from_utf8_lossy(&std::fs::read(&path)?).into_owned());
        }
        let documentation = std::fs::read_to_string(root.join("docs/configuration.md"))?;
        let examples = documentation.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
        files.extend(examples.map(str::to_owned));
        // Good ones are outnumbered by the corpus, and lead further.
        let good: Vec<_> = files.iter().filter(|text| config::parse("f", text).is_ok()).cloned().collect();
        for _ in 0..files.len() / good.len().max(1) {
            files.extend(good.iter().cloned());
        }
        Ok(Self { files, words: words(), values: values() })
    }
}

/// Every key, every word of a choice, and what a file should not hold.
fn words() -> Vec<String> {
    let mut words: Vec<String> = HOSTILE.iter().map(|word| (*word).to_owned()).collect();
    for key in TABLES.iter().flat_map(|table| table.keys) {
        words.push(key.name.to_owned());
        words.push(format!("{}: ", key.name));
    }
    for choice in TABLES.iter().flat_map(|table| table.built()).filter_map(|(_, entry)| entry.value.choice()) {
        words.extend(choice.words.iter().map(|word| word.name.to_owned()));
    }
    words
}

fn values() -> BTreeMap<&'static str, Vec<String>> {
    let mut values: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (name, entry) in TABLES.iter().flat_map(|table| table.built()) {
        edges(&entry.value, values.entry(name).or_default());
    }
    values
}

/// Values at the edge of what is allowed, on either side.
fn edges(value: &Value, edges: &mut Vec<String>) {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    match value {
        Value::Integer(low, high) => {
            let numbers = [i64::from(*low) - 1, i64::from(*low), i64::from(*high), i64::from(*high) + 1];
            edges.extend(numbers.map(|n| n.to_string()));
        }
        Value::Duration(low, high) => {
            let milliseconds =
                [low.as_millis().saturating_sub(1), low.as_millis(), high.as_millis(), high.as_millis() + 1];
            edges.extend(milliseconds.map(|n| format!("{n}ms")));
            edges.extend(texts(&["0s", "1s", "2s", "9999999999999h", "2"]));
        }
        Value::Rate(low, high) => {
            edges.extend([low - 1, *low, *high, high + 1].map(|n| format!("{n}/s")));
            edges.extend(texts(&["10k/s", "10M/s", "9999999999999999999M/s", "10", "/s"]));
        }
        Value::Percent(most) => edges.extend([0, *most, most + 1].map(|n| format!("{n}%"))),
        Value::Version => edges.extend(texts(&["1", "2"])),
        Value::Path => edges
            .extend([texts(&["/", "/a b", "a"]), vec![format!("/{}", "x".repeat(107)), "/x".repeat(2_048)]].concat()),
        Value::Name | Value::BackendName => {
            edges.extend(
                [texts(&["a", "web", "10.0.0.11", "-a", "\"2001:db8::11\""]), vec!["a".repeat(63), "a".repeat(64)]]
                    .concat(),
            );
        }
        Value::InterfaceName => {
            edges.extend(texts(&["eth0", "eth1", "fifteen-bytes-x", "sixteen-bytes-xx", "a/b", "."]))
        }
        Value::Address => edges.extend(texts(&[
            "10.0.0.11",
            "10.0.0.12",
            "2001:db8::11",
            "203.0.113.10",
            "127.0.0.1",
            "::",
            "ff02::1",
        ])),
        Value::Mac => edges.extend(texts(&[
            "02:00:00:00:00:0a",
            "02:00:00:00:00:0",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00:00:00:0a:0b",
            "11:22:33",
        ])),
        Value::Endpoint | Value::Socket => edges.extend(texts(&[
            "203.0.113.10:80",
            "203.0.113.10:443",
            "\"[2001:db8::10]:80\"",
            "127.0.0.1:9480",
            "203.0.113.10:65535",
            "203.0.113.10:65536",
            "203.0.113.10:0",
            "0.0.0.0:80",
            "\"[::ffff:10.0.0.1]:80\"",
            "\"[fe80::1%2]:80\"",
        ])),
        Value::Prefix4 => edges.extend(texts(&[
            "0.0.0.0/0",
            "192.0.2.0/1",
            "128.0.0.0/1",
            "192.0.2.7/32",
            "192.0.2.7/33",
            "192.0.2.7",
        ])),
        Value::Prefix6 => edges.extend(texts(&[
            "::/0",
            "8000::/1",
            "2001:db8::/64",
            "2001:db8::1/128",
            "2001:db8::1/129",
            "2001:db8::1",
        ])),
        Value::Method => edges.extend(texts(&["GET", "get", "7", "\"GE T\""])),
        Value::RequestPath => edges.extend(texts(&["/", "/a?b", "/a#b", "a", "\"/é\""])),
        Value::HostName => edges.extend(texts(&["a", "a:80", "\"[::1]\"", "a/b", "\"\""])),
        Value::Headers => edges.extend(texts(&["{ A: b }", "{ a: b, A: c }", "{ Host: x }", "{ A: \" \" }", "{}"])),
        Value::StatusCodes => edges.extend(texts(&["99", "100", "599", "600", "100-599", "299-200", "200 - 299"])),
        Value::ServerName => edges.extend(texts(&["a.example", "a.example:443", "10.0.0.11", "a..b", "\"\""])),
        Value::AlpnName => edges.extend(texts(&["h2", "http/1.1", "\"a b\"", "\"\""])),
        Value::Url => edges.extend(texts(&["http://a", "http://a:0/", "https://a/", "http://[::1]:9/x", "a"])),
        Value::Flag => edges.extend(texts(&["true", "false", "yes", "\"true\""])),
        Value::Text => edges.extend([texts(&["a", "\"\"", "é"]), vec!["a".repeat(4_096), "a".repeat(4_097)]].concat()),
        Value::Pattern => edges.extend(texts(&["a+", "\"(\"", "'(a{1000}){1000}'", "\"[\"", "'\\d'"])),
        Value::DomainName => {
            edges.extend([texts(&["a.example", "a.example.", "a..b", "."]), vec!["a".repeat(64)]].concat())
        }
        Value::Bytes => edges.extend(texts(&["ping", "'\\n'", "'\\x00'", "'\\q'", "'\\'", "\"\""])),
        Value::GrpcService => edges.extend([texts(&["a.v1.B", "\"\""]), vec!["a".repeat(128)]].concat()),
        Value::Choice(choice) => edges.extend(choice.words.iter().map(|word| word.name.to_owned())),
        Value::Word(word) => edges.push((*word).to_owned()),
        Value::Empty => edges.extend(texts(&["", "~", "{}"])),
        Value::Table(table) => {
            edges.extend(texts(&["{}", "~"]));
            edges.extend(table.keys.iter().map(|key| format!("{{ {}: x }}", key.name)));
        }
        Value::List(_, each) | Value::OneOrMany(each) => {
            let mut of_one = Vec::new();
            self::edges(each, &mut of_one);
            edges.extend(of_one.iter().map(|one| format!("[{one}, {one}]")));
            edges.push("[]".to_owned());
            edges.append(&mut of_one);
        }
        Value::Either(values) => values.iter().for_each(|value| self::edges(value, edges)),
    }
}

/// The `n`-th file of a run.
fn file(material: &Material, seed: u64, n: u64) -> Vec<u8> {
    let mut random = Random::part(seed, n);
    let mut text = random.pick(&material.files);
    for _ in 0..random.between(1, 6) {
        text = mutate(text, &mut random, material);
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
        }
    }
    let mut bytes = text.into_bytes();
    if random.percent(5) && !bytes.is_empty() {
        let place = random.below(bytes.len());
        bytes[place] = random.byte();
    }
    bytes
}

fn mutate(text: String, random: &mut Random, material: &Material) -> String {
    let place = |random: &mut Random, text: &str| text.floor_char_boundary(random.below(text.len() + 1));
    match random.weighted(&[(4, 0), (3, 1), (3, 2), (2, 3), (1, 4), (1, 5), (1, 6)]) {
        // A value or key becomes another.
        0 => {
            let spans = tokens(&text);
            if spans.is_empty() {
                return text;
            }
            let (start, end) = random.pick(&spans);
            let key = text[..start].trim_end_matches([' ', '"', '\'', '[']).strip_suffix(':').unwrap_or_default();
            let key = key.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            let word = match material.values.get(key) {
                Some(values) if random.percent(80) => random.pick(values),
                _ => random.pick(&material.words),
            };
            format!("{}{word}{}", &text[..start], &text[end..])
        }
        // A line goes, comes twice, moves in or out, or comes from another file.
        1 => {
            let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
            if lines.is_empty() {
                return text;
            }
            let at = random.below(lines.len());
            match random.below(5) {
                0 => drop(lines.remove(at)),
                1 => lines.insert(at, lines[at].clone()),
                2 => lines[at].insert_str(0, &" ".repeat(random.between(1, 4))),
                3 => lines[at] = lines[at].strip_prefix("  ").unwrap_or(&lines[at]).to_owned(),
                _ => {
                    let other = random.pick(&material.files);
                    let others: Vec<&str> = other.split_inclusive('\n').collect();
                    if !others.is_empty() {
                        lines.insert(at, random.pick(&others).to_owned());
                    }
                }
            }
            lines.concat()
        }
        // A block (a line and what is indented below it) is put somewhere else.
        2 => {
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            if lines.is_empty() {
                return text;
            }
            let indentation = |line: &str| line.len() - line.trim_start_matches(' ').len();
            let from = random.below(lines.len());
            let inner = lines[from + 1..].iter().take_while(|line| indentation(line) > indentation(lines[from]));
            let block = lines[from..=from + inner.count()].concat();
            let to = random.below(lines.len() + 1);
            format!("{}{block}{}", lines[..to].concat(), lines[to..].concat())
        }
        // Something is inserted anywhere.
        3 => {
            let at = place(random, &text);
            format!("{}{}{}", &text[..at], random.pick(&material.words), &text[at..])
        }
        // A stretch is cut out.
        4 => {
            let (a, b) = (place(random, &text), place(random, &text));
            format!("{}{}", &text[..a.min(b)], &text[a.max(b)..])
        }
        // The end is missing.
        5 => text[..place(random, &text)].to_owned(),
        // A stretch is repeated, often.
        _ => {
            let a = place(random, &text);
            let b = text.floor_char_boundary(text.len().min(a + random.between(1, 120)));
            let many = random.pick(&[2, 70, 1_000]).min(LONGEST / (b - a).max(1));
            format!("{}{}{}", &text[..a], text[a..b].repeat(many), &text[b..])
        }
    }
}

/// Where words stand that look like keys or values.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let mut spans = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let inside = !c.is_whitespace() && !"{}[],#\"'".contains(c);
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                spans.push((from, text[from..at].strip_suffix(':').map_or(at, |word| from + word.len())));
                start = None;
            }
            _ => {}
        }
    }
    spans
}

/// What the loader says to a file; `Err` is what is wrong with that.
fn judge(bytes: &[u8]) -> Result<Result<(), Diagnostics>, String> {
    let answer = catch_unwind(AssertUnwindSafe(|| match config::parse_bytes("f", bytes) {
        Ok(model) => {
            drop(config::warnings(&model));
            let shown = config::show(&model).to_string();
            match config::parse("shown", &shown) {
                Ok(again) if again == model => Ok(Ok(())),
                Ok(_) => Err(format!("what is shown means something else: {shown}")),
                Err(diagnostics) => Err(format!("what is shown is refused: {diagnostics}")),
            }
        }
        Err(diagnostics) => match unfit(&diagnostics) {
            Some(why) => Err(why),
            None => Ok(Err(diagnostics)),
        },
    }));
    answer.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("the loader panicked: {}", words.unwrap_or("without a word")))
    })
}

/// Why a refusal is not fit to be printed.
fn unfit(diagnostics: &Diagnostics) -> Option<String> {
    if diagnostics.count() == 0 {
        return Some("refused without a reason".to_owned());
    }
    let told = diagnostics.to_string();
    if told.len() > MOST_TOLD {
        return Some(format!("the refusal is {} bytes long", told.len()));
    }
    let moves = |c: char| c.is_control() && c != '\n' && c != '\t' || ('\u{202a}'..='\u{202e}').contains(&c);
    if let Some(c) = told.chars().find(|c| moves(*c)) {
        return Some(format!("the refusal prints {c:?}"));
    }
    let outside = diagnostics.list.iter().filter_map(|d| d.position.as_ref()).find(|p| {
        p.line == 0 || p.column == 0 || p.width == 0 || (p.caret + p.width) as usize > p.source.chars().count() + 1
    });
    if let Some(position) = outside {
        return Some(format!("the place is not in the file: {position:?}"));
    }
    diagnostics.list.iter().find(|d| d.message.is_empty()).map(|_| "an empty message".to_owned())
}

fn patience(bytes: &[u8]) -> Duration {
    PATIENCE + PATIENCE_PER_BYTE * bytes.len() as u32
}

fn processor_time() -> Duration {
    // The fuzzer is one thread that works and one that sleeps, so the process's clock is the loader's.
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// A message without what it quotes or counts, to tell kinds of messages.
fn kind(message: &str) -> String {
    let plain: String = message.split('`').step_by(2).collect();
    let words = plain.split_whitespace().filter(|word| !word.bytes().any(|b| b.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// The smallest file found that is still wrong: halves, quarters, … of its lines, then single ones, are left out.
fn shrink(bytes: Vec<u8>) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let mut length = parts.len();
    while length > 0 {
        let mut at = 0;
        while at < parts.len() {
            let mut fewer = parts.clone();
            fewer.drain(at..(at + length).min(parts.len()));
            match judge(&fewer.concat()) {
                Err(_) => parts = fewer,
                Ok(_) => at += length,
            }
        }
        length /= 2;
    }
    parts.concat()
}

/// Runs; findings are kept in `directory`.
pub fn run(options: &Options, directory: &Path) -> Result<Outcome> {
    let Options { seed, time, files } = *options;
    println!("seed {seed}");
    let material = Material::read()?;
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let keep = |n: u64, bytes: &[u8]| -> Result<PathBuf> {
        let path = directory.join(format!("{seed}-{n}.yaml"));
        std::fs::write(&path, bytes).with_context(|| format!("cannot keep {}", path.display()))?;
        Ok(path)
    };
    // What is being read, and since when: a hang is seen from outside.
    let current: Mutex<Option<(u64, Vec<u8>, Duration)>> = Mutex::new(None);
    let lock = || current.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = std::panic::take_hook();
    // A panic is a finding, told once and in order.
    std::panic::set_hook(Box::new(|_| {}));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let stopped = stopped;
            while stopped.recv_timeout(Duration::from_millis(200)).is_err_and(|e| e == TIMEOUT) {
                let Some((n, bytes, since)) = lock().clone() else { continue };
                if processor_time().saturating_sub(since) > 4 * patience(&bytes) {
                    let kept = keep(n, &bytes).map_or_else(|e| e.to_string(), |path| path.display().to_string());
                    println!("the loader hangs on file {n} (seed {seed})\nkept as {kept}");
                    std::process::exit(1);
                }
            }
        });
        let outcome = (|| {
            let mut outcome = Outcome::default();
            let started = Instant::now();
            let mut told = started;
            while time.is_none_or(|time| started.elapsed() < time) && files.is_none_or(|most| outcome.files < most) {
                let n = outcome.files;
                let bytes = file(&material, seed, n);
                let since = processor_time();
                *lock() = Some((n, bytes.clone(), since));
                let verdict = judge(&bytes);
                *lock() = None;
                let took = processor_time().saturating_sub(since);
                outcome.files += 1;
                outcome.slowest = outcome.slowest.max(took);
                let slow = took > patience(&bytes);
                let wrong = match verdict {
                    Err(why) => Some((why, shrink(bytes))),
                    Ok(_) if slow => Some((format!("it took {took:?}, and {:?} is the most", patience(&bytes)), bytes)),
                    Ok(Ok(())) => {
                        outcome.accepted += 1;
                        None
                    }
                    Ok(Err(diagnostics)) => {
                        outcome.messages.extend(diagnostics.list.iter().map(|d| kind(&d.message)));
                        None
                    }
                };
                if let Some((why, bytes)) = wrong {
                    outcome.finding = Some((why, keep(n, &bytes)?));
                    break;
                }
                if told.elapsed() > REPORT {
                    told = Instant::now();
                    eprintln!("{}", outcome.line());
                }
            }
            anyhow::Ok(outcome)
        })();
        drop(stop);
        outcome
    });
    std::panic::set_hook(hook);
    let outcome = outcome?;
    if outcome.files == 0 {
        bail!("no file was read: is the time 0?");
    }
    Ok(outcome)
}

const TIMEOUT: std::sync::mpsc::RecvTimeoutError = std::sync::mpsc::RecvTimeoutError::Timeout;

impl Outcome {
    /// One line that says how it went.
    pub fn line(&self) -> String {
        format!(
            "{} files: {} accepted, {} refused with {} kinds of message; the slowest took {} ms",
            self.files,
            self.accepted,
            self.files - self.accepted,
            self.messages.len(),
            self.slowest.as_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_finds_nothing_and_gets_everywhere() {
        let directory = std::env::temp_dir().join(format!("sluice-fuzz-config-{}", std::process::id()));
        let options = Options { seed: 1, time: None, files: Some(1_500) };
        let outcome = run(&options, &directory).expect("it runs");
        let _ = std::fs::remove_dir(&directory);
        assert!(outcome.finding.is_none(), "{:?}", outcome.finding);
        // Otherwise mutations break the files in one way only.
        assert!(outcome.accepted > 50, "{}", outcome.line());
        assert!(outcome.messages.len() > 70, "{}: {:#?}", outcome.line(), outcome.messages);
    }

    #[test]
    fn a_seed_says_which_files_there_are() {
        let material = Material::read().expect("the corpus is there");
        assert_eq!(file(&material, 7, 3), file(&material, 7, 3));
        assert_ne!(file(&material, 7, 3), file(&material, 8, 3));
    }
}
