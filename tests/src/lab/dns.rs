//! Just enough DNS (RFC 1035) to ask who answers: one TXT query, and the first string of its answer.

use anyhow::{Result, bail, ensure};

const TXT: u16 = 16;
const IN: u16 = 1;

/// A query for the TXT record of `name`, recursion not desired (§4.1).
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    packet.extend(id.to_be_bytes());
    packet.extend([0, 0]); // flags: a standard query
    packet.extend([0, 1, 0, 0, 0, 0, 0, 0]); // one question, nothing else
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(TXT.to_be_bytes());
    packet.extend(IN.to_be_bytes());
    packet
}

/// The text of the first TXT record in the answer to `query`.
pub fn text(query: &[u8], answer: &[u8]) -> Result<String> {
    ensure!(answer.len() > query.len(), "the answer has {} bytes", answer.len());
    ensure!(answer[..2] == query[..2], "the answer is to another query");
    ensure!(answer[2] & 0x80 != 0, "it is a query, not an answer");
    let rcode = answer[3] & 0x0f;
    ensure!(rcode == 0, "the server answers with rcode {rcode}");
    ensure!(answer[6..8] != [0, 0], "there is no answer record");
    // The question is repeated (§4.1.2), then: name (a pointer, §4.1.4), type, class, TTL, length, data.
    let record = &answer[query.len()..];
    let Some((head, data)) = record.split_at_checked(12) else { bail!("the answer record is cut short") };
    ensure!(head[0] & 0xc0 == 0xc0 && head[2..4] == TXT.to_be_bytes(), "the first answer is no TXT record");
    match data.split_first() {
        Some((&length, rest)) if rest.len() >= usize::from(length) => {
            Ok(String::from_utf8_lossy(&rest[..usize::from(length)]).into_owned())
        }
        _ => bail!("the TXT record is cut short"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"\x12\x34\x85\x80\0\x01\0\x01\0\0\0\0\x03who\x06sluice\x04test\0\0\x10\0\x01\
        \xc0\x0c\0\x10\0\x01\0\0\0\0\0\x03\x02b2";

    #[test]
    fn a_query_is_as_rfc_1035_draws_it() {
        assert_eq!(
            query(0x1234, "who.sluice.test"),
            b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x03who\x06sluice\x04test\0\0\x10\0\x01"
        );
    }

    #[test]
    fn the_text_of_an_answer_is_found() {
        assert_eq!(text(&query(0x1234, "who.sluice.test"), ANSWER).unwrap(), "b2");
    }

    #[test]
    fn what_is_no_answer_to_this_query_is_refused() {
        let query = query(0x1234, "who.sluice.test");
        let other_id = [b"\x12\x35", &ANSWER[2..]].concat();
        let refused = [&ANSWER[..3], b"\x85", &ANSWER[4..]].concat();
        for (what, answer, says) in [
            ("empty", &[][..], "0 bytes"),
            ("another id", &other_id, "another query"),
            ("an error", &refused, "rcode 5"),
            ("cut in the record", &ANSWER[..ANSWER.len() - 1], "cut short"),
            ("cut in the record's head", &ANSWER[..query.len() + 5], "cut short"),
            ("the query itself, with a tail", &[&query[..], b"\0"].concat(), "not an answer"),
        ] {
            let e = text(&query, answer).unwrap_err().to_string();
            assert!(e.contains(says), "{what}: {e}");
        }
    }
}
