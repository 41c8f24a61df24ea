//! Every policy over a family of made-up workloads: what holds on recorded traces holds there as well.

use tw_model::{Millis, Timestamp};
use tw_scheduler::replay::batch::{self, Run};
use tw_scheduler::replay::usage::{PolicyScore, Requested, Usage, UsageReport, UsageTally, replay};

const DAYS: usize = 35;
const SAMPLES_A_DAY: usize = 288;

/// How many jobs of each shape.
const JOBS: u64 = 6;

/// A seeded source of numbers in 0..1.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, with a deviation of one.
    fn noise(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// The share of the shape's height at a time, for CPU and memory.
type Shape = fn(time: Time, chance: &mut Chance) -> (f64, f64);

#[derive(Clone, Copy)]
struct Time {
    sample: usize,
    hour: f64,
    day: usize,
}

fn wave(hour: f64) -> f64 {
    0.5 - 0.5 * (hour / 24.0 * std::f64::consts::TAU).cos()
}

fn diurnal(time: Time, _: &mut Chance) -> (f64, f64) {
    (0.2 + 0.8 * wave(time.hour), 0.7 + 0.3 * wave(time.hour))
}

fn weekly(time: Time, _: &mut Chance) -> (f64, f64) {
    let workday = if time.day % 7 < 5 { 1.0 } else { 0.25 };
    (workday * (0.2 + 0.8 * wave(time.hour)), 0.6 + 0.4 * workday)
}

fn ramp(time: Time, _: &mut Chance) -> (f64, f64) {
    let grown = 0.4 + 0.6 * time.sample as f64 / (DAYS * SAMPLES_A_DAY) as f64;
    (grown, grown)
}

fn step(time: Time, _: &mut Chance) -> (f64, f64) {
    let height = if (time.day / 9).is_multiple_of(2) {
        0.4
    } else {
        1.0
    };
    (height, height)
}

/// Grows until it is restarted, every three days.
fn leak(time: Time, _: &mut Chance) -> (f64, f64) {
    let filled = (time.sample % (3 * SAMPLES_A_DAY)) as f64 / (3 * SAMPLES_A_DAY) as f64;
    (0.5, 0.2 + 0.8 * filled)
}

fn bursty(_: Time, chance: &mut Chance) -> (f64, f64) {
    let burst = chance.next() < 0.05;
    (
        if burst {
            0.6 + 0.4 * chance.next()
        } else {
            0.2
        },
        0.7,
    )
}

/// Half an hour of work a night.
fn cron(time: Time, _: &mut Chance) -> (f64, f64) {
    let works = (2.0..2.5).contains(&time.hour);
    if works { (1.0, 1.0) } else { (0.02, 0.3) }
}

const FAMILY: [(&str, Shape); 7] = [
    ("diurnal", diurnal),
    ("weekly", weekly),
    ("ramp", ramp),
    ("step", step),
    ("leak", leak),
    ("bursty", bursty),
    ("cron", cron),
];

/// A job of a shape: heights over two orders of magnitude, and a noise of 5% on every sample.
fn job(name: &str, shape: Shape, seed: u64) -> Usage {
    let mut chance = Chance((seed * 7919 + 104_729).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let cpu = 100.0 * 80_f64.powf(chance.next());
    let memory = 128.0 * 80_f64.powf(chance.next());
    let mut usage = Usage {
        name: format!("{name}-{seed}"),
        requests: vec![Requested {
            from_sample: 0,
            cpu_millicores: (3.0 * cpu) as f32,
            memory_mib: (3.0 * memory) as f32,
        }],
        ..Usage::default()
    };
    for sample in 0..DAYS * SAMPLES_A_DAY {
        let time = Time {
            sample,
            hour: (sample % SAMPLES_A_DAY) as f64 / 12.0,
            day: sample / SAMPLES_A_DAY,
        };
        let (cpu_share, memory_share) = shape(time, &mut chance);
        let mut noisy = |value: f64| (value * (1.0 + 0.05 * chance.noise())).max(0.0) as f32;
        usage.cpu_millicores.push(noisy(cpu * cpu_share));
        usage.memory_mib.push(noisy(memory * memory_share));
    }
    usage
}

fn report(name: &str, shape: Shape) -> UsageReport {
    let mut sum = UsageTally::default();
    (1..=JOBS).for_each(|seed| sum.add(&replay(&job(name, shape, seed))));
    sum.report(JOBS as usize)
}

/// The report in short, for a failed test.
fn table(report: &UsageReport) -> String {
    let line = |policy: &PolicyScore| {
        let (cpu, memory) = (&policy.cpu, &policy.memory);
        format!(
            "{:10} cpu {:.3} over {:.5} changes {:.2} | memory {:.3} ooms {:.4} free {:.4} changes {:.2}\n",
            policy.name,
            cpu.footprint,
            cpu.exceeded_samples,
            cpu.changes_per_day,
            memory.footprint,
            memory.ooms_per_day,
            memory.oom_free_days,
            memory.changes_per_day
        )
    };
    report.policies.iter().map(line).collect()
}

const VPA_P90: usize = 1;
const KRR: usize = 3;
const TWILL: usize = 5;
const ORACLE: usize = 6;

/// How often a shape cannot be followed in time by anyone: a step is not announced.
fn oom_free_days_min(name: &str) -> f64 {
    if name == "step" { 0.92 } else { 0.965 }
}

#[test]
fn bounds_hold_for_every_shape_of_work() {
    for (name, shape) in FAMILY {
        let report = report(name, shape);
        let (twill, oracle) = (&report.policies[TWILL], &report.policies[ORACLE]);
        let shown = format!("{name}\n{}", table(&report));
        assert!(twill.cpu.footprint <= 1.4 * oracle.cpu.footprint, "{shown}");
        assert!(twill.cpu.exceeded_samples <= 0.004, "{shown}");
        assert!(twill.cpu.changes_per_day <= 0.6, "{shown}");
        assert!(
            twill.memory.oom_free_days >= oom_free_days_min(name),
            "{shown}"
        );
        assert!(twill.memory.changes_per_day <= 0.55, "{shown}");
    }
}

#[test]
fn the_family_as_a_whole_is_throttled_less_than_under_the_published_methods() {
    let mut sum = UsageTally::default();
    for (name, shape) in FAMILY {
        (1..=JOBS).for_each(|seed| sum.add(&replay(&job(name, shape, seed))));
    }
    let report = sum.report(FAMILY.len() * JOBS as usize);
    let [vpa, krr, twill, oracle] =
        [VPA_P90, KRR, TWILL, ORACLE].map(|policy| &report.policies[policy]);
    let shown = table(&report);
    assert!(
        twill.cpu.exceeded_samples <= vpa.cpu.exceeded_samples / 10.0,
        "{shown}"
    );
    assert!(
        twill.memory.ooms_per_day <= krr.memory.ooms_per_day,
        "{shown}"
    );
    assert_eq!(oracle.cpu.exceeded_samples, 0.0);
    assert_eq!(oracle.memory.ooms_per_day, 0.0);
}

#[test]
fn figures_of_a_steady_job_are_what_they_must_be() {
    let usage = Usage {
        name: "steady".to_owned(),
        cpu_millicores: vec![100.0; 10 * SAMPLES_A_DAY],
        memory_mib: vec![256.0; 10 * SAMPLES_A_DAY],
        requests: vec![Requested {
            from_sample: 0,
            cpu_millicores: 1000.0,
            memory_mib: 1024.0,
        }],
    };
    let report = replay(&usage).report(1);
    assert_eq!(report.job_days, 3);
    let [request, krr, oracle] = [0, KRR, ORACLE].map(|policy| &report.policies[policy]);
    assert_eq!((request.cpu.footprint, request.cpu.slack), (1.0, 0.9));
    assert_eq!(oracle.cpu.footprint, 0.1);
    assert_eq!(oracle.memory.slack, 0.0);
    assert!((krr.memory.footprint - 0.25 * 1.15).abs() < 1e-9);
    for policy in &report.policies {
        assert_eq!(policy.cpu.changes_per_day, 0.0, "{}", policy.name);
        assert_eq!(policy.cpu.exceeded_samples, 0.0, "{}", policy.name);
    }
}

#[test]
fn an_oom_is_a_rising_edge_and_counts_after_the_warm_up() {
    let mut memory = vec![100.0; 9 * SAMPLES_A_DAY];
    // One edge that lasts, in the week of learning; two edges on the last day.
    memory[3 * SAMPLES_A_DAY..][..5].fill(900.0);
    memory[8 * SAMPLES_A_DAY + 10..][..3].fill(9000.0);
    memory[8 * SAMPLES_A_DAY + 20..][..1].fill(19_000.0);
    let usage = Usage {
        name: "spiky".to_owned(),
        cpu_millicores: vec![100.0; 9 * SAMPLES_A_DAY],
        memory_mib: memory,
        requests: vec![Requested {
            from_sample: 0,
            cpu_millicores: 1000.0,
            memory_mib: 20_000.0,
        }],
    };
    let report = replay(&usage).report(1);
    let krr = &report.policies[KRR].memory;
    assert_eq!((krr.ooms_per_day, krr.oom_free_days), (1.0, 0.5));
}

#[test]
fn use_above_the_request_is_read_as_the_request() {
    let usage = Usage {
        name: "hot".to_owned(),
        cpu_millicores: vec![1050.0; 10 * SAMPLES_A_DAY],
        memory_mib: vec![100.0; 10 * SAMPLES_A_DAY],
        requests: vec![Requested {
            from_sample: 0,
            cpu_millicores: 1000.0,
            memory_mib: 1024.0,
        }],
    };
    let report = replay(&usage).report(1);
    assert_eq!(report.policies[0].cpu.exceeded_samples, 0.0);
    assert_eq!(report.policies[TWILL].cpu.footprint, 1.0);
}

fn run(task: &str, minute: u64, peak_gib: f64) -> Run {
    Run {
        task: task.to_owned(),
        submitted: Timestamp(0).plus(Millis::minutes(minute)),
        took: Millis::hours(1),
        request_bytes: 8.0 * GIB,
        peak_bytes: peak_gib * GIB,
    }
}

const GIB: f64 = (1_u64 << 30) as f64;

#[test]
fn batch_runs_begin_with_their_request_and_then_with_what_was_learned() {
    let runs: Vec<Run> = (0..4).map(|minute| run("align", minute, 1.0)).collect();
    let report = batch::replay(&runs);
    let [request, twill, oracle] = [0, TWILL, ORACLE].map(|policy| &report.policies[policy]);
    assert_eq!(request.waste_gib_hours, 28.0);
    assert_eq!(oracle.waste_gib_hours, 0.0);
    // Three runs at the request; then the peak, half of it and its root over √3, and 32 MiB.
    let fourth = 1.5 / 3_f64.sqrt() + 1.0 / 32.0;
    assert!(
        (twill.waste_gib_hours - (21.0 + fourth)).abs() < 1e-6,
        "{report:?}"
    );
    assert_eq!(twill.failures_per_1000, 0.0);
}

#[test]
fn a_failed_batch_run_wastes_its_limit_and_runs_again_with_its_request() {
    let mut runs: Vec<Run> = (0..3).map(|minute| run("align", minute, 1.0)).collect();
    runs.push(run("align", 3, 6.0));
    let report = batch::replay(&runs);
    let twill = &report.policies[TWILL];
    let limit = 1.0 + 1.5 / 3_f64.sqrt() + 1.0 / 32.0;
    assert!(
        (twill.waste_gib_hours - (21.0 + limit + 2.0)).abs() < 1e-6,
        "{report:?}"
    );
    assert_eq!(twill.failures_per_1000, 250.0);
}
