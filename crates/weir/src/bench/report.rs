//! Rows of several rounds, their median, as a table for people or JSON for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::load::Measured;

/// The disk's own rates, in events a second, writing and syncing groups of one size after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// If each group held all that is in flight.
    pub(super) at_window: f64,
    /// Events in the node's own groups, on average.
    pub(super) group: usize,
    /// In groups of that size.
    pub(super) at_group: f64,
}

/// Collects rows under their names; prints the median of each figure once all rounds are through.
pub(super) struct Report {
    json: bool,
    machine: String,
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Map<String, Value>>>,
}

/// The figures, in the order of the table: member, heading, digits after the point.
const FIGURES: [(&str, &str, usize); 18] = [
    ("events_per_second", "events/s", 0),
    ("cpu_us_each", "CPU us", 2),
    ("flushes_each", "flushes", 4),
    ("p50_us", "p50 us", 0),
    ("p99_us", "p99 us", 0),
    ("resident_mib", "MiB", 1),
    ("disk_per_second", "disk/s", 0),
    ("disk_ratio", "of disk", 2),
    ("group", "group", 0),
    ("group_disk_per_second", "disk/s at group", 0),
    ("group_disk_ratio", "of disk at group", 2),
    ("bare_per_second", "bare/s", 0),
    ("bare_ratio", "of bare", 2),
    ("bare_cpu_us_each", "bare CPU", 2),
    ("kib_each", "KiB each", 2),
    ("ready_ms", "ready ms", 1),
    ("first_ack_ms", "first ack ms", 1),
    ("flushes", "flushes", 0),
];

impl Report {
    pub(super) fn new(json: bool, machine: String) -> Self {
        Self { json, machine, order: Vec::new(), rows: BTreeMap::new() }
    }

    /// A workload's figures, beside the bare server's and the disk's of the same round.
    pub(super) fn add(
        &mut self,
        name: String,
        measured: Measured,
        bare: Option<Measured>,
        disk: Option<Disk>,
    ) {
        let mut row = Map::new();
        let mut put = |name: &str, value: Option<f64>| {
            if let Some(value) = value {
                row.insert(name.into(), json!(value));
            }
        };
        put("events_per_second", Some(measured.rate()));
        put("cpu_us_each", measured.cpu_each_us());
        put("flushes_each", Some(measured.flushes as f64 / measured.events.max(1) as f64));
        put("p50_us", measured.latency.map(|latency| latency.p50));
        put("p99_us", measured.latency.map(|latency| latency.p99));
        put("max_us", measured.latency.map(|latency| latency.max));
        put("resident_mib", measured.cpu.map(|_| measured.resident_kib as f64 / 1024.0));
        if let Some(disk) = disk {
            put("disk_per_second", Some(disk.at_window));
            put("disk_ratio", Some(measured.rate() / disk.at_window));
            put("group", Some(disk.group as f64));
            put("group_disk_per_second", Some(disk.at_group));
            put("group_disk_ratio", Some(measured.rate() / disk.at_group));
        }
        if let Some(bare) = bare {
            put("bare_per_second", Some(bare.rate()));
            put("bare_ratio", Some(measured.rate() / bare.rate()));
            put("bare_cpu_us_each", bare.cpu_each_us());
            put("bare_p50_us", bare.latency.map(|latency| latency.p50));
            put("bare_p99_us", bare.latency.map(|latency| latency.p99));
        }
        self.push(name, row);
    }

    /// Memory each of many costs.
    pub(super) fn add_memory(&mut self, name: String, measured: Measured) {
        let mut row = Map::new();
        row.insert("kib_each".into(), json!(measured.resident_kib as f64 / measured.events.max(1) as f64));
        row.insert("resident_mib".into(), json!(measured.resident_kib as f64 / 1024.0));
        self.push(name, row);
    }

    /// How long a start took and what the started node holds.
    pub(super) fn add_start(
        &mut self,
        name: String,
        ready: Duration,
        first_ack: Option<Duration>,
        resident_kib: u64,
        flushes: Option<u64>,
    ) {
        let mut row = Map::new();
        row.insert("ready_ms".into(), json!(ready.as_secs_f64() * 1e3));
        if let Some(first_ack) = first_ack {
            row.insert("first_ack_ms".into(), json!(first_ack.as_secs_f64() * 1e3));
        }
        row.insert("resident_mib".into(), json!(resident_kib as f64 / 1024.0));
        if let Some(flushes) = flushes {
            row.insert("flushes".into(), json!(flushes));
        }
        self.push(name, row);
    }

    fn push(&mut self, name: String, row: Map<String, Value>) {
        if !self.rows.contains_key(&name) {
            self.order.push(name.clone());
        }
        if !self.json {
            // Rounds take minutes: show that they go on.
            eprintln!("bench: {name}: {}", cells(&row).join(", "));
        }
        self.rows.entry(name).or_default().push(row);
    }

    /// Prints the median of every figure.
    pub(super) fn print(&self) {
        if !self.json {
            println!("{}", self.machine);
        }
        for name in &self.order {
            let rows = self.rows.get(name).map_or(&[][..], Vec::as_slice);
            let median = medians(rows);
            if self.json {
                let mut row = Map::from_iter([("workload".to_owned(), json!(name))]);
                row.extend(median);
                row.insert("rounds".into(), json!(rows.len()));
                row.insert("machine".into(), json!(self.machine));
                println!("{}", Value::Object(row));
            } else {
                println!("{name}\n    {}", cells(&median).join("  "));
            }
        }
    }
}

/// Each figure with its heading.
fn cells(row: &Map<String, Value>) -> Vec<String> {
    let cell = |(member, heading, digits): &(&str, &str, usize)| {
        let value = row.get(*member)?.as_f64()?;
        Some(format!("{heading} {value:.digits$}"))
    };
    FIGURES.iter().filter_map(cell).collect()
}

fn medians(rows: &[Map<String, Value>]) -> Map<String, Value> {
    let Some(first) = rows.first() else { return Map::new() };
    let median = |name: &String| {
        let mut values: Vec<f64> = rows.iter().filter_map(|row| row.get(name)?.as_f64()).collect();
        values.sort_by(f64::total_cmp);
        Some((name.clone(), json!(values.get(values.len() / 2)?)))
    };
    first.keys().filter_map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_round_is_printed() {
        let row = |value: f64| Map::from_iter([("events_per_second".to_owned(), json!(value))]);
        let median = medians(&[row(3.0), row(1.0), row(2.0)]);
        assert_eq!(median.get("events_per_second"), Some(&json!(2.0)));
        assert_eq!(cells(&median), ["events/s 2"]);
    }
}
