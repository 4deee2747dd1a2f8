//! What a failing packet test prints: the packets side by side, field by field, and the bytes that differ.

use std::fmt::Write as _;

use super::decode::{Field, fields};

/// Input, expected and actual output in three columns. Fields whose expected and actual values differ are marked
/// with `!`; below them are the differing bytes.
pub fn report(input: &[u8], expected: &[u8], actual: &[u8]) -> String {
    let columns = [fields(input), fields(expected), fields(actual)];
    let rows = align(&columns);
    let mut widths = [0; 4];
    let header = ["field".to_owned(), "input".to_owned(), "expected".to_owned(), "actual".to_owned()];
    let table: Vec<[String; 4]> = std::iter::once(header)
        .chain(rows.iter().map(|row| {
            let cell = |i: usize| row.values[i].clone().unwrap_or_else(|| "-".into());
            [row.label.clone(), cell(0), cell(1), cell(2)]
        }))
        .collect();
    for line in &table {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (i, [label, input, expected, actual]) in table.iter().enumerate() {
        let mark = if i > 0 && expected != actual { '!' } else { ' ' };
        let [l, a, b, _] = widths;
        let line = format!("{mark} {label:l$}  {input:a$}  {expected:b$}  {actual}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&hex(expected, actual));
    text
}

struct Row {
    label: String,
    /// Of input, expected and actual.
    values: [Option<String>; 3],
}

/// Fields of the three packets in rows: the order of the expected packet, each field of the others that it does
/// not have after the one it follows in its own packet.
fn align(columns: &[Vec<Field>; 3]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for column in [1, 2, 0] {
        let mut at = 0;
        let mut seen: Vec<String> = Vec::new();
        for field in &columns[column] {
            let mut label = format!("{} {}", field.layer, field.name);
            while seen.contains(&label) {
                label.push('+');
            }
            seen.push(label.clone());
            match rows.iter().position(|row| row.label == label) {
                Some(found) => {
                    rows[found].values[column] = Some(field.value.clone());
                    at = found + 1;
                }
                None => {
                    let mut values = [None, None, None];
                    values[column] = Some(field.value.clone());
                    rows.insert(at, Row { label, values });
                    at += 1;
                }
            }
        }
    }
    rows
}

/// The 16-byte lines in which two frames differ, `^^` under each differing byte.
pub fn hex(expected: &[u8], actual: &[u8]) -> String {
    if expected == actual {
        return "bytes are equal\n".to_owned();
    }
    let mut text = format!("bytes that differ (expected {}, actual {} bytes):\n", expected.len(), actual.len());
    let length = expected.len().max(actual.len());
    for start in (0..length).step_by(16) {
        let line = |bytes: &[u8]| {
            (start..start + 16).fold(String::new(), |mut line, i| {
                match bytes.get(i) {
                    Some(byte) => _ = write!(line, " {byte:02x}"),
                    None => line.push_str("   "),
                }
                line
            })
        };
        let (want, got) = (line(expected), line(actual));
        if want == got {
            continue;
        }
        let marks = (start..start + 16)
            .fold(String::new(), |line, i| line + if expected.get(i) == actual.get(i) { "   " } else { " ^^" });
        let _ = writeln!(text, "  {start:04x} expected{want}");
        let _ = writeln!(text, "       actual  {}", got.trim_end());
        let _ = writeln!(text, "               {}", marks.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{Mac, ethernet, ipv4, udp};
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

    #[test]
    fn only_the_fields_and_bytes_that_differ_are_marked() {
        let input = (ethernet(Mac::local(1), Mac::local(2)) / ipv4(A, B) / udp(1, 2) / "hi").bytes();
        let expected = (ethernet(Mac::local(1), Mac::local(2)) / ipv4(A, B).ttl(63) / udp(1, 2) / "hi").bytes();
        let report = report(&input, &expected, &input);
        let marked: Vec<&str> = report.lines().filter(|l| l.starts_with('!')).collect();
        assert_eq!(marked.len(), 2, "{report}");
        assert!(marked[0].contains("ipv4 ttl") && marked[0].contains("63"), "{report}");
        assert!(marked[1].contains("ipv4 checksum"), "{report}");
        assert!(report.contains("0010 expected"), "{report}");
        assert!(!report.contains("0000 expected") && !report.contains("0020 expected"), "{report}");
        let marks = report.lines().last().unwrap_or_default();
        // TTL at 0x16 and the checksum's upper byte at 0x18.
        assert_eq!(marks.matches("^^").count(), 2, "{report}");
        assert_eq!(marks.find("^^"), Some(15 + 1 + 3 * 6), "{report}");
    }

    #[test]
    fn a_header_only_one_packet_has_still_gets_its_rows() {
        let inner = ipv4(A, B) / udp(1, 2) / "hi";
        let input = (ethernet(Mac::local(1), Mac::local(2)) / inner.clone()).bytes();
        let expected = (ethernet(Mac::local(1), Mac::local(2)) / ipv4(B, A) / inner).bytes();
        let report = report(&input, &expected, &input);
        assert!(report.contains("! inner ipv4 source"), "{report}");
        assert!(report.contains("expected 64, actual 44 bytes"), "{report}");
    }

    #[test]
    fn equal_frames_have_no_marks() {
        let frame = (ethernet(Mac::local(1), Mac::local(2)) / ipv4(A, B) / udp(1, 2)).bytes();
        let report = report(&frame, &frame, &frame);
        assert!(!report.contains('!') && report.ends_with("bytes are equal\n"), "{report}");
    }
}
