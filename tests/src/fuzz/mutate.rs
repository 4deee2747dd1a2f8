//! Frames changed without understanding: bits flipped, bytes moved, numbers put where others were.

use super::packets::LONGEST;
use super::random::Random;

const NUMBERS: [u16; 14] =
    [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff, 0x0800, 0x86dd, 0x8100, 0x4500];

/// Changes a frame in one to four places, most of them in the headers.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.between(1, 4) {
        if frame.is_empty() {
            return;
        }
        let reach = if random.percent(80) { frame.len().min(78) } else { frame.len() };
        let at = random.below(reach);
        match random.below(8) {
            0 | 1 => frame[at] ^= 1 << random.below(8),
            2 => frame[at] = random.byte(),
            3 => {
                let number = random.pick(&NUMBERS).to_be_bytes();
                for (byte, value) in frame[at..].iter_mut().zip(number) {
                    *byte = value;
                }
            }
            4 => frame[at] = frame[at].wrapping_add(random.pick(&[1, 0xff])),
            5 => {
                let end = (at + random.between(1, 8)).min(frame.len());
                frame.drain(at..end);
            }
            6 if frame.len() < LONGEST => {
                let count = random.between(1, 8);
                let bytes = random.bytes(count);
                frame.splice(at..at, bytes);
            }
            _ => {
                // A piece of the frame over another one.
                let length = random.between(1, 16).min(frame.len() - at);
                let piece = frame[at..at + length].to_vec();
                let to = random.below(frame.len() - length + 1);
                frame[to..to + length].copy_from_slice(&piece);
            }
        }
    }
}
