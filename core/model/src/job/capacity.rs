//! How much a job may use: resources, learned limits, the number of tasks.

use crate::*;

spec! {
    /// What one task may use. A machine gives out no more than it has.
    pub struct Resources {
        /// Cores a task can count on; idle cores may be borrowed. A tenth of a core is enough for what mostly waits.
        /// Example: `cpu=0.5`
        cpu as "cpu_millicores": Cores = Cores::milli(100) => in_place;
        /// The most memory a task may hold; a task that needs more is restarted. Small, so that a job that never asked
        /// cannot crowd out others.
        /// Example: `memory=256 * MiB`
        memory as "memory_bytes": Bytes = Bytes::mib(64) => in_place;
        /// Scratch space kept free for the task; a task that writes more is refused it where the machine bounds disks, and
        /// restarted elsewhere.
        /// Example: `disk=2 * GiB`
        disk as "disk_bytes": Bytes = Bytes::gib(1) => by(disk_effect);
        /// How many processes and threads a task may have. It stops a fork bomb long before it hurts the machine.
        /// Example: `pids=2048`
        pids: u32 = 512 => in_place;
        /// Network bandwidth kept free for the task on its machine, in bytes per second; 0 keeps none.
        /// Example: `bandwidth=10 * MiB`
        bandwidth as "bandwidth_bytes_per_second": Bytes = Bytes(0) => in_place;
        /// Whether the task gets its cores for itself, which needs a whole number of them: no neighbour shares their
        /// caches, and none can be borrowed either.
        /// Example: `whole_cores=True`
        whole_cores: bool = false => in_place;
        /// Swap beyond the memory, where the machine can limit it. None by default: a task that swaps is slow long
        /// before anyone notices why.
        /// Example: `swap=128 * MiB`
        swap as "swap_bytes": Bytes = Bytes(0) => in_place;
        /// The task's share of the disk's time against its neighbours, from 1 to 10000, where the machine can share it.
        /// Example: `io_weight=200`
        io_weight: u32 = 100 => in_place;
    }
    check check_resources;
}

choice! {
    /// What is done with learned limits.
    pub enum LimitMode {
        /// Nothing is learned; the limits are the request.
        Off = "off",
        /// Use is recorded and shown.
        Observe = "observe",
        /// As `observe`, and better settings are suggested.
        Suggest = "suggest",
        /// Running tasks get the learned limits.
        Auto = "auto",
    }
}

spec! {
    /// How the limits of running tasks follow their measured use.
    pub struct Limits {
        /// Whether use is recorded, and whether running tasks get the limits learned from it. Observing costs next to
        /// nothing and changes nothing.
        /// Example: `mode="auto"`
        mode: LimitMode = LimitMode::Observe => in_place;
        /// The learned CPU limit never falls below this.
        /// Example: `cpu_min=0.1`
        cpu_min as "cpu_min_millicores": Cores = Cores::milli(10) => in_place;
        /// The learned CPU limit never rises above this; `None` means the request.
        /// Example: `cpu_max=2`
        cpu_max as "cpu_max_millicores": Option<Cores> = None => in_place;
        /// The learned memory limit never falls below this.
        /// Example: `memory_min=64 * MiB`
        memory_min as "memory_min_bytes": Bytes = Bytes::mib(16) => in_place;
        /// The learned memory limit never rises above this; `None` means the request.
        /// Example: `memory_max=2 * GiB`
        memory_max as "memory_max_bytes": Option<Bytes> = None => in_place;
        /// How much history is needed before limits change or are suggested. A day holds one peak of a daily pattern.
        /// Example: `history_min=2 * DAY`
        history_min as "history_min_ms": Millis = Millis::hours(24) => in_place;
        /// How far back the limits look. A week holds a weekend.
        /// Example: `window=14 * DAY`
        window as "window_ms": Millis = Millis::hours(168) => in_place;
    }
    check check_limits;
}

spec! {
    /// Lets the number of tasks follow the load: their CPU, or a number that a health check reads. `replicas` is where it
    /// begins. More tasks come at once, fewer one after the other.
    pub struct Autoscale {
        /// There are never fewer tasks than this, and never fewer than one.
        /// Example: `min=2`
        min: u32 = 1 => none;
        /// There are never more tasks than this.
        /// Example: `max=20`
        max: u32 => none;
        /// The share of its requested CPU, in percent, that a task should use; the rest is room for a burst while new
        /// tasks start.
        /// Example: `cpu_percent=50`
        cpu_percent: u32 = 60 => none;
        /// Follows this number instead of CPU: the metric of one of the job's `MetricCheck`s, or its rise where the check has
        /// `over`.
        /// Example: `metric="requests_total", each=100`
        metric: Option<String> = None => none;
        /// How much of the metric each task should have.
        /// Example: `each=100, metric="requests_total"`
        each as "each_millionths": Option<Number> = None => none;
        /// How long the load must have been lower before tasks are taken away.
        /// Example: `down_after=10 * MINUTE`
        down_after as "down_after_ms": Millis = Millis::minutes(5) => none;
    }
    check check_autoscale;
}

impl Limits {
    /// The bounds of the learned CPU limit, lowest first.
    pub fn cpu_bounds(&self, request: Cores) -> (Cores, Cores) {
        let highest = self.cpu_max.unwrap_or(request);
        (self.cpu_min.min(highest), highest)
    }

    /// The bounds of the learned memory limit, lowest first.
    pub fn memory_bounds(&self, request: Bytes) -> (Bytes, Bytes) {
        let highest = self.memory_max.unwrap_or(request);
        (self.memory_min.min(highest), highest)
    }
}

impl Autoscale {
    /// A number of tasks within the bounds.
    pub fn within(&self, tasks: u32) -> u32 {
        tasks.clamp(self.min.max(1), self.max.max(1))
    }
}

/// Less scratch space than before cannot be taken from a running task.
fn disk_effect(old: &Bytes, new: &Bytes) -> Effect {
    match new < old {
        true => Effect::Restart,
        false => Effect::InPlace,
    }
}

/// The smallest memory limit under which a program can start at all.
const MEMORY_MIN: Bytes = Bytes::mib(4);
/// More than any machine has: beyond these, a unit was taken for another.
const MEMORY_MAX: Bytes = Bytes::gib(64 * 1024);
const CORES_MAX: Cores = Cores::milli(1024 * 1000);

fn check_resources(resources: &Resources, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if resources.memory < MEMORY_MIN {
        let at = at.field("memory_bytes");
        let hint = Some("sizes are in bytes: write 256 * MiB".to_owned());
        return decoder.bad_value(
            &at,
            format!(
                "{} is too little to start a program; {MEMORY_MIN} is the least",
                resources.memory
            ),
            hint,
        );
    }
    if resources.memory > MEMORY_MAX {
        let message = format!("{} is more than any machine has", resources.memory);
        let hint = "sizes are in bytes, and one unit is enough: write 256 * MiB".to_owned();
        return decoder.bad_value(&at.field("memory_bytes"), message, Some(hint));
    }
    if resources.cpu > CORES_MAX {
        return decoder.bad_value(
            &at.field("cpu_millicores"),
            format!("no machine has {} cores", resources.cpu),
            Some(cores_meant(resources.cpu)),
        );
    }
    if resources.cpu == Cores::ZERO {
        return decoder.bad_value(
            &at.field("cpu_millicores"),
            "a task needs at least 0.001 cores".to_owned(),
            None,
        );
    }
    if resources.whole_cores && !resources.cpu.0.is_multiple_of(1000) {
        return decoder.bad_value(
            &at.field("cpu_millicores"),
            format!("{} is not a whole number of cores", resources.cpu),
            Some("with whole_cores=True, cpu must be 1, 2, …".to_owned()),
        );
    }
    if !(1..=10_000).contains(&resources.io_weight) {
        return decoder.bad_value(
            &at.field("io_weight"),
            format!("{} is not from 1 to 10000", resources.io_weight),
            Some("100 is what every task has by default".to_owned()),
        );
    }
    if resources.pids == 0 {
        return decoder.bad_value(
            &at.field("pids"),
            "a task needs at least one process".to_owned(),
            None,
        );
    }
    Some(())
}

/// What an author meant who gave a number of cores that no machine has: thousandths, or millionths.
fn cores_meant(written: Cores) -> String {
    let thousandths = Cores(written.0 / 1000);
    let millionths = Cores(written.0 / 1_000_000);
    match thousandths <= Cores::milli(64_000) {
        true => format!("cpu is in cores: {written} millicores are cpu={thousandths}"),
        false => format!("cpu is in cores: {written} microcores are cpu={millionths}"),
    }
}

fn check_limits(limits: &Limits, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if limits
        .memory_max
        .is_some_and(|most| most < limits.memory_min)
    {
        let message = format!("memory_max is below memory_min ({})", limits.memory_min);
        return decoder.bad_value(&at.field("memory_max_bytes"), message, None);
    }
    if limits.cpu_max.is_some_and(|most| most < limits.cpu_min) {
        let message = format!("cpu_max is below cpu_min ({})", limits.cpu_min);
        return decoder.bad_value(&at.field("cpu_max_millicores"), message, None);
    }
    Some(())
}

fn check_autoscale(autoscale: &Autoscale, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if autoscale.max < autoscale.min.max(1) {
        let message = format!("max is {}, below min ({})", autoscale.max, autoscale.min);
        return decoder.bad_value(&at.field("max"), message, None);
    }
    if !(1..=100).contains(&autoscale.cpu_percent) {
        let message = format!(
            "{} is not a percentage from 1 to 100",
            autoscale.cpu_percent
        );
        return decoder.bad_value(&at.field("cpu_percent"), message, None);
    }
    let each = autoscale.each.map(|each| each.0);
    if autoscale.metric.is_some() != each.is_some() || each == Some(0) {
        return decoder.bad_value(
            &at.field("each_millionths"),
            "a metric to follow needs how much of it each task should have, and more than 0"
                .to_owned(),
            Some("set metric=… and each=… together, or neither to follow CPU".to_owned()),
        );
    }
    Some(())
}
