//! Replays the use of services: hourly decisions over samples of five minutes.

use serde::Serialize;
use tw_model::{Bytes, Cores, Millis, Timestamp};

use super::POLICIES;
use super::baseline::{Autopilot, Krr, Oracle, Vpa};
use super::score::{CpuScore, MemoryScore, Tally};
use crate::limits::{Learner, LimitPolicy, LimitSet};

const SAMPLE: Millis = Millis::minutes(5);
const SAMPLES_AN_HOUR: usize = 12;
const SAMPLES_A_DAY: usize = 24 * SAMPLES_AN_HOUR;

/// The days in which policies learn and nothing counts.
pub const WARM_UP_DAYS: usize = 7;

/// A job-day counts when 95% of its samples do not all stay below both.
const ACTIVE_MILLICORES: f32 = 25.0;
const ACTIVE_MIB: f32 = 64.0;

const MIB: f64 = (1_u64 << 20) as f64;

/// What one job used: a sample every five minutes, without gaps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    pub name: String,
    pub cpu_millicores: Vec<f32>,
    pub memory_mib: Vec<f32>,
    /// What was requested, from which sample on; the first from 0 on.
    pub requests: Vec<Requested>,
}

/// A request, and the sample from which on it held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Requested {
    pub from_sample: usize,
    pub cpu_millicores: f32,
    pub memory_mib: f32,
}

/// The tallies of one job or of many, a policy each in the order of [`POLICIES`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageTally {
    policies: [(Tally, Tally); POLICIES.len()],
}

/// What `tw replay` says of a usage trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageReport {
    pub version: u32,
    pub jobs: usize,
    /// The active job-days that were counted.
    pub job_days: u64,
    pub policies: Vec<PolicyScore>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyScore {
    pub name: &'static str,
    pub cpu: CpuScore,
    pub memory: MemoryScore,
}

impl UsageTally {
    pub fn add(&mut self, other: &UsageTally) {
        for (sum, one) in self.policies.iter_mut().zip(&other.policies) {
            sum.0.add(&one.0);
            sum.1.add(&one.1);
        }
    }

    pub fn report(&self, jobs: usize) -> UsageReport {
        let score = |(name, (cpu, memory)): (&&'static str, &(Tally, Tally))| PolicyScore {
            name,
            cpu: cpu.into(),
            memory: memory.into(),
        };
        UsageReport {
            version: 1,
            jobs,
            job_days: self.policies[0].0.days,
            policies: POLICIES.iter().zip(&self.policies).map(score).collect(),
        }
    }
}

/// Replays all policies over one job.
pub fn replay(usage: &Usage) -> UsageTally {
    let job = Job::new(usage);
    let twill = job.twill();
    let cpu_request: Vec<f64> = job.each_hour(|hour| job.request(hour).0);
    let memory_request: Vec<f64> = job.each_hour(|hour| job.request(hour).1);
    let cpu = [
        cpu_request.clone(),
        job.limits(&job.cpu, &cpu_request, &mut Vpa::cpu(0.90)),
        job.limits(&job.cpu, &cpu_request, &mut Vpa::cpu(0.99)),
        job.limits(&job.cpu, &cpu_request, &mut Krr::cpu()),
        job.limits(&job.cpu, &cpu_request, &mut Autopilot::cpu()),
        twill.0,
        job.limits(&job.cpu, &cpu_request, &mut Oracle::new(&job.cpu)),
    ];
    let memory = [
        memory_request.clone(),
        job.limits(&job.memory, &memory_request, &mut Vpa::memory(0.90)),
        job.limits(&job.memory, &memory_request, &mut Vpa::memory(0.99)),
        job.limits(&job.memory, &memory_request, &mut Krr::memory()),
        job.limits(&job.memory, &memory_request, &mut Autopilot::memory()),
        twill.1,
        job.limits(&job.memory, &memory_request, &mut Oracle::new(&job.memory)),
    ];
    let mut tally = UsageTally::default();
    for (sums, (cpu, memory)) in tally.policies.iter_mut().zip(cpu.iter().zip(&memory)) {
        sums.0 = job.tally(&job.cpu, cpu, &cpu_request);
        sums.1 = job.tally(&job.memory, memory, &memory_request);
    }
    tally
}

/// A way to set limits that knows the past only (but for the oracle).
pub(super) trait Rule {
    /// Takes in one hour's samples, and the limit that held.
    fn observe(&mut self, hour: usize, used: &[f32], limit: f64);

    /// The limit for the hour; none before anything was seen.
    fn decide(&mut self, hour: usize) -> Option<f64>;
}

/// A job's use within its request, and which of its days count.
struct Job<'a> {
    requests: &'a [Requested],
    cpu: Vec<f32>,
    memory: Vec<f32>,
    active: Vec<bool>,
}

impl<'a> Job<'a> {
    fn new(usage: &'a Usage) -> Job<'a> {
        let mut job = Job {
            requests: &usage.requests,
            cpu: usage.cpu_millicores.clone(),
            memory: usage.memory_mib.clone(),
            active: Vec::new(),
        };
        for (index, request) in usage.requests.iter().enumerate() {
            let until = usage
                .requests
                .get(index + 1)
                .map_or(job.cpu.len(), |next| next.from_sample);
            let held = request.from_sample..until;
            job.cpu[held.clone()]
                .iter_mut()
                .for_each(|used| *used = used.min(request.cpu_millicores));
            job.memory[held]
                .iter_mut()
                .for_each(|used| *used = used.min(request.memory_mib));
        }
        job.active = job.active_days();
        job
    }

    fn active_days(&self) -> Vec<bool> {
        let days = self
            .cpu
            .chunks_exact(SAMPLES_A_DAY)
            .zip(self.memory.chunks_exact(SAMPLES_A_DAY));
        let active = |(day, (cpu, memory)): (usize, (&[f32], &[f32]))| {
            day >= WARM_UP_DAYS
                && (percentile_95(cpu) >= ACTIVE_MILLICORES || percentile_95(memory) >= ACTIVE_MIB)
        };
        days.enumerate().map(active).collect()
    }

    /// The request of an hour: that of its first sample, in millicores and MiB.
    fn request(&self, hour: usize) -> (f64, f64) {
        let sample = hour * SAMPLES_AN_HOUR;
        let held = self
            .requests
            .partition_point(|request| request.from_sample <= sample);
        let request = &self.requests[held.saturating_sub(1)];
        (
            f64::from(request.cpu_millicores),
            f64::from(request.memory_mib),
        )
    }

    fn each_hour(&self, value: impl FnMut(usize) -> f64) -> Vec<f64> {
        let hours = self.cpu.len() / SAMPLES_AN_HOUR;
        (0..hours).map(value).collect()
    }

    /// The limit of each hour under a rule.
    fn limits(&self, used: &[f32], request: &[f64], rule: &mut impl Rule) -> Vec<f64> {
        let mut hours = used.chunks_exact(SAMPLES_AN_HOUR);
        self.each_hour(|hour| {
            let limit = rule.decide(hour).unwrap_or(request[hour]);
            if let Some(used) = hours.next() {
                rule.observe(hour, used, limit);
            }
            limit
        })
    }

    /// The limits of each hour under the policy that agents run: millicores and MiB.
    fn twill(&self) -> (Vec<f64>, Vec<f64>) {
        let mut learner = Learner::new(LimitPolicy::for_request(self.request_set(0)).horizon());
        let mut current = self.request_set(0);
        let (mut cpu, mut memory) = (Vec::new(), Vec::new());
        let samples = self
            .cpu
            .chunks_exact(SAMPLES_AN_HOUR)
            .zip(self.memory.chunks_exact(SAMPLES_AN_HOUR));
        for (hour, (cpu_used, memory_used)) in samples.enumerate() {
            let policy = LimitPolicy::for_request(self.request_set(hour));
            let now = moment(hour * SAMPLES_AN_HOUR);
            current = policy
                .limits(&mut learner, current, now)
                .unwrap_or(self.request_set(hour));
            cpu.push(current.cpu.0 as f64);
            memory.push(current.memory.0 as f64 / MIB);
            for (index, (cpu, memory)) in cpu_used.iter().zip(memory_used).enumerate() {
                let at = moment(hour * SAMPLES_AN_HOUR + index);
                learner.observe_sample(at, SAMPLE, f64::from(*cpu), f64::from(*memory) * MIB);
            }
        }
        (cpu, memory)
    }

    fn request_set(&self, hour: usize) -> LimitSet {
        let (cpu, memory) = self.request(hour);
        LimitSet {
            cpu: Cores(cpu.ceil() as u64),
            memory: Bytes((memory * MIB).ceil() as u64),
        }
    }

    fn tally(&self, used: &[f32], limits: &[f64], request: &[f64]) -> Tally {
        let mut sum = Tally::default();
        let (mut over, mut before) = (false, None);
        for (day, active) in self.active.iter().enumerate() {
            let mut tally = Tally::default();
            for hour in 24 * day..24 * (day + 1) {
                let samples = &used[hour * SAMPLES_AN_HOUR..(hour + 1) * SAMPLES_AN_HOUR];
                tally.changes += u64::from(before.is_some_and(|before| before != limits[hour]));
                before = Some(limits[hour]);
                over = tally.hour(samples, limits[hour], request[hour], over);
            }
            tally.close_day();
            if *active {
                sum.add(&tally);
            }
        }
        sum
    }
}

fn moment(sample: usize) -> Timestamp {
    Timestamp(0).plus(Millis(SAMPLE.0 * sample as u64))
}

/// The smallest sample that 95% of a day's do not exceed.
fn percentile_95(day: &[f32]) -> f32 {
    let mut day = day.to_vec();
    let place = (day.len() * 95).div_ceil(100).saturating_sub(1);
    *day.select_nth_unstable_by(place, f32::total_cmp).1
}
