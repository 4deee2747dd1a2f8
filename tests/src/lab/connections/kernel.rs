//! What the kernels of a few namespaces counted, from `/proc/net/snmp`: evidence that is neither end's word.

use anyhow::{Context as _, Result};

use crate::lab::netns::NetNs;

/// TCP's counters, summed over namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// RSTs sent: for IPv4 and IPv6 together, as the kernel counts them.
    pub resets_sent: u64,
    /// Connections that a RST ended.
    pub resets_received: u64,
    pub retransmitted: u64,
}

impl Tcp {
    pub fn of(namespaces: &[NetNs]) -> Result<Self> {
        let mut sum = Self::default();
        for ns in namespaces {
            let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
            let Tcp { resets_sent, resets_received, retransmitted } =
                parse(&text).with_context(|| format!("reading TCP's counters of {}:\n{text}", ns.name()))?;
            sum.resets_sent += resets_sent;
            sum.resets_received += resets_received;
            sum.retransmitted += retransmitted;
        }
        Ok(sum)
    }
}

/// Two lines that begin with `Tcp:`: names, then values.
fn parse(text: &str) -> Option<Tcp> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?.split_whitespace(), lines.next()?.split_whitespace());
    let pairs: Vec<(&str, &str)> = names.zip(values).collect();
    let value = |name: &str| pairs.iter().find(|(n, _)| *n == name)?.1.parse().ok();
    Some(Tcp {
        resets_sent: value("OutRsts")?,
        resets_received: value("EstabResets")?,
        retransmitted: value("RetransSegs")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read_by_name() {
        let text = "Ip: Forwarding\nIp: 1\n\
            Tcp: RtoMax MaxConn EstabResets CurrEstab RetransSegs InErrs OutRsts InCsumErrors\n\
            Tcp: 120000 -1 3 0 41 0 7 0\nUdp: InDatagrams\nUdp: 3\n";
        let expected = Tcp { resets_sent: 7, resets_received: 3, retransmitted: 41 };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("Tcp: OutRsts\n"), None);
    }
}
