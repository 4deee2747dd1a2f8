//! A finding made small: the fewest steps and the plainest ones that still show it.

use crate::clients::Violation;
use crate::step::{Ask, Cpu, Step};
use crate::world::Settings;
use crate::{History, STEPS};

/// The smallest history found in which the same kind of thing goes wrong.
pub fn shrink(mut history: History) -> History {
    let Some((at, violation)) = history.run().0 else { return history };
    history.steps.truncate(at + 1);
    let kind = std::mem::discriminant(&violation);
    let fails = |candidate: &History| {
        candidate.run().0.is_some_and(|(_, violation): (usize, Violation)| std::mem::discriminant(&violation) == kind)
    };
    let mut size = STEPS;
    loop {
        let before = history.clone();
        while size > 0 {
            let mut start = 0;
            while start < history.steps.len() {
                let end = (start + size).min(history.steps.len());
                let mut candidate = history.clone();
                candidate.steps.drain(start..end);
                if fails(&candidate) { history = candidate } else { start = end }
            }
            size /= 2;
        }
        for settings in plainer_settings(history.settings) {
            let candidate = History { settings, ..history.clone() };
            if fails(&candidate) {
                history = candidate;
            }
        }
        for index in 0..history.steps.len() {
            for step in plainer(history.steps[index]) {
                let mut candidate = history.clone();
                candidate.steps[index] = step;
                if candidate != history && fails(&candidate) {
                    history = candidate;
                }
            }
        }
        if history == before {
            return history;
        }
        size = history.steps.len();
    }
}

fn plainer_settings(settings: Settings) -> [Settings; 5] {
    let plain = Settings::default();
    [
        Settings { quota: plain.quota, ..settings },
        Settings { orphans: plain.orphans, ..settings },
        Settings { late: false, ..settings },
        Settings { dies_in_swaps: false, ..settings },
        Settings { slow_removal: false, ..settings },
    ]
}

fn plainer(step: Step) -> Vec<Step> {
    let cpus = |cpu: Cpu| [Cpu::default(), Cpu { refuse: false, ..cpu }, Cpu { old: false, ..cpu }];
    let asks = |ask: Ask| {
        [
            Ask { stall: 0, window: 0, settle: 0, ..ask },
            Ask { settle: 0, ..ask },
            Ask { stall: 0, ..ask },
            Ask { window: 0, ..ask },
            Ask { seed: ask.seed % 16, ..ask },
        ]
    };
    match step {
        Step::Wait(ms) => vec![Step::Wait(ms / 1000 * 1000), Step::Wait(ms / 2), Step::Wait(ms / 100 * 100)],
        Step::Packet { flow, sends, cpu } => cpus(cpu).map(|cpu| Step::Packet { flow, sends, cpu }).into(),
        Step::Reply { flow, cpu } => cpus(cpu).map(|cpu| Step::Reply { flow, cpu }).into(),
        Step::Race { flow, first, second, at, cpus: (one, two) } => {
            let mut steps: Vec<Step> = Vec::new();
            for plain in cpus(one) {
                steps.push(Step::Race { flow, first, second, at, cpus: (plain, two) });
            }
            for plain in cpus(two) {
                steps.push(Step::Race { flow, first, second, at, cpus: (one, plain) });
            }
            steps.push(Step::Packet { flow, sends: first, cpu: one });
            steps
        }
        Step::Fail { backend, ask } => asks(ask).map(|ask| Step::Fail { backend, ask }).into(),
        Step::Recover { backend, ask } => asks(ask).map(|ask| Step::Recover { backend, ask }).into(),
        Step::Drain { backend, ask } => asks(ask).map(|ask| Step::Drain { backend, ask }).into(),
        Step::Undrain { backend, ask } => asks(ask).map(|ask| Step::Undrain { backend, ask }).into(),
        Step::Remove { backend, ask } => asks(ask).map(|ask| Step::Remove { backend, ask }).into(),
        Step::Return { backend, ask } => asks(ask).map(|ask| Step::Return { backend, ask }).into(),
        Step::Add { ask } => asks(ask).map(|ask| Step::Add { ask }).into(),
        Step::Reweigh { ask } => asks(ask).map(|ask| Step::Reweigh { ask }).into(),
        Step::Migrate { ring, ask } => asks(ask).map(|ask| Step::Migrate { ring, ask }).into(),
        Step::Grow { ring, ask } => asks(ask).map(|ask| Step::Grow { ring, ask }).into(),
        Step::Sweep { .. } => vec![Step::Sweep { takes: 0 }],
        _ => Vec::new(),
    }
}
