//! Whether the machine is short of memory.

/// Everything on the machine waits for memory for more than this part of the last minute: `systemd-oomd` begins to act
/// at 60, well past the point where another task should come.
const STALLED_PERCENT_MAX: f64 = 10.0;

/// Less than this part of the memory can be had without taking it from someone.
const AVAILABLE_PART_MIN: f64 = 0.05;

/// Whether the machine is short of memory, as far as its kernel tells.
pub(super) fn is_short_of_memory() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    is_short(&read("/proc/pressure/memory"), &read("/proc/meminfo"))
}

fn is_short(pressure: &str, meminfo: &str) -> bool {
    let stalled = pressure
        .lines()
        .find_map(|line| line.strip_prefix("full "))
        .and_then(|rest| {
            rest.split_whitespace()
                .find_map(|word| word.strip_prefix("avg60="))
        })
        .and_then(|number| number.parse::<f64>().ok());
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let available = field("MemAvailable:")
        .zip(field("MemTotal:"))
        .map(|(available, total)| available / total.max(1.0));
    stalled.is_some_and(|percent| percent > STALLED_PERCENT_MAX)
        || available.is_some_and(|part| part < AVAILABLE_PART_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: &str = "some avg10=30.00 avg60=20.00 avg300=9.00 total=1\nfull avg10=0.00 avg60=2.50 avg300=0.00 total=1\n";

    #[test]
    fn memory_is_short_where_all_wait_for_it_or_little_is_left() {
        let memory = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:   400 kB\n";
        assert!(!is_short(CALM, memory));
        assert!(is_short(&CALM.replace("2.50", "12.50"), memory));
        assert!(is_short(CALM, &memory.replace("400", "40")));
        assert!(!is_short("", ""), "a kernel that does not tell");
    }
}
