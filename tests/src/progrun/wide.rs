//! The maps of what services listen on beside single endpoints, written from what the controller makes of them.

use std::net::IpAddr;

use anyhow::{Result, bail};

use lb_common::service::{PORTS_KEY_BITS, ports_key};
use sluice::model::{Listen, Protocol, wildcards};

use super::Program;

/// Who listens where, by service ids. The services' own records are the caller's.
pub fn insert(program: &mut Program, wanted: impl IntoIterator<Item = (Listen, Protocol, u32)>) -> Result<()> {
    let Ok(groups) = wildcards::groups(wanted, 100_000) else { bail!("too many blocks of ports") };
    for (group, (prefix, blocks)) in (1u32..).zip(groups) {
        let length = u32::from(prefix.length);
        match prefix.address {
            IpAddr::V4(a) => program.insert_prefix("PREFIXES4", length, a.octets(), group)?,
            IpAddr::V6(a) => program.insert_prefix("PREFIXES6", length, a.octets(), group)?,
        }
        for (block, id) in blocks.iter() {
            let key = ports_key(group, block.protocol.number(), block.port.to_be());
            program.insert_prefix("PORTS", PORTS_KEY_BITS + u32::from(block.bits), key, *id)?;
        }
    }
    Ok(())
}
