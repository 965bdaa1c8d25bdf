//! What a process has used.

use std::fs;
use std::time::Duration;

/// The CPU that the process has used so far, in ticks of 10 ms: `utime` and `stime` of proc(5).
pub fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // Counted after the name, which is in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap_or(0)).sum();
    Duration::from_millis(ticks * 10)
}
