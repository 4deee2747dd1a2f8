//! All mutants, one after the other on several copies of the checkout, and what became of each.
//!
//! Results are kept in `target/mutants/results.jsonl` as they come, with fingerprints of sources and of tests, so that an
//! interrupted run goes on where it was (`--resume`). The trap: a result is about these sources and these tests. What was
//! caught in a file that has not changed since is taken to be caught still, and `--missed` tries the rest; where a test
//! was taken away, only a whole run tells.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File as FsFile};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::explained::{Explained, shown};
use super::generate::{Id, Mutant, without_tests};
use super::judge::Judgement;
use super::judged::{Found, Judged};
use super::tree::{Ended, Tree};
use super::{File, checkout, collect_all, files};

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where copies and results are kept.
    pub directory: PathBuf,
    /// Only files whose path contains one of these; all, if there are none.
    pub files: Vec<String>,
    /// Keep what an earlier run of the same tree found.
    pub resume: bool,
    /// Keep what an earlier run of the same sources found caught, with whatever tests.
    pub missed: bool,
    /// Only files that are not as they were when they were judged to the end.
    pub changed: bool,
    /// How many at a time.
    pub jobs: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// This test noticed.
    Caught(String),
    /// The tests did not end.
    Timeout,
    /// No program: the compiler or the verifier says so.
    Unviable(String),
    /// The compiler makes the very same instructions of it.
    Same,
    /// No test noticed.
    Missed,
    /// The tests could not be run.
    Broken(String),
}

/// A line of the results.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    id: Id,
    /// Of the file that was changed.
    #[serde(default)]
    file: String,
    /// Of the program.
    sources: String,
    /// Of all that judges it.
    tests: String,
    outcome: Outcome,
    seconds: f64,
}

const REPORT: Duration = Duration::from_secs(10);

/// Prints every mutant there is.
pub fn list(options: &Options) -> Result<()> {
    let files = selected(options)?;
    let mutants = files.iter().flat_map(|file| &file.mutants);
    let mut out = std::io::stdout().lock();
    let written = mutants.clone().try_for_each(|mutant| writeln!(out, "{}\n", described(mutant)));
    match written.and_then(|()| writeln!(out, "{} mutants", mutants.count())) {
        // A reader that has seen enough is no error.
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Runs them, prints the survivors, and fails if one is not explained or an explanation is out of date.
pub fn run(options: &Options) -> Result<ExitCode> {
    let started = Instant::now();
    fs::create_dir_all(&options.directory).with_context(|| format!("cannot create {}", options.directory.display()))?;
    let explained = Explained::read()?;
    let all = files()?;
    let files = selected(options)?;
    if options.changed && files.is_empty() {
        println!("all files are as they were when they were judged");
        return Ok(ExitCode::SUCCESS);
    }
    let mut results = Results::open(&options.directory, &all, tests()?)?;
    let chosen: Vec<(&File, &Mutant)> =
        files.iter().flat_map(|file| file.mutants.iter().map(move |mutant| (file, mutant))).collect();
    let mut todo = chosen.clone();
    todo.retain(|(_, mutant)| {
        !(options.resume && results.is_current(&mutant.id) || options.missed && results.is_settled(&mutant.id))
    });
    results.forget(&todo)?;
    eprintln!(
        "{} mutants of {} files, {} to try; sources {}, tests {}",
        chosen.len(),
        files.len(),
        todo.len(),
        results.sources,
        results.tests
    );
    let work = Work {
        left: Mutex::new(todo.iter().rev().copied().collect()),
        results: Mutex::new(results),
        judged: Mutex::default(),
        progress: Mutex::new(Progress::new(todo.len())),
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.clamp(1, todo.len().max(1)))
            .map(|number| {
                let work = &work;
                scope.spawn(move || work.on(&options.directory, number).inspect_err(|_| lock(&work.left).clear()))
            })
            .collect();
        let ended = workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
        ended.collect::<Result<()>>()
    })?;
    let results = work.results.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&all, &chosen, &results, &explained, started.elapsed())
}

fn selected(options: &Options) -> Result<Vec<File>> {
    let mut files = files()?;
    if !options.files.is_empty() {
        files.retain(|file| options.files.iter().any(|part| file.path.contains(part)));
    }
    ensure!(files.iter().any(|file| !file.mutants.is_empty()), "no file in scope has {:?} in its path", options.files);
    if options.changed {
        let judged = Judged::read()?;
        let mut left = Vec::new();
        for file in files {
            if !file.mutants.is_empty() && !judged.knows(&file.path, &fingerprint(&file)?) {
                left.push(file);
            }
        }
        files = left;
    }
    Ok(files)
}

fn fingerprint(file: &File) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(without_tests(&file.path, &file.source)?);
    Ok(short(hash))
}

/// Of the program: what is changed, and what is built with it.
fn sources(files: &[File]) -> Result<String> {
    let mut hash = Sha256::new();
    for File { path, source, .. } in files {
        hash.update(path);
        hash.update(without_tests(path, source)?);
    }
    for path in ["lb-ebpf/src/maps.rs", "lb-ebpf/Cargo.toml", "lb-common/Cargo.toml", "Cargo.lock"] {
        hash.update(fs::read(checkout().join(path)).with_context(|| format!("cannot read {path}"))?);
    }
    Ok(short(hash))
}

/// Of all that judges it: this program, the tests of `lb-common`, and the fuzzer's fixtures.
fn tests() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(fs::read(std::env::current_exe()?)?);
    let mut paths = Vec::new();
    collect_all(&checkout().join("lb-common/src"), &mut paths)?;
    paths.sort();
    for path in paths {
        hash.update(fs::read(path)?);
    }
    for (name, fixture) in crate::fuzz::fixture::all()? {
        hash.update(name);
        hash.update(serde_json::to_string(&fixture)?);
    }
    Ok(short(hash))
}

fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Results as they are on disk, the latest of each mutant.
#[derive(Debug)]
struct Results {
    path: PathBuf,
    /// By path.
    files: HashMap<String, String>,
    sources: String,
    tests: String,
    records: HashMap<Id, Record>,
    file: FsFile,
}

impl Results {
    fn open(directory: &Path, all: &[File], tests: String) -> Result<Self> {
        let files = all.iter().map(|file| Ok((file.path.clone(), fingerprint(file)?))).collect::<Result<_>>()?;
        let path = directory.join("results.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_default();
        // A run that was killed may have left half a line.
        let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
        let records = records.map(|record| (record.id.clone(), record)).collect();
        let file = FsFile::options().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, files, sources: sources(all)?, tests, records, file })
    }

    /// What is known of a mutant of this file as it is.
    fn of(&self, id: &Id) -> Option<&Record> {
        self.records.get(id).filter(|record| self.files.get(&id.file) == Some(&record.file))
    }

    /// In these sources, as these tests judge it.
    fn is_current(&self, id: &Id) -> bool {
        self.of(id).is_some_and(|record| record.sources == self.sources && record.tests == self.tests)
    }

    /// More tests will not change it.
    fn is_settled(&self, id: &Id) -> bool {
        self.of(id).is_some_and(|record| !matches!(record.outcome, Outcome::Missed | Outcome::Broken(_)))
    }

    /// Writes the file anew, without these.
    fn forget(&mut self, mutants: &[(&File, &Mutant)]) -> Result<()> {
        for (_, mutant) in mutants {
            self.records.remove(&mutant.id);
        }
        let mut text = String::new();
        for record in self.records.values() {
            text += &serde_json::to_string(record)?;
            text.push('\n');
        }
        fs::write(&self.path, text)?;
        self.file = FsFile::options().append(true).open(&self.path)?;
        Ok(())
    }

    fn add(&mut self, id: &Id, outcome: Outcome, took: Duration) -> Result<()> {
        let (sources, tests) = (self.sources.clone(), self.tests.clone());
        let file = self.files.get(&id.file).cloned().unwrap_or_default();
        let record = Record { id: id.clone(), file, sources, tests, outcome, seconds: took.as_secs_f64() };
        writeln!(self.file, "{}", serde_json::to_string(&record)?)?;
        self.records.insert(id.clone(), record);
        Ok(())
    }
}

#[derive(Debug)]
struct Progress {
    started: Instant,
    told: Instant,
    all: usize,
    done: usize,
    counts: BTreeMap<&'static str, usize>,
}

impl Progress {
    fn new(all: usize) -> Self {
        let now = Instant::now();
        Self { started: now, told: now, all, done: 0, counts: BTreeMap::new() }
    }

    fn add(&mut self, mutant: &Mutant, outcome: &Outcome) {
        self.done += 1;
        *self.counts.entry(word(outcome)).or_default() += 1;
        if matches!(outcome, Outcome::Missed | Outcome::Timeout | Outcome::Broken(_)) {
            eprintln!("{}:\n{}", word(outcome), described(mutant));
        }
        if let Outcome::Broken(why) = outcome {
            eprintln!("{why}");
        }
        if self.told.elapsed() >= REPORT || self.done == self.all {
            self.told = Instant::now();
            let counts: Vec<String> = self.counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
            let each = self.started.elapsed().as_secs_f64() / self.done as f64;
            let left = each * (self.all - self.done) as f64 / 60.0;
            eprintln!("{} of {}: {}; {left:.0} min left", self.done, self.all, counts.join(", "));
        }
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Caught(_) => "caught",
        Outcome::Timeout => "timed out",
        Outcome::Unviable(_) => "unviable",
        Outcome::Same => "same program",
        Outcome::Missed => "missed",
        Outcome::Broken(_) => "not tested",
    }
}

/// What the workers share.
#[derive(Debug)]
struct Work<'a> {
    /// The next one last.
    left: Mutex<Vec<(&'a File, &'a Mutant)>>,
    results: Mutex<Results>,
    /// What the kernel's tests said of programs that do the same.
    judged: Mutex<HashMap<[u8; 32], Outcome>>,
    progress: Mutex<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    fn on(&self, directory: &Path, number: usize) -> Result<()> {
        if lock(&self.left).is_empty() {
            return Ok(());
        }
        let tree = Tree::new(directory, number)?;
        if number == 0 {
            eprintln!("building the program as it is (the first time takes some minutes)");
        }
        let original = match tree.objects()? {
            Ok(built) => built,
            Err(why) => bail!("the program does not build as it is:\n{why}"),
        };
        if number == 0 {
            match tree.judge(&original)? {
                Ended::Said(Judgement::Survives) => {}
                said => bail!("the tests fail without a mutant: {said:?}"),
            }
            ensure!(matches!(tree.host_tests()?, Some(Ended::Said(true))), "lb-common's tests fail without a mutant");
        }
        loop {
            let Some((file, mutant)) = lock(&self.left).pop() else { return Ok(()) };
            let started = Instant::now();
            tree.put(&file.path, &mutant.apply(&file.source))?;
            let outcome = self.outcome(&tree, file, &original.fingerprint);
            tree.put(&file.path, &file.source)?;
            let outcome = outcome.unwrap_or_else(|why| Outcome::Broken(format!("{why:#}")));
            lock(&self.progress).add(mutant, &outcome);
            lock(&self.results).add(&mutant.id, outcome, started.elapsed())?;
        }
    }

    fn outcome(&self, tree: &Tree, file: &File, original: &[u8; 32]) -> Result<Outcome> {
        let shared = file.path.starts_with("lb-common/");
        if shared {
            match tree.host_tests()? {
                None => return Ok(Outcome::Unviable("lb-common does not build".to_owned())),
                Some(Ended::TimedOut) => return Ok(Outcome::Timeout),
                Some(Ended::Said(false)) => return Ok(Outcome::Caught("lb-common's own tests".to_owned())),
                Some(Ended::Said(true)) => {}
            }
        }
        let built = match tree.objects()? {
            Ok(built) => built,
            Err(_) => return Ok(Outcome::Unviable("the programs do not build".to_owned())),
        };
        if built.fingerprint == *original {
            // The controller's part of `lb-common` is in no object.
            return Ok(if shared { Outcome::Missed } else { Outcome::Same });
        }
        if let Some(outcome) = lock(&self.judged).get(&built.fingerprint) {
            return Ok(outcome.clone());
        }
        let outcome = match tree.judge(&built)? {
            Ended::TimedOut => Outcome::Timeout,
            Ended::Said(Judgement::Survives) => Outcome::Missed,
            Ended::Said(Judgement::Refused) => Outcome::Unviable("the verifier refuses it".to_owned()),
            Ended::Said(Judgement::Caught(by)) => Outcome::Caught(by),
        };
        lock(&self.judged).insert(built.fingerprint, outcome.clone());
        Ok(outcome)
    }
}

/// Writes down which of these files were judged to the end.
fn record(all: &[File], rows: &BTreeMap<&str, Row>, results: &Results) -> Result<()> {
    let mut judged = Judged::read()?;
    for (file, row) in rows {
        if row.missed > 0 {
            judged.remove(file);
            continue;
        }
        let fingerprint = results.files.get(*file).cloned().context("a file has no fingerprint")?;
        let caught = row.caught + row.timeout;
        judged.add(file, Found { fingerprint, mutants: row.all, caught, explained: row.explained });
    }
    judged.write(all)
}

/// A mutant for people.
fn described(mutant: &Mutant) -> String {
    let Mutant { id: Id { file, function, line: text, becomes, .. }, line, .. } = mutant;
    format!("{file}:{line}, in {function}\n- {text}\n+ {becomes}")
}

/// A file's row of the table.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    all: usize,
    caught: usize,
    timeout: usize,
    unviable: usize,
    same: usize,
    explained: usize,
    missed: usize,
}

fn report(
    all: &[File],
    chosen: &[(&File, &Mutant)],
    results: &Results,
    explained: &Explained,
    took: Duration,
) -> Result<ExitCode> {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (file, mutant) in chosen {
        let record = results.of(&mutant.id).context("a mutant has no result")?;
        let why = explained.why(&mutant.id);
        let row = rows.entry(&file.path).or_default();
        row.all += 1;
        match &record.outcome {
            Outcome::Caught(by) => {
                row.caught += 1;
                if why.is_some() {
                    complaints.push(format!("explained, but caught by {by}: {}", shown(&mutant.id)));
                }
            }
            Outcome::Timeout => row.timeout += 1,
            Outcome::Unviable(_) => row.unviable += 1,
            Outcome::Same => row.same += 1,
            Outcome::Missed | Outcome::Broken(_) => {
                println!("{}", described(mutant));
                // What could not be tested may be caught.
                match why.filter(|_| record.outcome == Outcome::Missed) {
                    Some(why) => {
                        row.explained += 1;
                        println!("explained: {why}\n");
                    }
                    None => {
                        row.missed += 1;
                        println!(
                            "NOT EXPLAINED; write a test that fails, or say why none can:\n{}\n",
                            shown(&mutant.id)
                        );
                    }
                }
            }
        }
    }
    for stale in explained.stale(all.iter().flat_map(|file| &file.mutants).map(|mutant| &mutant.id)) {
        complaints.push(format!("explained, but no mutant any more: {}", shown(stale)));
    }
    complaints.extend(explained.wrong.iter().cloned());
    record(all, &rows, results)?;

    println!(
        "{:<34} {:>7} {:>7} {:>7} {:>8} {:>7} {:>9} {:>11}",
        "file", "mutants", "caught", "timeout", "unviable", "same", "explained", "unexplained"
    );
    let mut sum = Row::default();
    for (file, row) in &rows {
        print(file, row);
        for (sum, n) in [
            (&mut sum.all, row.all),
            (&mut sum.caught, row.caught),
            (&mut sum.timeout, row.timeout),
            (&mut sum.unviable, row.unviable),
            (&mut sum.same, row.same),
            (&mut sum.explained, row.explained),
            (&mut sum.missed, row.missed),
        ] {
            *sum += n;
        }
    }
    print("all", &sum);
    for complaint in &complaints {
        println!("{complaint}");
    }
    println!(
        "{} mutants in {:.0} min: {} caught, {} survive and are explained, {} survive unexplained",
        sum.all,
        took.as_secs_f64() / 60.0,
        sum.caught + sum.timeout,
        sum.explained,
        sum.missed
    );
    Ok(if sum.missed == 0 && complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(name: &str, row: &Row) {
    let Row { all, caught, timeout, unviable, same, explained, missed } = row;
    println!("{name:<34} {all:>7} {caught:>7} {timeout:>7} {unviable:>8} {same:>7} {explained:>9} {missed:>11}");
}
