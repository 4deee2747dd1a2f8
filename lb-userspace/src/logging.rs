//! Logs: stderr, for people or for machines.
//!
//! stdout belongs to data, so nothing here may touch it. The trap is in the filter: `tracing` reads an unknown
//! word such as `debgu` as the name of a module and then logs nothing at all, without a word. [`Filter`] refuses it.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::str::FromStr;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged: a level, or `tracing` directives such as `info,sluice::health=debug`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
        // The trap again: `tracing` takes the space after a comma for a part of the module's name.
        let text: String = text.split_whitespace().collect();
        if let Some(word) = text.split(',').find(|part| !part.contains('=') && !is_level(part)) {
            return Err(format!(
                "`{word}` is no level; use {}, or directives like `info,sluice::health=debug`",
                LEVELS.join(", ")
            ));
        }
        // A single level is about Sluice; the libraries below it stay at what is worth reading.
        let directives = match text.to_ascii_lowercase().as_str() {
            level @ ("debug" | "trace") => format!("info,sluice={level}"),
            _ => text,
        };
        EnvFilter::builder().parse(&directives).map_err(|e| e.to_string())?;
        Ok(Self(directives))
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl Filter {
    fn build(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

/// Starts logging to stderr for the rest of the process, for `tracing` and for libraries that speak `log`.
pub fn init(filter: &Filter, format: Format) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if let Err(e) = subscriber(filter, format, stderr_is_the_journal(), colour, io::stderr).try_init() {
        eprintln!("warning: logging is already set up: {e}");
    }
}

fn subscriber<W>(filter: &Filter, format: Format, journal: bool, colour: bool, writer: W) -> tracing::Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter.build()).with_writer(writer).with_ansi(colour);
    match (format, journal) {
        (Format::Json, _) => builder.json().flatten_event(true).with_current_span(false).into(),
        (Format::Text, false) => builder.into(),
        (Format::Text, true) => {
            builder.event_format(Journal(tracing_subscriber::fmt::format().without_time().with_ansi(false))).into()
        }
    }
}

/// True when stderr is the stream systemd connected to the journal, which keeps time and priority itself.
///
/// `JOURNAL_STREAM` alone does not say so: it is inherited by children whose stderr goes elsewhere. It holds the
/// device and inode of the stream to compare with (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, io::stderr()))
}

fn is_stream(name: &str, file: impl AsFd) -> bool {
    nix::sys::stat::fstat(file).is_ok_and(|stat| name == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Puts the syslog priority in front of a line, where journald looks for it (sd-daemon(3)).
struct Journal<F>(F);

impl<S, N, F> FormatEvent<S, N> for Journal<F>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is logged at `filter` when one event of each level happens here and one below.
    fn logged(filter: &str, format: Format, journal: bool) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let dispatch = subscriber(&filter.parse().unwrap(), format, journal, false, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::warn!(target: "sluice::health", backend = "b1", "backend is down");
            tracing::debug!(target: "sluice::health", "a detail");
            tracing::debug!(target: "aya::maps", "a library's detail");
        });
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_typo_in_the_level_is_refused_not_ignored() {
        for bad in ["debgu", "", "info,verbose", "sluice=loud"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad:?} was accepted");
        }
        for good in ["info", "DEBUG", "off", "info,sluice::health=debug", "warn, sluice=trace"] {
            assert!(good.parse::<Filter>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn debug_shows_sluice_and_spares_the_libraries() {
        let text = logged("debug", Format::Text, false);
        assert!(text.contains("a detail"), "{text}");
        assert!(!text.contains("a library's detail"), "{text}");
        assert!(!logged("info", Format::Text, false).contains("a detail"));
    }

    #[test]
    fn text_for_people_begins_with_the_time() {
        let text = logged("info", Format::Text, false);
        assert!(text.starts_with("20"), "{text}");
        assert!(text.contains("WARN sluice::health: backend is down backend=\"b1\""), "{text}");
    }

    #[test]
    fn text_for_the_journal_begins_with_the_priority_and_has_no_time() {
        let text = logged("info", Format::Text, true);
        assert_eq!(text, "<4> WARN sluice::health: backend is down backend=\"b1\"\n");
    }

    #[test]
    fn a_stream_is_known_by_device_and_inode_not_by_being_named() {
        use std::os::unix::fs::MetadataExt;
        let (journal, other) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/zero").unwrap());
        let stat = journal.metadata().unwrap();
        let name = format!("{}:{}", stat.dev(), stat.ino());
        assert!(is_stream(&name, &journal));
        assert!(!is_stream(&name, &other), "an inherited JOURNAL_STREAM was believed");
        assert!(!is_stream("", &journal));
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_on_top() {
        let text = logged("debug", Format::Json, true);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "WARN");
        assert_eq!(lines[0]["message"], "backend is down");
        assert_eq!(lines[0]["backend"], "b1");
    }
}
