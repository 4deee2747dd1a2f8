//! Packets as tests write and read them.
//!
//! Frames are written the way scapy writes them, outermost layer first, and everything a sender would compute
//! is computed unless it is given:
//!
//! ```ignore
//! let frame = ethernet(ROUTER, SLUICE) / ipv4(CLIENT, VIP).ttl(3) / tcp(40_000, 443).syn() / "hello";
//! let bytes = frame.bytes();
//! ```
//!
//! The trap of a packet test is sharing code with the program under test: a wrong checksum computed twice by
//! the same function is "right". Nothing here uses `lb_common`; checksums are summed from zero over the whole
//! packet, as RFC 1071 says, where the program only ever applies differences.

pub mod checksum;
pub mod decode;
pub mod diff;
pub mod ether;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
mod layer;
pub mod pcap;
pub mod transport;

pub use ether::{Arp, Ethernet, Mac, arp, ethernet};
pub use icmp::{Icmp, icmp, icmpv6};
pub use ipv4::{Ipv4, ipv4};
pub use ipv6::{Extension, Ipv6, ipv6};
pub use layer::{Layer, Packet, raw};
pub use transport::{Tcp, Udp, tcp, udp};
