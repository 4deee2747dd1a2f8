//! What was done, so that a run that found nothing can show where it looked.

use std::fmt;
use std::ops::AddAssign;

macro_rules! tally {
    ($($name:ident: $text:literal),* $(,)?) => {
        /// Counts of what happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally { $(pub $name: u64),* }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Tally {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(writeln!(f, "{:>12}  {}", self.$name, $text)?;)*
                Ok(())
            }
        }

        impl Tally {
            /// What never happened.
            pub fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$name == 0 { missing.push($text); })*
                missing
            }
        }
    };
}

tally! {
    steps: "steps",
    packets: "packets decided",
    checked: "of them held against where their flow lives",
    excused: "of them of a flow that had lost its backend, or had been silent too long",
    flapped: "of them of a flow whose backend was away while flows were refused (see rule 4)",
    migrated_away: "of them of a refused flow that had nobody in the ring before (see the limits)",
    ended_in_swap: "of them of a flow that was refused in the swap in which its row came to its end (see the limits)",
    died_in_swap: "of them moved because a backend was marked down while both arrays were in use",
    killed: "of them of a flow whose backend was away while the controller was killed in a swap",
    into_the_dead: "of them to a backend that is down while their flow's is not",
    too_early: "of them dropped by a row without backend while both arrays were in use",
    steady: "on steady rows",
    moving: "on moving rows",
    exceptions: "on rows with exceptions",
    filtered: "of them let through by the filter",
    hits: "decided by an entry",
    inserted: "flows written down",
    refused: "flows refused",
    lost: "compare-and-swaps and inserts lost to another CPU",
    proved: "replies",
    changes: "changes swapped in",
    replanned: "plans given up before their swap",
    moved: "rows that began to move",
    kept: "rows kept moving under another owner",
    returned: "rows returned to the owner before",
    extended: "rows extended in place",
    corrected: "rows corrected after a swap",
    sweeps: "walks over the table",
    forgotten: "entries removed",
    steadied: "rows made steady",
    sieved: "rows given a filter",
    removed: "backends removed",
    rested: "ids free again",
    recovered: "rows that forgot a backend before it came back",
    grown: "rings grown",
    migrated: "rings that took the place of one of another size or hash",
    asked_before: "packets whose flow the ring before was asked about",
    raised: "timeouts raised",
    lowered: "timeouts lowered",
    restarts: "restarts",
}
