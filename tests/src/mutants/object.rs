//! What a compiled object does, without what it is called and where in the source it came from.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget};
use sha2::{Digest as _, Sha256};

/// A fingerprint of instructions, data and relocations. Two objects that have the same do the same; BTF and debug
/// information are left out, because they tell of lines and columns.
pub(super) fn fingerprint(path: &Path) -> Result<[u8; 32]> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no object", path.display()))?;
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for section in file.sections() {
        let name = section.name()?;
        if [".BTF", ".debug", ".rel.BTF", ".rel.debug", ".symtab", ".strtab"].iter().any(|p| name.starts_with(p)) {
            continue;
        }
        add(name.as_bytes());
        add(section.data()?);
        for (offset, relocation) in section.relocations() {
            add(&offset.to_le_bytes());
            add(&relocation.addend().to_le_bytes());
            add(format!("{:?}", relocation.flags()).as_bytes());
            match relocation.target() {
                RelocationTarget::Symbol(index) => {
                    let symbol = file.symbol_by_index(index)?;
                    let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
                    add(section.as_ref().and_then(|section| section.name().ok()).unwrap_or_default().as_bytes());
                    add(&symbol.address().to_le_bytes());
                }
                target => add(format!("{target:?}").as_bytes()),
            }
        }
    }
    Ok(hash.finalize().into())
}
