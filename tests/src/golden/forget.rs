//! What the program that removes entries removes: those whose state is what it is told, and nothing behind the last line.

use anyhow::{Result, ensure};

use lb_common::flow::{
    FORGET_AT_ONCE, FORGET_TRACKED, Flow4, Flow6, FlowEntry, FlowState, FlowUse, Forget, Life, PHASE_ESTABLISHED,
};

use super::Test;
use super::world::World;

/// Nobody else's.
const SERVICE: u32 = 40;

/// A table, how lines name it, and what of a service's use it is.
#[derive(Clone, Copy)]
struct Table {
    name: &'static str,
    family: u32,
    used: fn(u64) -> FlowUse,
}

const START: FlowUse = FlowUse { entries: 1_000, tracked4: 1_000, tracked6: 1_000, ..EMPTY };
const EMPTY: FlowUse =
    FlowUse { entries: 0, gate: 0, refused: 0, tracked4: 0, tracked6: 0, tracked_gate: 0, reserved: [0; 2] };

const TABLES: [Table; 4] = [
    Table { name: "FLOWS4", family: 4, used: |entries| FlowUse { entries, ..START } },
    Table { name: "FLOWS6", family: 6, used: |entries| FlowUse { entries, ..START } },
    Table { name: "TRACKED4", family: FORGET_TRACKED + 4, used: |tracked4| FlowUse { tracked4, ..START } },
    Table { name: "TRACKED6", family: FORGET_TRACKED + 6, used: |tracked6| FlowUse { tracked6, ..START } },
];

fn flow4(i: u32) -> Flow4 {
    Flow4 { source: i, destination: 2, ports: 3, protocol: 6 }
}

fn flow6(i: u32) -> Flow6 {
    Flow6 { source: [i, 2, 3, 4], destination: [5, 6, 7, 8], ports: 9, protocol: 6 }
}

fn state(last: u32) -> FlowState {
    FlowState::new(Life::new(7, 1), PHASE_ESTABLISHED, last)
}

pub fn tests() -> Vec<Test> {
    let few = TABLES.into_iter().map(|table| {
        Test::new(format!("what is removed from {} still has its state", table.name), move |world| table.few(world))
    });
    // The tables of rows have no room for so many here.
    let many = TABLES.into_iter().filter(|table| table.family > FORGET_TRACKED).map(|table| {
        let name = format!("as many as there are lines are removed from {}", table.name);
        Test::new(name, move |world| table.many(world))
    });
    few.chain(many).collect()
}

impl Table {
    fn line(self, i: u32, state: FlowState) -> Forget {
        let Flow4 { source, destination, ports, protocol } = flow4(i);
        let flow = match self.family % FORGET_TRACKED {
            4 => Flow6 { source: [source, destination, ports, protocol], destination: [0; 4], ports: 0, protocol: 0 },
            _ => flow6(i),
        };
        Forget { flow, state, family: self.family, gone: 2, reserved: 0 }
    }

    fn fill(self, world: &mut World, flows: impl Iterator<Item = (u32, FlowState)>) -> Result<()> {
        world.program.set("FLOW_USES", SERVICE, START)?;
        if self.family % FORGET_TRACKED == 4 {
            world.program.clear::<Flow4, FlowEntry>(self.name)?;
        } else {
            world.program.clear::<Flow6, FlowEntry>(self.name)?;
        }
        for (i, state) in flows {
            let entry = FlowEntry { hash: i, service: SERVICE, state };
            match self.family % FORGET_TRACKED {
                4 => world.program.insert(self.name, flow4(i), entry)?,
                _ => world.program.insert(self.name, flow6(i), entry)?,
            }
        }
        Ok(())
    }

    fn found(self, world: &mut World, i: u32) -> Result<Option<FlowState>> {
        let entry: Option<FlowEntry> = match self.family % FORGET_TRACKED {
            4 => world.program.find(self.name, &flow4(i))?,
            _ => world.program.find(self.name, &flow6(i))?,
        };
        Ok(entry.map(|entry| entry.state))
    }

    fn few(self, world: &mut World) -> Result<()> {
        let vacant = FlowState::VACANT;
        self.fill(
            world,
            [(1, state(10)), (2, state(10)), (3, vacant), (4, FlowState::LEAVING), (6, state(10))].into_iter(),
        )?;
        let end = Forget { family: 0, ..self.line(6, state(10)) };
        let lines = [
            self.line(1, state(10)),
            // Touched meanwhile.
            self.line(2, state(9)),
            self.line(3, vacant),
            self.line(4, state(10)),
            // Gone already.
            self.line(5, state(10)),
            end,
            self.line(6, state(10)),
        ];
        let gone = world.program.remove_flows(&lines)?;
        ensure!(gone == [1, 0, 1, 0, 0, 2, 2], "what became of the lines: {gone:?}");
        let left: Result<Vec<_>> = (1..=6).map(|i| self.found(world, i)).collect();
        let wanted = [None, Some(state(10)), None, Some(FlowState::LEAVING), None, Some(state(10))];
        let left = left?;
        ensure!(left == wanted, "the entries: {left:?}");
        self.counted(world, 998)
    }

    fn many(self, world: &mut World) -> Result<()> {
        let flows = 0..FORGET_AT_ONCE as u32;
        self.fill(world, flows.clone().map(|i| (i, state(i))))?;
        let lines: Vec<Forget> = flows.clone().map(|i| self.line(i, state(i))).collect();
        let gone = world.program.remove_flows(&lines)?;
        ensure!(gone.iter().all(|gone| *gone == 1), "what became of the lines: {gone:?}");
        for i in flows {
            ensure!(self.found(world, i)?.is_none(), "flow {i} is still there");
        }
        self.counted(world, 1_000 - FORGET_AT_ONCE as u64)
    }

    fn counted(self, world: &mut World, left: u64) -> Result<()> {
        let used: FlowUse = world.program.get("FLOW_USES", SERVICE)?;
        ensure!(used == (self.used)(left), "{left} are left of 1,000, and the service is said to have {used:?}");
        Ok(())
    }
}
