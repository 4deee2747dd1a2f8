//! Texts of the file into values: durations, percentages, endpoints, addresses, prefixes, status codes, names.
//!
//! Each function says what is wrong *and* how the value is written right; a refusal without the right form costs
//! the operator a trip to the manual.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::diagnose::{Complaint, excerpt, quote};
use crate::model::{Listen, Mac, Pattern, Ports, Prefix, Url};
use hickory_proto::rr::Name;

type Parsed<T> = Result<T, Complaint>;

/// Longest name of a service or backend: a DNS label's length, and it fits a terminal's column.
const NAME_LIMIT: usize = 63;

/// `500ms`, `2s`, `15m`, `1h`: a whole number and its unit.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => {
            let message = format!("the duration `{}` has no unit", excerpt(text));
            return Err(Complaint::new(message, format!("write `{number}s` for seconds; units are ms, s, m and h")));
        }
        _ => return Err(not_a_duration(text)),
    };
    if digits == 0 {
        return Err(not_a_duration(text));
    }
    // A century is no timeout; past it, milliseconds would not fit either.
    let value = number.parse::<u64>().ok().and_then(|n| n.checked_mul(milliseconds));
    match value.filter(|ms| *ms <= 100 * 365 * 24 * 3_600_000) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(Complaint::new(format!("the duration `{}` is too long", excerpt(text)), "take a shorter one")),
    }
}

fn not_a_duration(text: &str) -> Complaint {
    let hint = "write a whole number and a unit, such as `500ms`, `2s`, `15m` or `1h`";
    Complaint::new(format!("{} is not a duration", quote(text)), hint)
}

/// As [`duration`] reads it.
pub(super) fn show_duration(d: Duration) -> String {
    match d.as_millis() {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// `500/s`, `10k/s`, `2M/s`: a whole number, perhaps of thousands or millions, per second.
pub(super) fn rate(text: &str) -> Parsed<u64> {
    let wrong = |hint: String| Complaint::new(format!("{} is not a rate", quote(text)), hint);
    let form = "write a whole number per second, such as `500/s`, `10k/s` or `2M/s`";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let times = match unit {
        "/s" => 1,
        "k/s" => 1_000,
        "M/s" => 1_000_000,
        "" | "k" | "M" if digits > 0 => return Err(wrong(format!("write `{}/s`", excerpt(text)))),
        _ => return Err(wrong(form.to_owned())),
    };
    if digits == 0 {
        return Err(wrong(form.to_owned()));
    }
    // Larger than any bound here, and still a rate.
    Ok(number.parse::<u64>().map_or(u64::MAX, |n| n.saturating_mul(times)))
}

/// As [`rate`] reads it.
pub(super) fn show_rate(per_second: u32) -> String {
    match per_second {
        n if n > 0 && n % 1_000_000 == 0 => format!("{}M/s", n / 1_000_000),
        n if n > 0 && n % 1_000 == 0 => format!("{}k/s", n / 1_000),
        n => format!("{n}/s"),
    }
}

/// `10%` as 0.1.
pub(super) fn percent(text: &str) -> Parsed<f64> {
    let number = text.strip_suffix('%').filter(|n| {
        let ends = n.starts_with(|c: char| c.is_ascii_digit()) && n.ends_with(|c: char| c.is_ascii_digit());
        ends && n.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    });
    number
        .and_then(|n| n.parse::<f64>().ok())
        .map(|n| n / 100.0)
        .ok_or_else(|| Complaint::new(format!("{} is not a percentage", quote(text)), "write it as `10%`"))
}

/// As [`percent`] reads it: with as few digits as lead back to the same value.
pub(super) fn show_percent(fraction: f64) -> String {
    let shortest = (0..=20).map(|digits| format!("{:.digits$}%", fraction * 100.0));
    let exact = format!("{}%", fraction * 100.0);
    shortest.into_iter().find(|text| percent(text) == Ok(fraction)).unwrap_or(exact)
}

/// Whole numbers in decimal, nothing else: YAML 1.1 read `010` as 8, YAML 1.2 reads it as 10.
pub(super) fn number(text: &str) -> Parsed<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if decimal && (digits == "0" || !digits.starts_with('0')) {
        // Larger than any bound here, and still a number.
        return Ok(text.parse().unwrap_or(i128::MAX));
    }
    let hint = "write it in plain decimal digits, without leading zeros, separators or suffixes";
    Err(Complaint::new(format!("{} is not a whole number", quote(text)), hint))
}

/// One address, as written in a VIP or a backend.
pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return unmapped(address);
    }
    let message = format!("{} is not an IP address", quote(text));
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        let hint = format!("write `address: {}` and `port: {}`", endpoint.ip(), endpoint.port());
        return Err(Complaint::new(message, hint));
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'))
        && inner.parse::<Ipv6Addr>().is_ok()
    {
        return Err(Complaint::new(message, format!("write `{inner}`; brackets are only for `[address]:port`")));
    }
    if text.contains('%') {
        return Err(Complaint::new(message, "addresses with a zone (`%eth0`) cannot be used"));
    }
    if text.contains('/') {
        return Err(Complaint::new(message, "a single address is needed here, not a prefix"));
    }
    if is_dotted(text) {
        return Err(Complaint::new(message, DOTTED));
    }
    Err(Complaint::new(message, "names are not resolved; write an address such as `10.0.0.11` or `2001:db8::11`"))
}

const DOTTED: &str = "an IPv4 address is four numbers from 0 to 255, without leading zeros";

/// Meant as an IPv4 address, not as a name.
fn is_dotted(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `::ffff:10.0.0.1` never stands in a packet's IPv6 header (RFC 4038 §4.2).
fn unmapped(address: IpAddr) -> Parsed<IpAddr> {
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let message = format!("`{address}` is an IPv4 address mapped into IPv6, which no packet carries");
        return Err(Complaint::new(message, format!("write `{v4}`")));
    }
    Ok(address)
}

/// `02:00:00:00:00:0a`.
pub(super) fn mac(text: &str) -> Parsed<Mac> {
    let hint = "write six pairs of hexadecimal digits, such as `02:00:00:00:00:0a`, as `ip link` shows them";
    let mut octets = [0; 6];
    let mut pairs = text.split(':');
    for octet in &mut octets {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
        *octet = pair
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
            .ok_or_else(|| Complaint::new(format!("{} is not a MAC address", quote(text)), hint))?;
    }
    if pairs.next().is_some() {
        return Err(Complaint::new(format!("{} is not a MAC address", quote(text)), hint));
    }
    if octets[0] & 1 != 0 || octets == [0; 6] {
        let message = format!("{} is no MAC address of one host", quote(text));
        return Err(Complaint::new(message, "take the one that `ip link` shows for the device"));
    }
    Ok(Mac(octets))
}

/// `203.0.113.10:443` or `[2001:db8::10]:443`; several ports as `8000-8100`, any as `0`, several addresses as
/// `203.0.113.0/24:443` or `[2001:db8:f::]/64:443`.
pub(super) fn listen(text: &str) -> Parsed<Listen> {
    if text.contains('%') && text.starts_with('[') {
        // `[fe80::1%2]:80` parses as an endpoint; its zone would be lost.
        let message = format!("{} has a zone", quote(text));
        return Err(Complaint::new(message, "addresses with a zone (`%eth0`) cannot be used"));
    }
    if let Ok(IpAddr::V6(v6)) = text.parse::<IpAddr>() {
        // `2001:db8::1:443` is an address too, and almost never meant as one.
        let apart =
            text.rsplit_once(':').filter(|(host, port)| host.parse::<Ipv6Addr>().is_ok() && number(port).is_ok());
        let hint = match apart {
            Some((host, port)) => format!("put brackets around the address, in quotes: \"[{host}]:{port}\""),
            None => format!("add the port behind brackets, in quotes: \"[{v6}]:443\""),
        };
        return Err(Complaint::new(no_endpoint(text), hint));
    }
    let Some((host, port)) = text.rsplit_once(':') else { return Err(without_port(text)) };
    let prefix = vip_prefix(text, host, port)?;
    Ok(Listen { prefix, ports: ports(text, port)? })
}

fn no_endpoint(text: &str) -> String {
    format!("{} is not an address and port", quote(text))
}

const ENDPOINT_FORM: &str = "write `203.0.113.10:443`, or \"[2001:db8::10]:443\" in quotes";

fn without_port(text: &str) -> Complaint {
    let hint = match text.parse::<IpAddr>() {
        Ok(address) => format!("add the port: {address}:443"),
        Err(_) if prefix(text).is_ok() => format!("add the port, or 0 for any: {text}:443"),
        Err(_) if number(text).is_ok() => format!("add the VIP: 203.0.113.10:{text}"),
        Err(_) => ENDPOINT_FORM.to_owned(),
    };
    Complaint::new(no_endpoint(text), hint)
}

/// The address of a VIP, or several: what stands before the last colon of `text`.
fn vip_prefix(text: &str, host: &str, port: &str) -> Parsed<Prefix> {
    let message = no_endpoint(text);
    // `[2001:db8::]/64`; in front of the colon of an IPv4 endpoint there are no others.
    let (address, length) = match host.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (host, None),
    };
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if let Some((inside, length)) =
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).and_then(|h| h.split_once('/'))
    {
        let hint = format!("the length stands behind the brackets: \"[{inside}]/{length}:{port}\"");
        return Err(Complaint::new(message, hint));
    }
    let whole = |bits: u8| length.map_or_else(|| format!("{bare}/{bits}"), |length| format!("{bare}/{length}"));
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) if bare.len() == address.len() => prefix(&whole(32)),
        Ok(IpAddr::V6(_)) if bare.len() + 2 == address.len() => prefix(&whole(128)),
        Ok(IpAddr::V6(_)) => {
            let length = length.map_or_else(String::new, |length| format!("/{length}"));
            Err(Complaint::new(message, format!("put brackets around the address: \"[{bare}]{length}:{port}\"")))
        }
        Ok(IpAddr::V4(_)) => Err(Complaint::new(message, "only IPv6 addresses stand in brackets")),
        Err(_) if bare.is_empty() || bare == "*" => {
            Err(Complaint::new(message, format!("a VIP has an address: 203.0.113.10:{}", excerpt(port))))
        }
        Err(_) if port.contains('/') => {
            Err(Complaint::new(message, "the length stands behind the address: 203.0.113.0/24:443"))
        }
        Err(_) if bare.contains(['%', '[', '/']) => Err(Complaint::new(message, ENDPOINT_FORM)),
        Err(_) if is_dotted(bare) => Err(Complaint::new(message, DOTTED)),
        Err(_) => {
            Err(Complaint::new(message, format!("`{}` is not an IP address; names are not resolved", excerpt(bare))))
        }
    }
}

/// `443`, `8000-8100`, or `0` for any.
fn ports(text: &str, ports: &str) -> Parsed<Ports> {
    let message = no_endpoint(text);
    if ports.contains('/') {
        return Err(Complaint::new(message, "the length stands behind the address: 203.0.113.0/24:443"));
    }
    if ports == "*" {
        return Err(Complaint::new(message, "write 0 for any port"));
    }
    let one = |port: &str| match port.parse::<u16>() {
        Ok(n) if port.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => Err(Complaint::new(
            message.clone(),
            format!("`{}` is not a port between 1 and 65535, nor 0 for any", excerpt(port)),
        )),
    };
    let Some((first, last)) = ports.split_once('-') else {
        return Ok(match one(ports)? {
            0 => Ports::ANY,
            port => Ports::one(port),
        });
    };
    match (one(first)?, one(last)?) {
        (0, _) => Err(Complaint::new(message, "a range begins at port 1 or above; 0 alone is any port")),
        (first, last) if first > last => {
            Err(Complaint::new(message, format!("a range is written from its lower end: `{last}-{first}`")))
        }
        (first, last) => Ok(Ports { first, last }),
    }
}

/// `192.0.2.0/24`, or one address for a prefix of that address alone.
pub(super) fn prefix(text: &str) -> Parsed<Prefix> {
    let wrong = |hint: &str| Complaint::new(format!("{} is not an address prefix", quote(text)), hint);
    let (host, length) = match text.split_once('/') {
        Some((host, length)) => (host, Some(length)),
        None => (text, None),
    };
    let Ok(address) = host.parse::<IpAddr>() else {
        return Err(wrong("write it as `192.0.2.0/24` or `2001:db8::/64`"));
    };
    let address = unmapped(address)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length.map(number) {
        None => bits,
        Some(Ok(n)) if (1..=i128::from(bits)).contains(&n) => n as u8,
        Some(_) => return Err(wrong(&format!("the length behind `/` is between 1 and {bits}"))),
    };
    let network = match address {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & u32::MAX << (32 - u32::from(length)))),
        IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & u128::MAX << (128 - u32::from(length)))),
    };
    if network != address {
        let message = format!("{} has bits set behind its length", quote(text));
        return Err(Complaint::new(
            message,
            format!("write `{network}/{length}`, or the one address without a length"),
        ));
    }
    Ok(Prefix { address, length })
}

/// `200`, or `200-299`.
pub(super) fn status_range(text: &str) -> Parsed<(u16, u16)> {
    let wrong = || {
        let message = format!("{} is not a range of HTTP status codes", quote(text));
        Complaint::new(message, "write `200-299`, `200`, or a list such as `[200, 204, 300-399]`")
    };
    let code = |t: &str| match number(t.trim()) {
        Ok(n @ 100..=599) => Ok(n as u16),
        _ => Err(wrong()),
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (code(low)?, code(high)?),
        None => (code(text)?, code(text)?),
    };
    if low > high {
        let message = format!("the range `{}` is upside down", excerpt(text));
        return Err(Complaint::new(message, format!("write `{high}-{low}`")));
    }
    Ok((low, high))
}

/// Names become metric labels and arguments of `sluice drain SERVICE/BACKEND`.
pub(super) fn name(text: &str) -> Parsed<String> {
    let wrong = |why: &str| {
        let hint = "use letters, digits, `.`, `_` and `-`, starting with a letter or digit";
        Complaint::new(format!("the name `{}` {why}", excerpt(text)), hint)
    };
    if text.is_empty() {
        return Err(Complaint::new("the name is empty", "write one such as `web`"));
    }
    if text.chars().count() > NAME_LIMIT {
        let message = format!("the name `{}` is longer than {NAME_LIMIT} characters", excerpt(text));
        return Err(Complaint::new(message, "take a shorter one"));
    }
    if let Some(c) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._-".contains(*c))) {
        return Err(match c {
            ' ' => wrong("contains a space"),
            c if c.is_whitespace() || c.is_control() => wrong("contains white space"),
            c => wrong(&format!("contains `{}`", excerpt(&c.to_string()))),
        });
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(wrong(&format!("starts with `{}`", &text[..1])));
    }
    Ok(text.to_owned())
}

/// What the kernel takes as an interface name (`dev_valid_name` in net/core/dev.c).
pub(super) fn interface(text: &str) -> Parsed<String> {
    let wrong = |why: &str| Complaint::new(format!("{} is not an interface name: {why}", quote(text)), "");
    // IFNAMSIZ is 16 with the closing NUL.
    if text.is_empty() || text.len() > 15 {
        return Err(wrong("the kernel allows 1 to 15 bytes"));
    }
    if text == "." || text == ".." || text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err(wrong("the kernel allows no `/`, `:` or white space"));
    }
    Ok(text.to_owned())
}

/// The method of a request.
pub(super) fn method(text: &str) -> Parsed<String> {
    let upper = text.to_ascii_uppercase();
    // A token may be all digits; a method that is one is a slip.
    if is_token(text) && upper == text && text.starts_with(|c: char| c.is_ascii_uppercase()) {
        return Ok(upper);
    }
    let meant = is_token(&upper) && upper.starts_with(|c: char| c.is_ascii_uppercase());
    let hint =
        if meant { format!("write `{}`", excerpt(&upper)) } else { "write one such as `GET` or `HEAD`".to_owned() };
    Err(Complaint::new(format!("{} is not an HTTP method", quote(text)), hint))
}

/// It goes into the request line as it is (RFC 9112 §3.2).
pub(super) fn request_path(text: &str) -> Parsed<String> {
    let wrong = |hint| Complaint::new(format!("{} is not a request path", quote(text)), hint);
    if text.contains("://") {
        return Err(wrong("write the path alone, and the name under `host`"));
    }
    if !text.starts_with('/') {
        return Err(wrong("start it with `/`"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.contains('#') {
        return Err(wrong("percent-encode spaces, `#` and everything that is not ASCII"));
    }
    Ok(text.to_owned())
}

/// What stands in a `Host` header: a name, and perhaps a port.
pub(super) fn host(text: &str) -> Parsed<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !b"/@?#".contains(&b)) {
        return Ok(text.to_owned());
    }
    let hint = "write the name alone, such as `www.example.com`";
    Err(Complaint::new(format!("{} is not a host name", quote(text)), hint))
}

/// Longest text and pattern: more than anybody looks for, and cheap to look for.
const TEXT_LIMIT: usize = 4_096;

/// What a certificate can be for, addresses apart.
pub(super) fn server_name(text: &str) -> Parsed<String> {
    let wrong = |hint: &str| Complaint::new(format!("{} is not a server's name", quote(text)), hint);
    if text.parse::<IpAddr>().is_ok() {
        return Err(wrong("leave it out: the certificate then has to be for the address that is checked"));
    }
    match rustls::pki_types::DnsName::try_from(text) {
        Ok(_) if !text.ends_with('.') => Ok(text.to_owned()),
        _ => Err(wrong("write the name alone, such as `www.example.com`")),
    }
}

/// A protocol's name in ALPN: one byte tells its length.
pub(super) fn alpn_name(text: &str) -> Parsed<String> {
    if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Complaint::new(format!("{} is not a protocol's name", quote(text)), "write one such as `h2` or `http/1.1`"))
}

/// `http://127.0.0.1:9000/sluice`: where a request goes.
pub(super) fn url(text: &str) -> Parsed<Url> {
    let refused = |why: &str| {
        Complaint::new(format!("{} {why}", quote(text)), "write one such as `http://127.0.0.1:9000/sluice`")
    };
    if text.starts_with("https://") {
        let message = "requests of hooks are made in the clear, without TLS";
        return Err(Complaint::new(
            message,
            "write `http://…`, to a receiver on this host that passes them on; or use `exec`",
        ));
    }
    let rest = text.strip_prefix("http://").ok_or_else(|| refused("is no `http://` URL"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or_else(|| refused("has a bracket that is not closed"))?;
            host.parse::<Ipv6Addr>().map_err(|_| refused("has no IPv6 address in its brackets"))?;
            (host, port)
        }
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(is_name) {
        return Err(refused("has no host to send to"));
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => Some(80),
        digits => {
            digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok()).filter(|p| *p > 0)
        }
    };
    let port = port.ok_or_else(|| refused("has no port after its colon"))?;
    if path.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
        return Err(refused("has a path with a character that must be percent-encoded"));
    }
    Ok(Url { host: host.to_owned(), port, path: path.to_owned() })
}

/// `true` or `false`, as YAML 1.2 has them.
pub(super) fn flag(text: &str) -> Parsed<bool> {
    text.parse()
        .map_err(|_| Complaint::new(format!("{} is neither true nor false", quote(text)), "write `true` or `false`"))
}

/// A text to look for.
pub(super) fn text(text: &str) -> Parsed<String> {
    match text.len() {
        0 => Err(Complaint::new("the text is empty", "every answer contains it: remove the key, or write a text")),
        1..=TEXT_LIMIT => Ok(text.to_owned()),
        _ => Err(Complaint::new(format!("a text has at most {TEXT_LIMIT} bytes"), "take a shorter one")),
    }
}

/// A regular expression.
pub(super) fn pattern(text: &str) -> Parsed<Pattern> {
    self::text(text)?;
    Pattern::new(text).map_err(|error| {
        let hint = match error {
            regex::Error::CompiledTooBig(_) => "take a simpler one, with smaller counts of repetition",
            _ => "the syntax is that of Rust's `regex`; in YAML, single quotes keep backslashes as they are",
        };
        // The crate draws the expression and a caret over several lines; the last one says what is wrong.
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        Complaint::new(format!("{} is not a regular expression: {}", quote(text), excerpt(&why)), hint)
    })
}

/// A name in DNS, whether it ends in a dot or not.
pub(super) fn domain_name(text: &str) -> Parsed<String> {
    match Name::from_ascii(text) {
        Ok(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text.to_owned()),
        _ => {
            Err(Complaint::new(format!("{} is not a name in DNS", quote(text)), "write one such as `www.example.com`"))
        }
    }
}

/// What a gRPC health service calls a service. One byte of the request tells its length.
pub(super) fn grpc_service(text: &str) -> Parsed<String> {
    if (1..=127).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let hint = "write one such as `shop.v1.Cart`, of at most 127 characters, or remove the key";
    Err(Complaint::new(format!("{} is not the name of a gRPC service", quote(text)), hint))
}

/// `PING\r\n`, `\x00\x01`: a text in which a backslash begins an escape.
pub(super) fn bytes(text: &str) -> Parsed<Vec<u8>> {
    self::text(text)?;
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let hex = escape.strip_prefix('x').and_then(|digits| digits.get(..2));
        let hex = hex.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let (byte, length) = match (escape.bytes().next(), hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (Some(b'n'), _) => (b'\n', 1),
            (Some(b'r'), _) => (b'\r', 1),
            (Some(b't'), _) => (b'\t', 1),
            (Some(b'\\'), _) => (b'\\', 1),
            (_, Some(byte)) => (byte, 3),
            _ => {
                let hint = "write `\\n`, `\\r`, `\\t`, `\\\\`, or a byte such as `\\x00`";
                let escape: String = escape.chars().take(1).collect();
                return Err(Complaint::new(format!("`\\{}` stands for no byte", excerpt(&escape)), hint));
            }
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// As [`bytes`] reads it.
pub(super) fn show_bytes(bytes: &[u8]) -> String {
    let escaped = |b: &u8| match b {
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(*b).to_string(),
        other => format!("\\x{other:02x}"),
    };
    bytes.iter().map(escaped).collect()
}

/// An HTTP token (RFC 9110 §5.6.2): methods and header names.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_put_together() {
        for (text, shown) in [
            ("http://127.0.0.1:9000/sluice?a=b", "http://127.0.0.1:9000/sluice?a=b"),
            ("http://hooks.example", "http://hooks.example:80/"),
            ("http://[2001:db8::1]:81/x", "http://[2001:db8::1]:81/x"),
        ] {
            assert_eq!(url(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "http://",
            "https://a/",
            "ftp://a/",
            "http://a:0/",
            "http://a:x/",
            "http://[::1/",
            "http://[a]/",
            "http://u@a/",
            "http://a/ b",
            "http://a/#b",
            "http://a:/",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        for (text, ms) in [("500ms", 500), ("2s", 2_000), ("15m", 900_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(ms)), text);
        }
        for text in [
            "",
            "s",
            "2",
            "2 s",
            "-2s",
            "2S",
            "1.5s",
            "1h30m",
            "2sec",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("2").unwrap_err().hint.contains("2s"));
    }

    #[test]
    fn rates_are_a_number_and_per_second() {
        for (text, n) in [("1/s", 1), ("500/s", 500), ("10k/s", 10_000), ("100k/s", 100_000), ("2M/s", 2_000_000)] {
            assert_eq!(rate(text), Ok(n), "{text}");
            assert_eq!(show_rate(n as u32), text);
        }
        assert_eq!(rate("0/s"), Ok(0));
        assert_eq!(rate(&format!("{}M/s", u64::MAX)), Ok(u64::MAX));
        for text in ["", "/s", "k/s", "10", "10k", "10K/s", "10m/s", "1.5k/s", "-1/s", "10/m", "10 /s", "10k/S"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(rate("10k").unwrap_err().hint.contains("10k/s"));
    }

    #[test]
    fn percentages_need_their_sign() {
        assert_eq!(percent("10%"), Ok(0.1));
        assert_eq!(percent("0%"), Ok(0.0));
        assert_eq!(percent("2.5%"), Ok(0.025));
        for text in ["0%", "7%", "10%", "2.5%", "33.3%", "50%", "0.07%"] {
            assert_eq!(show_percent(percent(text).unwrap()), text);
        }
        for text in ["", "%", "10", "0.1", "-1%", ".%", "1.2.3%", "inf%", "nan%", "1e3%", "10 %"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_decimal() {
        assert_eq!(number("0"), Ok(0));
        assert_eq!(number("65535"), Ok(65_535));
        assert_eq!(number("-3"), Ok(-3));
        for text in ["", "-", "+1", "010", "0x10", "1_000", "1e3", "1.0", "10k", "٣"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert!(number(&"9".repeat(100)).is_ok_and(|n| n == i128::MAX));
    }

    #[test]
    fn endpoints_tell_addresses_from_ports() {
        let of = |address: &str, length, first, last| {
            Ok(Listen { prefix: Prefix { address: address.parse().unwrap(), length }, ports: Ports { first, last } })
        };
        for (text, expected) in [
            ("203.0.113.10:443", of("203.0.113.10", 32, 443, 443)),
            ("[2001:db8::10]:443", of("2001:db8::10", 128, 443, 443)),
            ("203.0.113.10:8000-8100", of("203.0.113.10", 32, 8000, 8100)),
            ("203.0.113.10:443-443", of("203.0.113.10", 32, 443, 443)),
            ("203.0.113.10:0", of("203.0.113.10", 32, 0, 65_535)),
            ("203.0.113.0/24:443", of("203.0.113.0", 24, 443, 443)),
            ("203.0.113.7/32:1-65535", of("203.0.113.7", 32, 1, 65_535)),
            ("[2001:db8:f::]/64:0", of("2001:db8:f::", 64, 0, 65_535)),
            ("[2001:db8::10]/128:53-54", of("2001:db8::10", 128, 53, 54)),
        ] {
            assert_eq!(listen(text), expected, "{text}");
            let shown = listen(text).unwrap().to_string();
            assert_eq!(listen(&shown), expected, "{shown}");
        }
        let hints = [
            ("203.0.113.10", "203.0.113.10:443"),
            ("2001:db8::10", "[2001:db8::10]:443"),
            ("2001:db8::1:443", "\"[2001:db8::1]:443\""),
            ("2001:db8:0:0:0:0:0:10:443", "[2001:db8:0:0:0:0:0:10]:443"),
            ("443", "203.0.113.10:443"),
            ("203.0.113.10:http", "not a port"),
            ("203.0.113.10:65536", "not a port"),
            ("203.0.113.10:*", "write 0"),
            ("203.0.113.10:90-80", "`80-90`"),
            ("203.0.113.10:0-90", "port 1 or above"),
            ("203.0.113.10:80-", "not a port"),
            ("203.0.113.10:80-90-95", "not a port"),
            ("203.0.113.0/24", "203.0.113.0/24:443"),
            ("203.0.113.1/24:443", "203.0.113.0/24"),
            ("203.0.113.0/33:443", "between 1 and 32"),
            ("0.0.0.0/0:443", "between 1 and 32"),
            ("203.0.113.0:443/24", "behind the address"),
            ("[2001:db8::/64]:443", "\"[2001:db8::]/64:443\""),
            ("2001:db8::/64:443", "\"[2001:db8::]/64:443\""),
            ("[203.0.113.10]:443", "only IPv6"),
            ("www.example.com:443", "not resolved"),
            ("*:443", "has an address"),
            (":443", "has an address"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1"),
            ("[fe80::1%2]:80", "zone"),
            ("", "203.0.113.10:443"),
        ];
        for (text, part) in hints {
            let complaint = listen(text).unwrap_err();
            assert!(complaint.hint.contains(part), "{text}: {complaint:?}");
        }
    }

    #[test]
    fn prefixes_have_no_host_bits() {
        assert_eq!(prefix("192.0.2.0/24"), Ok(Prefix { address: "192.0.2.0".parse().unwrap(), length: 24 }));
        assert_eq!(prefix("192.0.2.7"), Ok(Prefix { address: "192.0.2.7".parse().unwrap(), length: 32 }));
        assert_eq!(prefix("2001:db8::/64"), Ok(Prefix { address: "2001:db8::".parse().unwrap(), length: 64 }));
        assert!(prefix("192.0.2.7/24").unwrap_err().hint.contains("192.0.2.0/24"));
        for text in ["", "/", "192.0.2.0/", "192.0.2.0/33", "192.0.2.0/0", "2001:db8::/129", "x/24", "192.0.2.0/24/8"] {
            assert!(prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn status_codes_come_in_ranges() {
        assert_eq!(status_range("200-299"), Ok((200, 299)));
        assert_eq!(status_range("204"), Ok((204, 204)));
        assert!(status_range("299-200").unwrap_err().hint.contains("200-299"));
        for text in ["", "-", "2xx", "99", "600", "200-", "200-600", "200-201-202"] {
            assert!(status_range(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_are_written_as_they_are_read() {
        for (text, expected) in [
            ("ping", &b"ping"[..]),
            (r"PING\r\n", b"PING\r\n"),
            (r"\x00\xfF\t\\", b"\x00\xff\t\\"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(bytes(text).as_deref(), Ok(expected), "{text}");
            assert_eq!(bytes(&show_bytes(expected)).as_deref(), Ok(expected), "{text}");
        }
        for text in ["", r"\", r"\q", r"\x", r"\x1", r"\x1é", r"\xgg", r"\x+1"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_safe_as_labels_and_arguments() {
        for text in ["web", "10.0.0.11", "web-1_a", "A"] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
        for text in ["", "-web", ".web", "a/b", "a b", "a\tb", "a:b", "ä", "a\"b", &"a".repeat(64)] {
            assert!(name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for text in ["eth0", "enp1s0f0np0", "bond0.100", "v-x@y"] {
            assert_eq!(interface(text).as_deref(), Ok(text));
        }
        for text in ["", ".", "..", "eth0:1", "a/b", "a b", "sixteen-bytes-xx"] {
            assert!(interface(text).is_err(), "{text}");
        }
    }
}
