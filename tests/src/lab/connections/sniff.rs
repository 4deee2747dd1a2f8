//! Reads tcpdump's files: which TCP segments passed a wire, and when.
//!
//! Only what the judge asks for: addresses, ports and flags of plain TCP over IPv4 and IPv6, from classic pcap files
//! with microseconds, in the machine's byte order, as tcpdump writes them here. A file that tcpdump is still writing
//! may end in the middle of a packet.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;

/// One segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub at: SystemTime,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
}

/// Every TCP segment of the capture `name` in `dir`, in order of time. A capture is up to two files that tcpdump writes
/// in turn.
pub fn read(dir: &Path, name: &str) -> Result<Vec<Segment>> {
    let files: Vec<PathBuf> = ["", "0", "1"].map(|n| dir.join(format!("{name}.pcap{n}"))).into();
    let files: Vec<PathBuf> = files.into_iter().filter(|f| f.is_file()).collect();
    ensure!(!files.is_empty(), "there is no capture {name} in {}: is tcpdump installed?", dir.display());
    let mut segments = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file)?;
        segments.extend(parse(&bytes).with_context(|| format!("reading {}", file.display()))?);
    }
    segments.sort_by_key(|s| s.at);
    Ok(segments)
}

/// RSTs that met a connection which was not over: neither end had said FIN since its SYN. After that a RST is nothing
/// but a last segment that came twice.
pub fn resets(segments: &[Segment]) -> u64 {
    let mut over: HashSet<[SocketAddr; 2]> = HashSet::new();
    let mut count = 0;
    for s in segments {
        let mut ends = [s.from, s.to];
        ends.sort();
        if s.flags & SYN != 0 {
            over.remove(&ends);
        } else if s.flags & FIN != 0 {
            over.insert(ends);
        } else if s.flags & RST != 0 && !over.contains(&ends) {
            count += 1;
        }
    }
    count
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn parse(file: &[u8]) -> Result<Vec<Segment>> {
    ensure!(word(file, 0) == Some(0xa1b2_c3d4), "not a classic pcap file with microseconds");
    let mut segments = Vec::new();
    let mut rest = file.get(24..).unwrap_or_default();
    while let (Some(seconds), Some(micros), Some(length)) = (word(rest, 0), word(rest, 4), word(rest, 8)) {
        let Some(frame) = rest.get(16..16 + length as usize) else { break };
        let at = SystemTime::UNIX_EPOCH + Duration::new(seconds.into(), micros * 1000);
        segments.extend(segment(at, frame));
        rest = &rest[16 + length as usize..];
    }
    Ok(segments)
}

/// An Ethernet frame's TCP segment, if it is one.
fn segment(at: SystemTime, frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] if *packet.get(9)? == 6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(octets.into())
            };
            (address(12)?, address(16)?, packet.get(usize::from(packet[0] & 15) * 4..)?)
        }
        [0x86, 0xdd] if *packet.get(6)? == 6 => {
            let address = |at: usize| -> Option<IpAddr> {
                let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(octets.into())
            };
            (address(8)?, address(24)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Segment { at, from: SocketAddr::new(from, port(0)?), to: SocketAddr::new(to, port(2)?), flags: *tcp.get(13)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::pcap;

    #[test]
    fn a_reset_counts_until_somebody_has_said_goodbye() {
        let ends: [SocketAddr; 2] = ["192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap()];
        let count = |flags: &[(usize, u8)]| {
            let segment =
                |&(from, flags)| Segment { at: SystemTime::UNIX_EPOCH, from: ends[from], to: ends[1 - from], flags };
            resets(&flags.iter().map(segment).collect::<Vec<_>>())
        };
        assert_eq!(count(&[(0, SYN), (1, SYN), (1, RST)]), 1);
        assert_eq!(count(&[(0, SYN), (1, SYN), (0, FIN), (1, RST), (0, RST)]), 0);
        assert_eq!(count(&[(0, SYN), (1, FIN), (0, SYN), (1, RST)]), 1);
        assert_eq!(count(&[(1, RST)]), 1);
    }

    #[test]
    fn segments_of_both_families_are_read_and_everything_else_is_not() {
        let mut v4 = vec![0; 14 + 20 + 20];
        v4[12..14].copy_from_slice(&[8, 0]);
        v4[14] = 0x45;
        v4[14 + 9] = 6;
        v4[14 + 12..14 + 20].copy_from_slice(&[192, 0, 2, 10, 203, 0, 113, 100]);
        v4[34..38].copy_from_slice(&[0x9c, 0x40, 0x1b, 0x58]);
        v4[34 + 13] = RST;
        let mut v6 = vec![0; 14 + 40 + 20];
        v6[12..14].copy_from_slice(&[0x86, 0xdd]);
        v6[14 + 6] = 6;
        (v6[14 + 23], v6[14 + 39]) = (1, 2);
        v6[54 + 3] = 80;
        v6[54 + 13] = SYN;
        let mut udp = v4.clone();
        udp[14 + 9] = 17;
        let mut file = pcap::encode(&[&v4, &udp, &v6, &v4[..30]]);
        file.extend([1, 2, 3]);
        let read: Vec<(String, String, u8)> =
            parse(&file).unwrap().iter().map(|s| (s.from.to_string(), s.to.to_string(), s.flags)).collect();
        let expected = [("192.0.2.10:40000", "203.0.113.100:7000", RST), ("[::1]:0", "[::2]:80", SYN)];
        assert_eq!(read, expected.map(|(from, to, flags)| (from.to_owned(), to.to_owned(), flags)));
        assert!(parse(b"not a capture").is_err());
    }
}
