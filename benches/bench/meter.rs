//! Resource usage of a process, from /proc, and statistics over many measurements.

use std::fs;

/// What a process has used so far, over all its live threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time.
    pub(crate) cpu_seconds: f64,
    /// Voluntary and involuntary context switches.
    pub(crate) switches: u64,
    pub(crate) peak_rss_kib: u64,
}

impl Usage {
    /// Reads the usage. `None` once the process is gone. A zombie still reports everything except its memory.
    pub(crate) fn of(pid: u32) -> Option<Usage> {
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            // In nanoseconds; `stat` counts in ticks of 10 ms.
            let schedstat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos: u64 = schedstat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            usage.cpu_seconds += nanos as f64 / 1e9;
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            usage.switches +=
                field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:");
        }
        usage.peak_rss_kib = field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:");
        Some(usage)
    }

    /// The usage since `earlier`. The peak is that of the whole process.
    pub(crate) fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            switches: self.switches - earlier.switches,
            peak_rss_kib: self.peak_rss_kib,
        }
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Whether a child has ended, even if nobody has waited for it.
pub(crate) fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |status| status.contains("State:\tZ"))
}

/// The median; NaN if there are no values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&mut values.into_iter().collect::<Vec<_>>(), 0.5)
}

/// The value that `share` of the values do not exceed; NaN if there are none.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 - 1.0) * share).round();
    values.get(index as usize).copied().unwrap_or(f64::NAN)
}
