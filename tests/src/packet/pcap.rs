//! Captures of failing packets: classic pcap files, which everything reads.

use std::io;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A classic pcap file of Ethernet frames, in order, one microsecond apart.
pub fn encode(frames: &[&[u8]]) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic for microseconds in the writer's byte order, version 2.4, no time zone, no accuracy.
    file.extend(0xa1b2_c3d4u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    // LINKTYPE_ETHERNET.
    file.extend(1u32.to_le_bytes());
    for (i, frame) in (0u32..).zip(frames) {
        file.extend(0u32.to_le_bytes());
        file.extend(i.to_le_bytes());
        file.extend((frame.len() as u32).to_le_bytes());
        file.extend((frame.len() as u32).to_le_bytes());
        file.extend(*frame);
    }
    file
}

/// Writes `frames` to `<target>/<folder>/<name>.pcap`, the name made fit for a file, and returns the path.
pub fn save(folder: &str, name: &str, frames: &[&[u8]]) -> io::Result<PathBuf> {
    let folder = target_dir()?.join(folder);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.pcap", slug(name)));
    fs::write(&path, encode(frames))?;
    Ok(path)
}

/// A test's sentence as a file name.
pub fn slug(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let mut slug = words.join("-");
    slug.truncate(120);
    slug
}

/// Cargo's target directory, wherever it is: the folder above the running test that cargo has tagged as a cache.
fn target_dir() -> io::Result<PathBuf> {
    let exe = env::current_exe()?;
    let tagged = exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    Ok(tagged.map_or_else(env::temp_dir, Path::to_path_buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_has_the_classic_layout() {
        let file = encode(&[&[1, 2, 3], &[4]]);
        assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(file[20..24], [1, 0, 0, 0]);
        assert_eq!(file[24..43], [0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3]);
        assert_eq!(file[43..], [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4]);
    }

    #[test]
    fn a_sentence_becomes_a_file_name() {
        assert_eq!(slug("UDP/IPv4: a checksum of 0 stays 0"), "udp-ipv4-a-checksum-of-0-stays-0");
    }

    #[test]
    fn captures_are_saved_below_the_target_directory() {
        let path = save("pcap-test", "a frame", &[&[0; 60]]).expect("the target directory is writable");
        assert!(path.ends_with("pcap-test/a-frame.pcap"), "{}", path.display());
        assert_eq!(fs::read(&path).expect("just written").len(), 24 + 16 + 60);
        fs::remove_file(path).expect("just written");
    }
}
