//! A table whose last column is a sentence: why a backend is down, what a drop means.
//!
//! Nothing is cut off. On a terminal the sentence is wrapped within its column, and where that would be too narrow to
//! read, it stands on a line of its own below.

use super::table::{SENTENCE, wrap};

/// Lays out `rows` under `head`; `width` is the terminal's, `None` for no limit. Empty where there are no rows.
pub(super) fn lay_out<const N: usize>(head: [&str; N], rows: &[[String; N]], width: Option<usize>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let length = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..N.saturating_sub(1))
        .map(|column| {
            rows.iter().map(|row| length(&row[column])).chain([length(head[column])]).max().unwrap_or_default()
        })
        .collect();
    let start = widths.iter().map(|width| width + 2).sum::<usize>();
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(start));
    let mut out = String::new();
    let mut put = |cells: [&str; N], is_head: bool| {
        let Some((sentence, cells)) = cells.split_last() else { return };
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        if room >= SENTENCE {
            line.push_str(&wrap(sentence, room).join(&format!("\n{}", " ".repeat(start))));
        } else if !is_head && !sentence.is_empty() {
            line.truncate(line.trim_end().len());
            let below = wrap(sentence, width.unwrap_or(usize::MAX).saturating_sub(4));
            below.iter().for_each(|part| line.push_str(&format!("\n    {part}")));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    };
    put(head, true);
    rows.iter().for_each(|row| put(row.each_ref().map(String::as_str), false));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_wrapped_in_its_column_or_stands_below() {
        let rows = [["web", "10.0.0.12", "status 503, expected 200-299, and no more"].map(str::to_owned)];
        let head = ["SERVICE", "BACKEND", "REASON"];
        assert_eq!(
            lay_out(head, &rows, None),
            "SERVICE  BACKEND    REASON\nweb      10.0.0.12  status 503, expected 200-299, and no more\n"
        );
        assert_eq!(
            lay_out(head, &rows, Some(50)),
            "SERVICE  BACKEND    REASON\n\
             web      10.0.0.12  status 503, expected 200-299,\n                    and no more\n"
        );
        assert_eq!(
            lay_out(head, &rows, Some(40)),
            "SERVICE  BACKEND\nweb      10.0.0.12\n    status 503, expected 200-299, and no\n    more\n"
        );
        assert_eq!(lay_out(head, &[], None), "");
    }
}
