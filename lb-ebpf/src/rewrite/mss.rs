//! The MSS option of TCP (RFC 9293 §3.7.1): how long a segment the sender takes. It is lowered to what the way takes, so that
//! nobody sends what would not arrive.
//!
//! The trap is where the option is: behind others of any length, so its value may begin at an odd byte, and to the checksum it
//! is then the other way round.

use core::mem::offset_of;

use network_types::tcp::TcpHdr;

use lb_common::csum::Delta;
use lb_ebpf::packet::Packet;

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
/// Of that option, with kind and length.
const LENGTH: u8 = 4;

/// Most bytes of options.
const MOST: usize = 40;

/// What is written at least (Linux, `TCP_MIN_MSS`).
pub const LEAST: u32 = 88;

/// Lowers the MSS that a SYN at `l4` has to `most`. Whatever is odd about its options, it stays.
#[cold]
#[inline(never)]
pub fn clamp(packet: Packet, l4: usize, most: u32) -> bool {
    lower(packet.opaque(), l4, if most < LEAST { LEAST as u16 } else { most as u16 }).is_some()
}

#[inline(always)]
fn lower(packet: Packet, l4: usize, most: u16) -> Option<()> {
    let tcp = packet.header::<TcpHdr>(l4)?;
    let end = usize::from(tcp.u8::<12>() >> 4) * 4;
    let mut at = TcpHdr::LEN;
    for _ in 0..MOST {
        if at + usize::from(LENGTH) > end || at > TcpHdr::LEN + MOST {
            return None;
        }
        let option = packet.header::<[u8; LENGTH as usize]>(l4 + at)?;
        match option.u8::<0>() {
            END => return None,
            NOTHING => at += 1,
            MSS if option.u8::<1>() == LENGTH => {
                let value = u16::from_be_bytes([option.u8::<2>(), option.u8::<3>()]);
                if value <= most {
                    return None;
                }
                let [high, low] = most.to_be_bytes();
                option.set_u8::<2>(high);
                option.set_u8::<3>(low);
                const CHECK: usize = offset_of!(TcpHdr, check);
                let (old, new) =
                    if at % 2 == 0 { (value.to_be(), most.to_be()) } else { (value.to_le(), most.to_le()) };
                tcp.set_u16::<CHECK>(Delta::new().word16(old, new).apply(tcp.u16::<CHECK>()));
                return Some(());
            }
            _ => match option.u8::<1>() {
                0 | 1 => return None,
                length => at += usize::from(length),
            },
        }
    }
    None
}
