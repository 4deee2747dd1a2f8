//! Comparing text with a file in the repository.

/// Fails unless `path` holds exactly `text`; with `SLUICE_BLESS` set, writes it instead.
pub(crate) fn check(path: &str, text: &str) {
    if std::env::var_os("SLUICE_BLESS").is_some() {
        if let Some(directory) = std::path::Path::new(path).parent() {
            std::fs::create_dir_all(directory).unwrap();
        }
        std::fs::write(path, text).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        recorded == text,
        "{path} is not what it should be; if the change is wanted, run the test again with SLUICE_BLESS=1\n\
         --- recorded\n{recorded}\n--- now\n{text}"
    );
}
