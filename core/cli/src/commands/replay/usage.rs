//! Traces of services: a sample of five minutes a row, job after job.

use std::collections::HashSet;
use std::io::BufRead;

use tw_scheduler::replay::usage::{Requested, Usage};

use super::row::{Broken, Columns, Row, each};

const JOB: usize = 0;
const SAMPLE: usize = 1;
const CPU: usize = 2;
const MEMORY: usize = 3;
const CPU_REQUEST: usize = 4;
const MEMORY_REQUEST: usize = 5;

/// A million cores, or as many TiB: more is a mistake.
const VALUE_MAX: f64 = 1e9;

/// A hundred years of samples.
const SAMPLE_MAX: f64 = 1e7;

/// A longer gap than four weeks is not filled: nothing learned before it holds after it.
const GAP_MAX: usize = 28 * 288;

/// Reads the jobs. A gap is filled with the sample before it, as the published traces were.
pub(super) fn read(
    lines: impl BufRead,
    columns: &Columns,
) -> std::io::Result<(Vec<Usage>, Broken)> {
    let mut reader = Reader::default();
    let broken = each(lines, columns, |row| reader.take(row))?;
    Ok((reader.jobs, broken))
}

#[derive(Default)]
struct Reader {
    jobs: Vec<Usage>,
    names: HashSet<String>,
    /// The number of the sample that comes next.
    next: usize,
}

impl Reader {
    fn take(&mut self, row: &Row<'_>) -> Result<(), String> {
        let name = std::str::from_utf8(row.text(JOB)).map_err(|_| "job: not UTF-8".to_owned())?;
        let sample = row.number(SAMPLE, "sample", SAMPLE_MAX)? as usize;
        let cpu = row.number(CPU, "cpu_millicores", VALUE_MAX)? as f32;
        let memory = row.number(MEMORY, "memory_mib", VALUE_MAX)? as f32;
        let cpu_request = row.number(CPU_REQUEST, "cpu_request_millicores", VALUE_MAX)? as f32;
        let memory_request = row.number(MEMORY_REQUEST, "memory_request_mib", VALUE_MAX)? as f32;
        if cpu_request <= 0.0 || memory_request <= 0.0 {
            return Err("the requests must be above 0".to_owned());
        }
        self.enter(name, sample)?;
        let usage = self.jobs.last_mut().expect("a job was entered");
        for _ in self.next..sample {
            usage
                .cpu_millicores
                .extend(usage.cpu_millicores.last().copied());
            usage.memory_mib.extend(usage.memory_mib.last().copied());
        }
        let requested = Requested {
            from_sample: usage.cpu_millicores.len(),
            cpu_millicores: cpu_request,
            memory_mib: memory_request,
        };
        let same = usage.requests.last().is_some_and(|last| {
            (last.cpu_millicores, last.memory_mib) == (cpu_request, memory_request)
        });
        if !same {
            usage.requests.push(requested);
        }
        usage.cpu_millicores.push(cpu);
        usage.memory_mib.push(memory);
        self.next = sample + 1;
        Ok(())
    }

    /// Begins a job where its first sample comes, and refuses samples that are out of order.
    fn enter(&mut self, name: &str, sample: usize) -> Result<(), String> {
        if self.jobs.last().is_some_and(|job| job.name == name) {
            if sample < self.next {
                return Err(format!(
                    "sample {sample} of job {name} comes after sample {}: samples must rise",
                    self.next - 1
                ));
            }
            if sample - self.next > GAP_MAX {
                return Err(format!(
                    "job {name} has no sample between {} and {sample}; gaps up to {GAP_MAX} samples are filled",
                    self.next - 1
                ));
            }
            return Ok(());
        }
        if name.is_empty() {
            return Err("job: expected a name, found nothing".to_owned());
        }
        if !self.names.insert(name.to_owned()) {
            return Err(format!(
                "job {name} had ended before: all rows of a job must follow each other"
            ));
        }
        self.jobs.push(Usage {
            name: name.to_owned(),
            ..Usage::default()
        });
        self.next = sample;
        Ok(())
    }
}
