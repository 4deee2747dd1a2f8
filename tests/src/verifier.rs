//! What every program costs before its first packet: instructions the verifier walked, and the size of what it let
//! through. Recorded in `tests/fixtures/verifier.tsv`, so that neither grows unnoticed.
//!
//! The trap: the numbers belong to a kernel. Verifiers prune differently and compilers emit differently, so on another
//! kernel than the recorded one sizes are not compared, and instructions only to catch what doubles.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use aya::programs::Xdp;

use sluice::dataplane::{Dataplane, Features, Options, Sizes, Tunables, object, pins};

use sluice::model::Packets;

use crate::progrun::Settings;

/// Growth that fails, as a fraction of what is recorded, on the recorded kernel.
const GROWTH: f64 = 0.05;
/// The same for instructions on any other kernel.
const GROWTH_ELSEWHERE: f64 = 1.0;

/// One program in one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    pub program: String,
    pub variant: String,
    /// Instructions the verifier walked, over all paths.
    pub instructions: u32,
    /// Bytes of eBPF after the verifier removed what the variant does not use.
    pub xlated: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// All programs, and the kernel that said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Release and machine, as `uname` has them.
    pub kernel: String,
    pub costs: Vec<Cost>,
}

/// Sets of features that a configuration and the command line can ask for: each way of forwarding alone, those that most
/// configurations have together, and all; with and without the rest.
fn variants() -> impl Iterator<Item = Features> {
    let switch = [false, true];
    let families = [(true, false), (false, true), (true, true)];
    let none = Features::default();
    let all =
        Features { nat: true, ipip: true, dsr_l2: true, gre: true, gue: true, overlay: true, crossing: true, ..none };
    let ways = [
        Features { nat: true, ..none },
        Features { ipip: true, ..none },
        Features { nat: true, ipip: true, ..none },
        Features { ipip: true, crossing: true, ..none },
        Features { dsr_l2: true, ..none },
        Features { gre: true, ..none },
        Features { gue: true, ..none },
        Features { overlay: true, ..none },
        all,
    ];
    families.into_iter().flat_map(move |(ipv4, ipv6)| {
        ways.into_iter().flat_map(move |way| {
            switch.into_iter().flat_map(move |tracking| {
                // The log adds the same to all: it is enough to see it with the largest and the smallest.
                let logged = way == all || way == Features { nat: true, ..none };
                let (all_kinds, no_kinds) = (Packets::ALL, Packets::default());
                let logs = switch.into_iter().take(1 + usize::from(logged)).map(move |log| (log, false, no_kinds));
                // So do wildcards, to NAT and to everything else.
                let wild = (logged || way == Features { ipip: true, ..none }).then_some((false, true, no_kinds));
                // Kinds of packets are all on unless a file says otherwise.
                let kinds = (false, false, all_kinds);
                let most = (way == all).then_some((false, true, all_kinds));
                logs.chain(wild).chain([kinds]).chain(most).map(move |(log, wildcards, packets)| Features {
                    ipv4,
                    ipv6,
                    tracking,
                    wildcards,
                    packets,
                    log,
                    ..way
                })
            })
        })
    })
}

fn variant_name(features: Features) -> String {
    // Taken apart, so that a new feature cannot be forgotten here and in `variants`. The clock is a test's.
    let Features {
        ipv4,
        ipv6,
        nat,
        ipip,
        dsr_l2,
        gre,
        gue,
        overlay,
        crossing,
        tracking,
        packets,
        wildcards,
        log,
        test_clock: _,
    } = features;
    let Packets { vlan, extensions, fragments, icmp, echo, too_big, clamp } = packets;
    let named = [
        (ipv4, "ipv4"),
        (ipv6, "ipv6"),
        (nat, "nat"),
        (ipip, "ipip"),
        (dsr_l2, "dsr-l2"),
        (gre, "gre"),
        (gue, "gue"),
        (overlay, "overlay"),
        (crossing, "crossing"),
        (tracking, "tracking"),
        (vlan, "vlan"),
        (extensions, "extensions"),
        (fragments, "fragments"),
        (icmp, "icmp"),
        (echo, "echo"),
        (too_big, "too-big"),
        (clamp, "clamp"),
        (wildcards, "wildcards"),
        (log, "log"),
    ];
    named.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect::<Vec<_>>().join("+")
}

impl Costs {
    /// Loads everything and asks the kernel.
    pub fn measure() -> Result<Self> {
        let name = nix::sys::utsname::uname()?;
        let kernel = format!("{} {}", name.release().to_string_lossy(), name.machine().to_string_lossy());
        let mut costs = Vec::new();
        for features in variants() {
            let variant = variant_name(features);
            let bpf_dir = Path::new("/sys/fs/bpf").join(format!("sluice-verifier-{}", std::process::id()));
            let tunables =
                Tunables { hash_key: Settings::everything().hash_key, tunnel_source_mask4: 0, tunnel_source_mask6: 0 };
            let opened =
                Dataplane::open(Options { bpf_dir: bpf_dir.clone(), sizes: Sizes::default(), tunables }, features);
            pins::remove(&bpf_dir)?;
            let mut dataplane = opened.with_context(|| format!("cannot load {variant}; are you root?"))?;
            costs.push(Cost::of("sluice", variant, dataplane.program_mut().xdp()?)?);
        }
        let mut decap = EbpfLoader::new().load(object::DECAP).context("cannot load the decapsulator")?;
        let program: &mut Xdp = decap.program_mut("sluice_decap").context("no program sluice_decap")?.try_into()?;
        program.load().context("the verifier refused the decapsulator")?;
        costs.push(Cost::of("sluice_decap", "-".to_owned(), program)?);
        Ok(Self { kernel, costs })
    }

    pub fn path() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/verifier.tsv"))
    }

    /// What is checked in.
    pub fn read() -> Result<Self> {
        let path = Self::path();
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}; `cargo xtask verifier --bless` writes it", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not what `--bless` writes", path.display()))
    }

    pub fn write(&self) -> Result<()> {
        let path = Self::path();
        std::fs::write(&path, self.to_string()).with_context(|| format!("cannot write {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let kernel = lines.next().and_then(|line| line.strip_prefix(KERNEL)).context("no kernel in the first line")?;
        ensure!(lines.next() == Some(HEADER), "no column names in the second line");
        let costs = lines.map(|line| {
            let columns: Vec<&str> = line.split('\t').collect();
            let [program, variant, instructions, xlated, jited] = columns[..] else {
                anyhow::bail!("not five columns: {line}");
            };
            Ok(Cost {
                program: program.to_owned(),
                variant: variant.to_owned(),
                instructions: instructions.parse()?,
                xlated: xlated.parse()?,
                jited: jited.parse()?,
            })
        });
        Ok(Self { kernel: kernel.to_owned(), costs: costs.collect::<Result<_>>()? })
    }

    pub fn same_kernel(&self, other: &Self) -> bool {
        self.kernel == other.kernel
    }

    /// What is worse than recorded, one sentence each.
    pub fn worse_than(&self, recorded: &Self) -> Vec<String> {
        let same = self.same_kernel(recorded);
        let find = |costs: &Self, like: &Cost| {
            costs.costs.iter().find(|c| c.program == like.program && c.variant == like.variant).cloned()
        };
        let mut worse = Vec::new();
        for now in &self.costs {
            let name = format!("{} {}", now.program, now.variant);
            let Some(then) = find(recorded, now) else {
                worse.push(format!("{name} is not recorded"));
                continue;
            };
            let growth = if same { GROWTH } else { GROWTH_ELSEWHERE };
            let mut compare = |what: &str, then: u32, now: u32| {
                if f64::from(now) > f64::from(then) * (1.0 + growth) {
                    let percent = 100.0 * (f64::from(now) / f64::from(then) - 1.0);
                    worse.push(format!("{name}: {what} went from {then} to {now} (+{percent:.1} %)"));
                }
            };
            compare("verified instructions", then.instructions, now.instructions);
            if same {
                compare("translated bytes", then.xlated, now.xlated);
                compare("machine code bytes", then.jited, now.jited);
            }
        }
        for then in &recorded.costs {
            if find(self, then).is_none() {
                worse.push(format!("{} {} is recorded and does not exist", then.program, then.variant));
            }
        }
        worse
    }
}

impl Cost {
    fn of(program: &str, variant: String, xdp: &Xdp) -> Result<Self> {
        let info = xdp.info()?;
        Ok(Self {
            program: program.to_owned(),
            variant,
            instructions: info.verified_instruction_count().context("kernels tell since 5.16")?,
            xlated: info.size_translated().context("the kernel hides the translated program")?,
            jited: info.size_jitted(),
        })
    }
}

const KERNEL: &str = "# kernel ";
const HEADER: &str = "program\tvariant\tinstructions\txlated_bytes\tjited_bytes";

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{KERNEL}{}\n{HEADER}", self.kernel)?;
        for Cost { program, variant, instructions, xlated, jited } in &self.costs {
            writeln!(f, "{program}\t{variant}\t{instructions}\t{xlated}\t{jited}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(kernel: &str, instructions: u32, jited: u32) -> Costs {
        let cost = Cost { program: "p".into(), variant: "ipv4+nat".into(), instructions, xlated: 1000, jited };
        Costs { kernel: kernel.into(), costs: vec![cost] }
    }

    #[test]
    fn growth_over_five_percent_is_worse_and_less_is_not() {
        let recorded = costs("a", 1000, 1000);
        for (instructions, jited, expected) in [(1050, 1050, 0), (1051, 1000, 1), (1051, 1051, 2), (10, 10, 0)] {
            assert_eq!(costs("a", instructions, jited).worse_than(&recorded).len(), expected);
        }
        assert_eq!(
            costs("a", 1100, 1000).worse_than(&recorded),
            ["p ipv4+nat: verified instructions went from 1000 to 1100 (+10.0 %)"]
        );
    }

    #[test]
    fn another_kernel_is_compared_by_instructions_and_loosely() {
        let recorded = costs("a", 1000, 1000);
        assert!(costs("b", 2000, 9000).worse_than(&recorded).is_empty());
        assert_eq!(costs("b", 2001, 1000).worse_than(&recorded).len(), 1);
    }

    #[test]
    fn a_variant_on_one_side_only_is_worse() {
        let (recorded, none) = (costs("a", 1, 1), Costs { kernel: "a".into(), costs: Vec::new() });
        assert_eq!(none.worse_than(&recorded), ["p ipv4+nat is recorded and does not exist"]);
        assert_eq!(recorded.worse_than(&none), ["p ipv4+nat is not recorded"]);
    }

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let written = costs("6.18 x86_64", 1234, 567);
        assert_eq!(Costs::parse(&written.to_string()).unwrap(), written);
    }

    #[test]
    fn variants_are_what_configurations_ask_for() {
        let names: Vec<String> = variants().map(variant_name).collect();
        assert_eq!(names.len(), 3 * (2 * 9 * 2 + 2 * 2 + 3 * 2 + 2));
        let all = "ipv4+ipv6+nat+ipip+dsr-l2+gre+gue+overlay+crossing+tracking+log";
        for name in ["ipv4+nat", "ipv6+ipip", "ipv4+ipv6+nat+ipip", "ipv6+nat+tracking+log", "ipv4+gre", all] {
            assert!(names.contains(&name.to_owned()), "{name}");
        }
    }
}
