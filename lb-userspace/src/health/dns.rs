//! The DNS check: one question, and whether the answer is as it should be.
//!
//! Over UDP the question is sent once: a datagram that is lost is a failure, of which it takes `fall` to matter. The
//! traps: a datagram from elsewhere or from an earlier question (the socket is connected, and the number has to be
//! ours), and an answer that was cut to fit a datagram, which says nothing of what is missing.

use std::str::FromStr as _;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType as Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout_at;

use super::probe::Attempt;
use super::{Outcome, reason, tcp, udp};
use crate::model::{DnsCheck, Protocol, Rcode, RecordType};

/// One check.
pub async fn check(attempt: Attempt, check: &DnsCheck) -> Outcome {
    let (query, question) = match question(check) {
        Ok(question) => question,
        Err(error) => return Outcome::Skipped { reason: format!("the check makes no valid question: {error}") },
    };
    let answer = match check.over {
        Protocol::Udp => over_udp(attempt, &query, &question).await,
        Protocol::Tcp => over_tcp(attempt, &query, &question).await,
    };
    match answer {
        Ok(answer) => judge(attempt, check, &answer),
        Err(outcome) => outcome,
    }
}

/// The question, and its bytes.
fn question(check: &DnsCheck) -> Result<(Message, Vec<u8>), hickory_proto::ProtoError> {
    let mut message = Message::query();
    // Resolvers answer only those who want recursion; the others ignore it (RFC 1035 §4.1.1).
    message.metadata.recursion_desired = true;
    let mut name = Name::from_ascii(&check.name)?;
    name.set_fqdn(true);
    message.add_query(Query::query(name, record_type(check.record)));
    let bytes = message.to_vec()?;
    Ok((message, bytes))
}

async fn over_udp(attempt: Attempt, query: &Message, question: &[u8]) -> Result<Message, Outcome> {
    let socket = udp::connect(attempt).await?;
    socket.send(question).await.map_err(|error| reason::connect_failed(&error, attempt.start.elapsed()))?;
    let mut datagram = vec![0; usize::from(u16::MAX)];
    loop {
        let length = match timeout_at(attempt.deadline(), socket.recv(&mut datagram)).await {
            Ok(received) => received.map_err(|error| reason::connect_failed(&error, attempt.start.elapsed()))?,
            Err(_) => return Err(reason::no_answer(attempt.limit)),
        };
        match Message::from_vec(&datagram[..length]) {
            Ok(answer) if is_answer(&answer, query) => return Ok(answer),
            Ok(_) => {}
            Err(_) => return Err(attempt.failed("the answer is not DNS")),
        }
    }
}

async fn over_tcp(attempt: Attempt, query: &Message, question: &[u8]) -> Result<Message, Outcome> {
    let mut stream = tcp::connect(attempt).await?;
    let exchange = async {
        // RFC 1035 §4.2.2: the length goes before; RFC 7766 §8: in one piece.
        let length = (question.len() as u16).to_be_bytes();
        stream.write_all(&[&length, question].concat()).await?;
        let mut answer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match timeout_at(attempt.deadline(), exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => return Err(attempt.failed("connection closed before an answer")),
        Err(_) => return Err(attempt.silent("no answer")),
    };
    let answer = Message::from_vec(&answer).ok().filter(|answer| is_answer(answer, query));
    answer.ok_or_else(|| attempt.failed("the answer is not DNS"))
}

fn is_answer(answer: &Message, query: &Message) -> bool {
    answer.metadata.id == query.metadata.id && answer.metadata.message_type == MessageType::Response
}

fn judge(attempt: Attempt, check: &DnsCheck, answer: &Message) -> Outcome {
    let got = answer.metadata.response_code;
    let expected = |rcode: &Rcode| response_code(*rcode) == got;
    let code = in_zone_files(got);
    if !check.rcode.iter().any(expected) {
        let wanted: Vec<String> = check.rcode.iter().map(|rcode| format!("{rcode:?}")).collect();
        return attempt.failed(format!("{code}, expected {}", wanted.join(" or ")));
    }
    let Some(wanted) = &check.answer else { return attempt.passed(code) };
    let data: Vec<String> = answer
        .answers
        .iter()
        .filter(|record| record.record_type() == record_type(check.record))
        .map(|record| text(&record.data))
        .collect();
    if data.iter().any(|data| is_same(data, wanted)) {
        return attempt.passed(format!("{code}, {wanted}"));
    }
    if answer.metadata.truncation {
        return attempt.failed(format!("{code}, but the answer was cut to fit a datagram; `over: tcp` gets all of it"));
    }
    match data.as_slice() {
        [] => attempt.failed(format!("{code}, but no {:?} record", check.record)),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            attempt.failed(format!("{code}, but {first}{more}, expected {wanted}"))
        }
    }
}

/// A record's data as in a zone; of a TXT record its text.
fn text(data: &RData) -> String {
    match data {
        RData::TXT(txt) => txt.txt_data.iter().map(|part| String::from_utf8_lossy(part)).collect(),
        other => other.to_string(),
    }
}

/// Addresses by value, names without regard to case and to the dot at the end (RFC 4343).
fn is_same(data: &str, wanted: &str) -> bool {
    let address = |text: &str| std::net::IpAddr::from_str(text).ok();
    match (address(data), address(wanted)) {
        (Some(data), Some(wanted)) => data == wanted,
        _ => data == wanted || data.trim_end_matches('.').eq_ignore_ascii_case(wanted.trim_end_matches('.')),
    }
}

fn record_type(record: RecordType) -> Type {
    match record {
        RecordType::A => Type::A,
        RecordType::AAAA => Type::AAAA,
        RecordType::CNAME => Type::CNAME,
        RecordType::MX => Type::MX,
        RecordType::NS => Type::NS,
        RecordType::PTR => Type::PTR,
        RecordType::SOA => Type::SOA,
        RecordType::SRV => Type::SRV,
        RecordType::TXT => Type::TXT,
    }
}

fn response_code(rcode: Rcode) -> ResponseCode {
    match rcode {
        Rcode::NOERROR => ResponseCode::NoError,
        Rcode::FORMERR => ResponseCode::FormErr,
        Rcode::SERVFAIL => ResponseCode::ServFail,
        Rcode::NXDOMAIN => ResponseCode::NXDomain,
        Rcode::NOTIMP => ResponseCode::NotImp,
        Rcode::REFUSED => ResponseCode::Refused,
    }
}

/// As operators know it: `dig` shows `NXDOMAIN`.
fn in_zone_files(code: ResponseCode) -> String {
    let all = [Rcode::NOERROR, Rcode::FORMERR, Rcode::SERVFAIL, Rcode::NXDOMAIN, Rcode::NOTIMP, Rcode::REFUSED];
    let known = all.into_iter().find(|rcode| response_code(*rcode) == code);
    known.map_or_else(|| code.to_string(), |rcode| format!("{rcode:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_compared_by_what_it_means() {
        for (data, wanted, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("2001:db8::1", "2001:DB8:0::1", true),
            ("www.example.com.", "WWW.example.com", true),
            ("10.0.0.1", "10.0.0.11", false),
            ("v=spf1 -all", "v=spf1 -all", true),
        ] {
            assert_eq!(is_same(data, wanted), same, "{data} {wanted}");
        }
    }
}
