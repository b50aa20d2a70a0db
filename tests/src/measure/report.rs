//! Figures of repeated measurements, and the tables they are shown in.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;

/// Measurements of one thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a duration in milliseconds.
    pub fn push_ms(&mut self, value: Duration) {
        self.push(value.as_secs_f64() * 1e3);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest value that `share` (0 to 1) of the measurements do not exceed; NaN without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted
            .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// The median.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// `median (smallest to largest, n=count)`, with a unit.
    #[must_use]
    pub fn spread(&self, unit: &str) -> String {
        format!(
            "{:.1} {unit} ({:.1} to {:.1}, n={})",
            self.median(),
            self.quantile(0.0),
            self.quantile(1.0),
            self.len()
        )
    }
}

/// A table in Markdown, printed when it is whole.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let head = columns.iter().map(|c| (*c).to_owned()).collect();
        Self { rows: vec![head] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[&str]) {
        self.rows
            .push(cells.iter().map(|c| (*c).to_owned()).collect());
    }

    /// Adds a row with a figure that is to be at most `goal`.
    pub fn goal(&mut self, what: &str, figure: &str, goal: &str, met: bool) {
        self.row(&[what, figure, goal, if met { "met" } else { "MISSED" }]);
    }

    /// Prints it.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(c));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = widths
                .iter()
                .enumerate()
                .map(|(c, w)| format!("{:<w$}", row.get(c).map_or("", String::as_str)))
                .collect();
            println!("| {} |", cells.join(" | "));
            if at == 0 {
                let rules: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
                println!("| {} |", rules.join(" | "));
            }
        }
        println!();
    }
}

/// Says what is measured, on what, and how busy it is: numbers without that mean nothing.
pub fn head(name: &str, what: &str, directory: &Path) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| {
            Some(
                l.strip_prefix("model name")?
                    .split_once(':')?
                    .1
                    .trim()
                    .to_owned(),
            )
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("## {name}: {what}");
    println!(
        "{:.0}; {cores} cores, {cpu}; Linux {}; files on {}; load {}",
        Timestamp::now(),
        read("/proc/sys/kernel/osrelease").trim(),
        file_system(directory),
        read("/proc/loadavg").trim(),
    );
    println!("command: cargo bench -p platform-tests --bench {name}\n");
}

fn file_system(directory: &Path) -> String {
    let answer = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(directory)
        .output();
    match answer {
        Ok(o) if o.status.success() => String::from_utf8_lossy(&o.stdout).trim().to_owned(),
        _ => "an unknown file system".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measurements() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        for value in [5.0, 1.0, 4.0, 2.0, 3.0] {
            samples.push(value);
        }
        assert_eq!(samples.median(), 3.0);
        assert_eq!(samples.quantile(0.0), 1.0);
        assert_eq!(samples.quantile(0.99), 5.0);
        assert_eq!(samples.quantile(1.0), 5.0);
    }
}
