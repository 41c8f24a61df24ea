//! What jobs used, kept in a history of a fixed size. Losing a sample is no harm; waiting for one would be.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tw_model::{JobId, TaskId, TaskUsage, Timestamp};
use tw_store::history::{History, HistoryOptions, Sample};

use crate::error::RunError;

/// How many batches may wait for the disk before new ones are dropped.
const BATCHES_MAX: usize = 256;

/// The writing end of the history.
pub(crate) struct UsageLog {
    /// None once it is dropped.
    batches: Option<SyncSender<Batch>>,
    writer: Option<JoinHandle<()>>,
}

struct Batch {
    at: Timestamp,
    samples: Vec<TaskUsage>,
}

impl UsageLog {
    /// Opens the history and starts its writer, which ends with this.
    pub(crate) fn open(path: &Path) -> Result<UsageLog, RunError> {
        let history = History::open(path, HistoryOptions::default())?;
        let (batches, inbox) = sync_channel(BATCHES_MAX);
        let writer = std::thread::Builder::new()
            .name("usage-writer".into())
            .spawn(move || write(&history, &inbox))
            .map_err(RunError::io("starting the writer of", path))?;
        Ok(UsageLog {
            batches: Some(batches),
            writer: Some(writer),
        })
    }

    /// Notes what tasks used, if the disk keeps up.
    pub(crate) fn note(&self, at: Timestamp, samples: Vec<TaskUsage>) {
        if samples.is_empty() {
            return;
        }
        let Some(batches) = &self.batches else {
            return;
        };
        if let Err(TrySendError::Full(batch)) = batches.try_send(Batch { at, samples }) {
            tracing::warn!(
                samples = batch.samples.len(),
                "usage is not kept: the disk is behind"
            );
        }
    }
}

impl Drop for UsageLog {
    /// Waits until what was noted is written and the file is closed.
    fn drop(&mut self) {
        self.batches = None;
        if self
            .writer
            .take()
            .is_some_and(|writer| writer.join().is_err())
        {
            tracing::error!("the writer of the usage history had panicked");
        }
    }
}

fn write(history: &History, inbox: &Receiver<Batch>) {
    let mut ooms = HashMap::new();
    while let Ok(batch) = inbox.recv() {
        let samples: Vec<Sample> = batch
            .samples
            .iter()
            .map(|usage| sample(batch.at, usage, &mut ooms))
            .collect();
        if let Err(cause) = history.record(&samples) {
            tracing::warn!(%cause, "usage is not kept");
        }
        if ooms.len() > TASKS_REMEMBERED_MAX {
            ooms.clear();
        }
    }
}

/// How many tasks the writer remembers the kills of.
const TASKS_REMEMBERED_MAX: usize = 100_000;

fn sample(at: Timestamp, usage: &TaskUsage, ooms: &mut HashMap<TaskId, u64>) -> Sample {
    let before = ooms.insert(usage.task.clone(), usage.ooms);
    Sample {
        series: series(&usage.task.job),
        source: usage.task.to_string(),
        // Heartbeats are answered once and samples are not repeated: the moment is number enough.
        seq: at.0.unsigned_abs(),
        at_us: at.0,
        cpu_millicores: usage.cpu.0,
        memory_bytes: usage.memory.0,
        oom_kills: usage.ooms.saturating_sub(before.unwrap_or(usage.ooms)),
        throttled_us: 0,
    }
}

/// The key of a job's history.
fn series(job: &JobId) -> String {
    format!("{}/{}", job.namespace, job.name)
}
