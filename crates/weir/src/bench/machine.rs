//! What the machine itself gives at the moment of a measurement: the disk's own synced rate, a process's CPU time
//! and memory, the disk's flush count. A figure without these beside it says little.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// CPU time and memory of a process, from /proc.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time, in the kernel's ticks of 10 ms.
    pub(super) cpu: Duration,
    /// Resident set, in KiB.
    pub(super) resident_kib: u64,
}

/// Reads a process's usage; zeros where /proc does not tell.
pub(super) fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold spaces: count fields from behind it.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident_kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|text| text.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap_or(0);
    Usage { cpu: Duration::from_millis((field(11) + field(12)) * 10), resident_kib }
}

/// Flushes all disks have completed since boot.
pub(super) fn flushes() -> u64 {
    let stats = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    stats.lines().filter_map(|line| line.split_whitespace().nth(18)?.parse::<u64>().ok()).sum()
}

/// Events a second the disk takes when each group of `group` events of `size` bytes is written and synced before
/// the next, as a log on a fresh file of its own would.
pub(super) fn disk_rate(folder: &Path, group: usize, size: usize, time: Duration) -> io::Result<f64> {
    let path = folder.join("bench-disk-rate");
    let mut file = File::create(&path)?;
    let block = vec![b'x'; group * size];
    let start = Instant::now();
    let mut groups = 0u64;
    while start.elapsed() < time {
        file.write_all(&block)?;
        file.sync_data()?;
        groups += 1;
    }
    let rate = (groups * group as u64) as f64 / start.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(&path)?;
    Ok(rate)
}

/// What kind of machine this is, for the head of a report.
pub(super) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |text| text.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    format!("{cores} x {model}, Linux {}, load {load}", kernel.trim())
}
