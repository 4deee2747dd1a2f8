//! From samples to figures: what counts of the samples, net of the harness, in units of the reference; the table and
//! the JSON.

use std::fmt;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::cases::{Case, FLOOR, NOOP, TWIN_LIMIT, UNIT};

/// CPU nanoseconds per packet, one figure per round and CPU.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub case: Case,
    /// On two CPUs at once.
    pub two: bool,
    pub samples: Vec<f64>,
}

/// What is said of a case, and the shape of its JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub case: String,
    /// CPU time per packet, harness included.
    pub ns: f64,
    /// Distance of the quartiles, in percent of the median.
    pub iqr_pct: f64,
    /// Above the no-op through the same wrapper.
    pub net_ns: f64,
    /// In units of `ref/lru/1`.
    pub net_ratio: f64,
    /// Most that `net_ratio` may be.
    #[serde(skip)]
    limit: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct Table(Vec<Figure>);

/// The value below which `part` of the sorted samples lie, interpolated.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let at = part * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The figure that counts: the mean of the fastest tenth. What disturbs a program (a neighbour on the same core, an
/// interrupt, a clock turned down) only ever adds to its time, so the fastest are nearest to what the code costs. Where
/// such things come and go, the median says which of them there were more of.
fn cost(sorted: &[f64]) -> f64 {
    let fastest = &sorted[..sorted.len().div_ceil(10)];
    fastest.iter().sum::<f64>() / fastest.len() as f64
}

/// The figure of a row by its name.
pub fn cost_of(rows: &[Row], name: &str) -> Result<f64> {
    let row = rows.iter().find(|row| row.name == name).with_context(|| format!("{name} was not measured"))?;
    Ok(cost(&sorted(&row.samples)))
}

impl Table {
    pub fn new(rows: &[Row]) -> Result<Self> {
        let noop = cost_of(rows, NOOP)?;
        let unit = cost_of(rows, UNIT)? - noop;
        let figures = rows.iter().map(|row| {
            let sorted = sorted(&row.samples);
            let ns = cost(&sorted);
            let net_ns = ns - noop;
            let limit = if row.two {
                cost_of(rows, row.case.name).ok().map(|single| TWIN_LIMIT * (single - noop) / unit)
            } else {
                row.case.limit
            };
            Figure {
                case: row.name.clone(),
                ns,
                iqr_pct: 100.0 * (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / quantile(&sorted, 0.5),
                net_ns,
                net_ratio: net_ns / unit,
                limit,
            }
        });
        Ok(Self(figures.collect()))
    }

    /// Names of the cases over their limit.
    pub fn over(&self) -> Vec<&str> {
        self.0.iter().filter(|f| f.is_over()).map(|f| f.case.as_str()).collect()
    }

    pub fn json(&self) -> Result<String> {
        let round = |x: f64| (x * 1e3).round() / 1e3;
        let rounded: Vec<Figure> = self
            .0
            .iter()
            .map(|f| Figure {
                ns: round(f.ns),
                iqr_pct: round(f.iqr_pct),
                net_ns: round(f.net_ns),
                net_ratio: round(f.net_ratio),
                ..f.clone()
            })
            .collect();
        Ok(serde_json::to_string_pretty(&rounded)? + "\n")
    }
}

impl Figure {
    fn is_over(&self) -> bool {
        self.limit.is_some_and(|limit| self.net_ratio > limit)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|figure| figure.case.len()).max().unwrap_or(0).max(4);
        writeln!(
            f,
            "{:width$}  {:>7}  {:>5}  {:>7}  {:>9}  {:>5}",
            "case", "ns", "iqr %", "net ns", "net ratio", "limit"
        )?;
        for figure in &self.0 {
            write!(f, "{:width$}  {:>7.1}  {:>5.1}", figure.case, figure.ns, figure.iqr_pct)?;
            // The floor runs without the wrapper, and the no-op is what all others are net of.
            if figure.case != FLOOR && figure.case != NOOP {
                write!(f, "  {:>7.1}  {:>9.2}", figure.net_ns, figure.net_ratio)?;
            }
            if let Some(limit) = figure.limit {
                write!(f, "  {limit:>5.2}  {}", if figure.is_over() { "OVER" } else { "ok" })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::{CASES, REFERENCES, twin};
    use super::*;

    fn row(name: &str, two: bool, samples: &[f64]) -> Row {
        let mut all = REFERENCES.iter().chain(&CASES);
        let case = *all.find(|case| case.name == name).unwrap();
        Row { name: if two { twin(name) } else { name.to_owned() }, case, two, samples: samples.to_vec() }
    }

    fn table(single: f64, double: f64) -> Table {
        Table::new(&[
            row(FLOOR, false, &[8.0]),
            row(NOOP, false, &[10.0]),
            row(UNIT, false, &[30.0]),
            row("ipip4/tcp/1", false, &[single]),
            row("ipip4/tcp/1", true, &[double]),
        ])
        .unwrap()
    }

    #[test]
    fn net_is_above_the_noop_and_the_ratio_is_in_units_of_the_reference() {
        let table = table(35.0, 37.0);
        let of = |name: &str| table.0.iter().find(|f| f.case == name).map(|f| (f.net_ns, f.net_ratio)).unwrap();
        assert_eq!(of(NOOP), (0.0, 0.0));
        assert_eq!(of(UNIT), (20.0, 1.0));
        assert_eq!(of("ipip4/tcp/1"), (25.0, 1.25));
        assert!(table.over().is_empty());
    }

    #[test]
    fn a_case_is_over_its_own_limit_and_a_twin_over_a_tenth_more_than_its_case() {
        // The limit of 1.45 is 29 ns net, 39 in all.
        assert_eq!(table(39.1, 39.1).over(), ["ipip4/tcp/1"]);
        // 25 ns net on one CPU allow 27.5 on two.
        assert_eq!(table(35.0, 37.6).over(), ["2cpu/ipip4/tcp/1"]);
        assert!(table(35.0, 37.4).to_string().lines().last().unwrap().ends_with("1.38  ok"));
    }

    #[test]
    fn the_figure_is_of_the_fastest_tenth_and_the_spread_that_of_the_quartiles() {
        let five = row("pass/1", false, &[90.0, 4.0, 2.0, 3.0, 1.0]);
        let twenty: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let rows = [row(NOOP, false, &[0.0]), row(UNIT, false, &[1.0]), five, row("ipip4/tcp/1", false, &twenty)];
        let table = Table::new(&rows).unwrap();
        assert_eq!((table.0[2].ns, table.0[2].iqr_pct), (1.0, 100.0 * 2.0 / 3.0));
        assert_eq!(table.0[3].ns, 1.5, "of 1 and 2");
    }

    #[test]
    fn the_json_is_a_list_of_cases_and_their_figures() {
        let json: serde_json::Value = serde_json::from_str(&table(35.0, 37.0).json().unwrap()).unwrap();
        assert_eq!(
            json[3],
            serde_json::json!({
                "case": "ipip4/tcp/1", "ns": 35.0, "iqr_pct": 0.0, "net_ns": 25.0, "net_ratio": 1.25
            })
        );
    }
}
