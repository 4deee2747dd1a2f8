//! Whether the kernel is new enough, asked only once it has refused something.
//!
//! Not before: distributions bring features back into kernels whose number is lower.

use nix::sys::utsname::uname;

/// The oldest kernel on which everything is known to work (docs/kernels.md).
pub const OLDEST: (u32, u32) = (6, 12);

/// This kernel's release, if it is older than [`OLDEST`].
pub fn too_old() -> Option<String> {
    let release = uname().ok()?.release().to_str()?.to_owned();
    is_older(&release).then_some(release)
}

/// Of `5.10.0-46-amd64`, the first two numbers count. What has none is not called old.
fn is_older(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map(|number| number.parse::<u32>());
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) < OLDEST
}

#[cfg(test)]
mod tests {
    use super::is_older;

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        for (release, older) in [
            ("5.10.0-46-amd64", true),
            ("5.15.0", true),
            ("6.1.0-50-amd64", true),
            ("6.12.117+deb13-amd64", false),
            ("7.0", false),
            ("10.1-rc1", false),
            ("unknown", false),
        ] {
            assert_eq!(is_older(release), older, "{release}");
        }
    }
}
