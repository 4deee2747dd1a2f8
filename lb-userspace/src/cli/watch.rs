//! `--watch`: the same again and again, in place on a terminal, one document after the other into a pipe.

use std::time::Duration;

use serde::Serialize;

use crate::api::client::Client;
use crate::api::types::Status;
use crate::cli::Ended;
use crate::cli::output::{self, Format, Reader};
use crate::exit::{Exit, Failure};

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Watch {
    /// Show it again and again, every 2 seconds or as given; JSON comes one document per line
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = interval)]
    watch: Option<Duration>,
}

impl Watch {
    /// `None` for once.
    pub fn interval(self) -> Option<Duration> {
        self.watch
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds between 0.1 and 3600".to_owned()),
    }
}

/// Prints what `frame` makes of each status; it is told whether there was one before. The first failure ends it; later
/// ones are waited out, because restarts are when people watch.
pub async fn again_and_again(
    client: &Client,
    interval: Duration,
    mut frame: impl FnMut(&Status, bool) -> Result<String, Failure>,
) -> Ended {
    let mut seen = false;
    let mut lost = false;
    loop {
        match client.status().await {
            Ok(status) => {
                let text = frame(&status, seen)?;
                if output::write(&text)? == Reader::Gone {
                    return Ok(Exit::Ok);
                }
                (seen, lost) = (true, false);
            }
            Err(e) if seen && e.exit == Exit::DaemonUnreachable => {
                if !lost {
                    output::talk(&format!("{e}; waiting for it to come back"));
                }
                lost = true;
            }
            Err(e) => return Err(e),
        }
        tokio::time::sleep(interval).await;
    }
}

/// One frame of what is watched.
pub fn frame<T: Serialize>(
    format: Format,
    value: &T,
    people: impl FnOnce(&T) -> String,
    seen: bool,
) -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Exit::Failed, format!("cannot print the answer: {e}"));
    Ok(match (format, output::terminal_size()) {
        (Format::Json, _) => serde_json::to_string(value).map_err(|e| failed(&e))? + "\n",
        (Format::Yaml, _) => format!("---\n{}", serde_yaml::to_string(value).map_err(|e| failed(&e))?),
        (Format::Table | Format::Wide, None) => format!("{}{}", if seen { "\n" } else { "" }, people(value)),
        (Format::Table | Format::Wide, Some(size)) => repaint(&people(value), size.rows, seen),
    })
}

/// The terminal's sequences to replace the last frame: home, each line erased to its end, the rest erased. Erasing
/// the whole screen first would flicker.
fn repaint(text: &str, rows: usize, seen: bool) -> String {
    let mut frame = String::from(if seen { "\x1b[H" } else { "\x1b[H\x1b[2J" });
    let lines: Vec<&str> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        frame.push_str(line);
        frame.push_str("\x1b[K\n");
    }
    if shown < lines.len() {
        frame.push_str(&format!("… {} more lines\x1b[K\n", lines.len() - shown));
    }
    frame.push_str("\x1b[J");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_never_scrolls_the_terminal() {
        let text = "1\n2\n3\n4\n5\n";
        assert_eq!(repaint(text, 24, true).matches('\n').count(), 5);
        let cut = repaint(text, 4, true);
        assert_eq!(cut, "\x1b[H1\x1b[K\n2\x1b[K\n… 3 more lines\x1b[K\n\x1b[J");
    }
}
