//! A frame taken apart into named fields, for people: what every layer says, and whether it is true.
//!
//! The decoder never trusts a length. It reads what is there, says where the bytes end, and recomputes every
//! checksum from zero; a frame it cannot follow ends in a `rest` of plain bytes.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Mac, checksum};

/// One line of a decoded packet: `ipv4` `ttl` `64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The layer; an inner header of a kind already seen is `inner ipv4`.
    pub layer: String,
    pub name: &'static str,
    pub value: String,
}

/// All fields of an Ethernet frame, outermost first.
pub fn fields(frame: &[u8]) -> Vec<Field> {
    let mut decoder = Decoder { fields: Vec::new(), layer: String::new() };
    decoder.ethernet(frame);
    decoder.fields
}

/// A frame as text: one line per layer.
pub fn text(frame: &[u8]) -> String {
    let mut text = String::new();
    let mut layer = String::new();
    for field in fields(frame) {
        if field.layer != layer {
            if !text.is_empty() {
                text.push('\n');
            }
            layer.clone_from(&field.layer);
            let _ = write!(text, "{layer:10}");
        }
        let _ = write!(text, " {} {}", field.name, field.value);
    }
    text
}

struct Decoder {
    fields: Vec<Field>,
    layer: String,
}

/// Reads a big-endian field, or `None` past the end.
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

impl Decoder {
    fn enter(&mut self, layer: &str) {
        let mut name = layer.to_owned();
        while self.fields.iter().any(|f| f.layer == name) {
            name.insert_str(0, "inner ");
        }
        self.layer = name;
    }

    fn push(&mut self, name: &'static str, value: impl ToString) {
        self.fields.push(Field { layer: self.layer.clone(), name, value: value.to_string() });
    }

    /// The header ends too early to be one.
    fn truncated(&mut self, bytes: &[u8], wanted: usize) {
        self.push("truncated", format!("{} of {wanted} bytes: {}", bytes.len(), hex(bytes, 32)));
    }

    fn rest(&mut self, layer: &str, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.enter(layer);
        self.push("length", bytes.len());
        self.push("bytes", hex(bytes, 24));
        if bytes.iter().take(24).all(|b| (0x20..0x7f).contains(b)) {
            self.push("text", format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(24)])));
        }
    }

    fn ethernet(&mut self, frame: &[u8]) {
        self.enter("ethernet");
        if frame.len() < 14 {
            return self.truncated(frame, 14);
        }
        self.push("frame", format!("{} bytes", frame.len()));
        self.push("destination", Mac(frame[..6].try_into().expect("six bytes")));
        self.push("source", Mac(frame[6..12].try_into().expect("six bytes")));
        let mut at = 12;
        let ethertype = loop {
            match be16(frame, at) {
                Some(protocol @ (0x8100 | 0x88a8)) => {
                    let control = be16(frame, at + 2);
                    self.push("tag", format!("{protocol:#06x} {}", control.map_or("truncated".into(), tag)));
                    at += 4;
                }
                Some(ethertype) => break ethertype,
                None => return self.truncated(&frame[at.min(frame.len())..], 2),
            }
        };
        self.push("ethertype", format!("{ethertype:#06x}"));
        let payload = &frame[at + 2..];
        match ethertype {
            0x0800 => self.ipv4(payload),
            0x86dd => self.ipv6(payload),
            0x0806 => self.arp(payload),
            _ => self.rest("payload", payload),
        }
    }

    fn arp(&mut self, bytes: &[u8]) {
        self.enter("arp");
        if bytes.len() < 28 {
            return self.truncated(bytes, 28);
        }
        let mac = |at: usize| Mac(bytes[at..at + 6].try_into().expect("six bytes"));
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        self.push("operation", be16(bytes, 6).unwrap_or_default());
        self.push("sender", format!("{} {}", mac(8), address(14)));
        self.push("target", format!("{} {}", mac(18), address(24)));
        self.rest("trailer", &bytes[28..]);
    }

    fn ipv4(&mut self, bytes: &[u8]) {
        self.enter("ipv4");
        if bytes.len() < 20 {
            return self.truncated(bytes, 20);
        }
        let header = usize::from(bytes[0] & 0xf) * 4;
        let total = usize::from(be16(bytes, 2).unwrap_or_default());
        let fragment = be16(bytes, 6).unwrap_or_default();
        let protocol = bytes[9];
        let source = Ipv4Addr::from(be32(bytes, 12).unwrap_or_default());
        let destination = Ipv4Addr::from(be32(bytes, 16).unwrap_or_default());
        self.push("version", bytes[0] >> 4);
        self.push("header", format!("{header} bytes"));
        self.push("tos", format!("{:#04x}", bytes[1]));
        self.push("length", lie(total, bytes.len()));
        self.push("id", format!("{:#06x}", be16(bytes, 4).unwrap_or_default()));
        self.push("flags", fragment_flags(fragment));
        self.push("offset", (fragment & 0x1fff) * 8);
        self.push("ttl", bytes[8]);
        self.push("protocol", protocol);
        let field = be16(bytes, 10).unwrap_or_default();
        if header < 20 || bytes.len() < header {
            self.push("checksum", format!("{field:#06x}"));
            self.push("source", source);
            self.push("destination", destination);
            return self.rest("payload", &bytes[20..]);
        }
        let mut zeroed = bytes[..header].to_vec();
        zeroed[10..12].fill(0);
        self.push("checksum", verdict(field, checksum::checksum(&zeroed)));
        self.push("source", source);
        self.push("destination", destination);
        if header > 20 {
            self.push("options", hex(&bytes[20..header], 40));
        }
        let end = total.clamp(header, bytes.len());
        let payload = &bytes[header..end];
        let whole = total <= bytes.len() && fragment & 0x3fff == 0;
        let pseudo = whole.then(|| checksum::pseudo4(source, destination, protocol, payload.len()));
        self.payload(protocol, payload, fragment & 0x1fff == 0, pseudo);
        self.rest("trailer", &bytes[end..]);
    }

    fn ipv6(&mut self, bytes: &[u8]) {
        self.enter("ipv6");
        if bytes.len() < 40 {
            return self.truncated(bytes, 40);
        }
        let word = be32(bytes, 0).unwrap_or_default();
        let length = usize::from(be16(bytes, 4).unwrap_or_default());
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("sixteen bytes"));
        let (source, destination) = (address(8), address(24));
        self.push("version", word >> 28);
        self.push("class", format!("{:#04x}", word >> 20 & 0xff));
        self.push("label", format!("{:#07x}", word & 0xf_ffff));
        self.push("length", lie(length, bytes.len() - 40));
        self.push("next", bytes[6]);
        self.push("hop limit", bytes[7]);
        self.push("source", source);
        self.push("destination", destination);
        let end = (40 + length).min(bytes.len());
        let mut whole = 40 + length <= bytes.len();
        let (mut next, mut at, mut first) = (bytes[6], 40, true);
        while let kind @ (0 | 43 | 44 | 60 | 135) = next {
            let Some(&[following, units]) = bytes.get(at..at + 2).and_then(|b| <&[u8; 2]>::try_from(b).ok()) else {
                break;
            };
            let size = if kind == 44 { 8 } else { (usize::from(units) + 1) * 8 };
            let header = &bytes[at.min(end)..(at + size).min(end)];
            self.push("extension", format!("{kind}: {}", hex(header, 24)));
            if kind == 44 {
                let fragment = be16(bytes, at + 2).unwrap_or_default();
                first = fragment & 0xfff8 == 0;
                whole &= fragment & 0xfff9 == 0;
            }
            next = following;
            at += size;
        }
        let payload = &bytes[at.min(end)..end];
        let pseudo = whole.then(|| checksum::pseudo6(source, destination, next, payload.len()));
        self.payload(next, payload, first, pseudo);
        self.rest("trailer", &bytes[end..]);
    }

    /// What an IP header carries. `pseudo` is absent where the whole datagram is not there to be summed.
    fn payload(&mut self, protocol: u8, bytes: &[u8], first: bool, pseudo: Option<Vec<u8>>) {
        match protocol {
            _ if !first => self.rest("fragment", bytes),
            4 => self.ipv4(bytes),
            41 => self.ipv6(bytes),
            6 => self.tcp(bytes, pseudo),
            17 => self.udp(bytes, pseudo),
            1 => self.icmp("icmp", bytes, pseudo.map(|_| Vec::new())),
            58 => self.icmp("icmpv6", bytes, pseudo),
            _ => self.rest("payload", bytes),
        }
    }

    /// Pushes a checksum field at `at` judged against the whole segment.
    fn transport_checksum(&mut self, bytes: &[u8], at: usize, pseudo: Option<Vec<u8>>) {
        let field = be16(bytes, at).unwrap_or_default();
        let Some(pseudo) = pseudo else {
            return self.push("checksum", format!("{field:#06x}"));
        };
        let mut zeroed = bytes.to_vec();
        zeroed[at..at + 2].fill(0);
        self.push("checksum", verdict(field, checksum::checksum(&[pseudo, zeroed].concat())));
    }

    fn tcp(&mut self, bytes: &[u8], pseudo: Option<Vec<u8>>) {
        self.enter("tcp");
        if bytes.len() < 20 {
            self.ports(bytes);
            return self.truncated(bytes, 20);
        }
        self.ports(bytes);
        self.push("seq", be32(bytes, 4).unwrap_or_default());
        self.push("ack", be32(bytes, 8).unwrap_or_default());
        let header = usize::from(bytes[12] >> 4) * 4;
        self.push("header", format!("{header} bytes"));
        self.push("flags", tcp_flags(bytes[13]));
        self.push("window", be16(bytes, 14).unwrap_or_default());
        self.transport_checksum(bytes, 16, pseudo);
        self.push("urgent", be16(bytes, 18).unwrap_or_default());
        let end = header.clamp(20, bytes.len());
        if end > 20 {
            self.push("options", hex(&bytes[20..end], 40));
        }
        self.rest("payload", &bytes[end..]);
    }

    fn udp(&mut self, bytes: &[u8], pseudo: Option<Vec<u8>>) {
        self.enter("udp");
        if bytes.len() < 8 {
            self.ports(bytes);
            return self.truncated(bytes, 8);
        }
        self.ports(bytes);
        self.push("length", lie(usize::from(be16(bytes, 4).unwrap_or_default()), bytes.len()));
        match be16(bytes, 6) {
            Some(0) => self.push("checksum", "0x0000 none"),
            _ => self.transport_checksum(bytes, 6, pseudo),
        }
        self.rest("payload", &bytes[8..]);
    }

    fn ports(&mut self, bytes: &[u8]) {
        if let Some(port) = be16(bytes, 0) {
            self.push("source", port);
        }
        if let Some(port) = be16(bytes, 2) {
            self.push("destination", port);
        }
    }

    fn icmp(&mut self, layer: &str, bytes: &[u8], pseudo: Option<Vec<u8>>) {
        self.enter(layer);
        if bytes.len() < 8 {
            return self.truncated(bytes, 8);
        }
        self.push("type", bytes[0]);
        self.push("code", bytes[1]);
        self.transport_checksum(bytes, 2, pseudo);
        self.push("rest", hex(&bytes[4..8], 4));
        self.rest("payload", &bytes[8..]);
    }
}

/// A length field, and what is there if that differs.
fn lie(claimed: usize, present: usize) -> String {
    if claimed == present { claimed.to_string() } else { format!("{claimed} ({present} there)") }
}

/// A checksum field against the sum from zero. Zero and all ones are the same number (RFC 1624 §3).
fn verdict(field: u16, right: u16) -> String {
    if field == right || (field == 0xffff && right == 0) {
        format!("{field:#06x} ok")
    } else {
        format!("{field:#06x} WRONG, {right:#06x}")
    }
}

fn tag(control: u16) -> String {
    format!("vlan {} priority {}", control & 0xfff, control >> 13)
}

fn fragment_flags(field: u16) -> String {
    let names: Vec<&str> = [(0x8000, "reserved"), (0x4000, "DF"), (0x2000, "MF")]
        .iter()
        .filter(|(bit, _)| field & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

fn tcp_flags(flags: u8) -> String {
    let names: Vec<&str> = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"]
        .iter()
        .enumerate()
        .filter(|(bit, _)| flags >> bit & 1 != 0)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

/// Up to `most` bytes in hex.
pub fn hex(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(most) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > most {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::{ethernet, icmpv6, ipv4, ipv6, tcp, udp};
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
    const B: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

    #[test]
    fn a_tcp_frame_reads_layer_by_layer() {
        let frame = ethernet(Mac::local(1), Mac::local(2)) / ipv4(A, B).dont_fragment() / tcp(40_000, 443) / "hello";
        let expected = "\
ethernet   frame 59 bytes destination 02:00:00:00:00:02 source 02:00:00:00:00:01 ethertype 0x0800
ipv4       version 4 header 20 bytes tos 0x00 length 45 id 0x1d0f flags DF offset 0 ttl 64 protocol 6 \
checksum 0xb776 ok source 198.51.100.7 destination 203.0.113.10
tcp        source 40000 destination 443 seq 74565 ack 424090 header 20 bytes flags ACK window 502 \
checksum 0xc9df ok urgent 0
payload    length 5 bytes 68656c6c6f text \"hello\"";
        assert_eq!(text(&frame.bytes()), expected);
    }

    #[test]
    fn lies_are_called_lies() {
        let ip = ipv4(A, B).total_length(28).checksum(0x1234);
        let frame = ethernet(Mac::local(1), Mac::local(2)) / ip / udp(1, 2).length(99).checksum(7) / "abcd";
        let fields = fields(&frame.bytes());
        let get = |layer: &str, name: &str| {
            fields.iter().find(|f| f.layer == layer && f.name == name).map(|f| f.value.as_str()).unwrap_or("absent")
        };
        assert_eq!(get("ipv4", "length"), "28 (32 there)");
        assert!(get("ipv4", "checksum").starts_with("0x1234 WRONG"), "{}", get("ipv4", "checksum"));
        assert_eq!(get("udp", "length"), "99 (8 there)");
        assert!(get("udp", "checksum").starts_with("0x0007 WRONG"));
        assert_eq!(get("trailer", "text"), "\"abcd\"");
    }

    #[test]
    fn tunnels_show_both_headers() {
        let inner = ipv6(A6, A6) / icmpv6(128, 0) / "x";
        let frame = ethernet(Mac::local(1), Mac::local(2)) / ipv6(A6, Ipv6Addr::LOCALHOST) / inner;
        let text = text(&frame.bytes());
        assert!(text.contains("\nipv6 ") && text.contains("\ninner ipv6 "), "{text}");
        assert!(text.contains("next 41") && text.contains("icmpv6") && !text.contains("WRONG"), "{text}");
    }

    #[test]
    fn no_frame_is_too_short_or_too_strange_to_print() {
        let frame = ethernet(Mac::local(1), Mac::local(2)).vlan(5)
            / ipv6(A6, A6).extension(super::super::Extension::hop_by_hop())
            / udp(1, 2)
            / "payload";
        let bytes = frame.bytes();
        for length in 0..=bytes.len() {
            assert!(!text(&bytes[..length]).is_empty());
        }
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = bytes.clone();
            for _ in 0..6 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            assert!(!text(&bytes).is_empty());
        }
    }
}
