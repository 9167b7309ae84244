//! CPU and memory that processes use, read from /proc; and percentiles.

/// CPU seconds, user and system, that a process has used without its children; none if it has ended.
pub fn cpu_seconds(pid: &str) -> Option<f64> {
    Some(stat_seconds(pid, 11)? + system_seconds(pid)?)
}

/// CPU seconds of those that the kernel has used for a process, such as for its files; none if it has ended.
pub fn system_seconds(pid: &str) -> Option<f64> {
    stat_seconds(pid, 12)
}

/// CPU seconds, user and system, of a process's children that have ended; none if it has ended itself.
pub fn children_seconds(pid: &str) -> Option<f64> {
    Some(stat_seconds(pid, 13)? + stat_seconds(pid, 14)?)
}

/// Seconds from a field of `/proc/<pid>/stat` that counts ticks, numbered after the process's state.
fn stat_seconds(pid: &str, field: usize) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(field)?.parse().ok()?;
    Some(ticks as f64 / 100.0)
}

/// Peak resident memory of a process, in MiB; none if it has ended.
pub fn peak_memory_mib(pid: &str) -> Option<u64> {
    status_mib(pid, "VmHWM:")
}

/// Resident memory of a process, in MiB; none if it has ended.
pub fn memory_mib(pid: &str) -> Option<u64> {
    status_mib(pid, "VmRSS:")
}

fn status_mib(pid: &str, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// The value at the quantile `part`, from 0 to 1, of ascending values, by the nearest rank; NaN if there are none.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * part).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
