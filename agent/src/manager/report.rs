//! Reports on their way to the controller: numbered, repeated until they are acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tw_model::{Phase, TaskId, TaskReport};

#[derive(Debug, Default)]
pub(super) struct Reports {
    inner: Mutex<Inner>,
    /// Woken by every new report.
    pub(super) added: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last_seq: u64,
    /// Not acknowledged yet, oldest first.
    pending: VecDeque<TaskReport>,
    /// What each task that the agent holds came to last, but for its health.
    newest: BTreeMap<TaskId, TaskReport>,
}

impl Reports {
    pub(super) fn add(&self, task: &TaskId, phase: Phase) {
        tracing::debug!(%task, ?phase, "report");
        let mut inner = self.lock();
        inner.last_seq += 1;
        let report = TaskReport {
            seq: inner.last_seq,
            task: task.clone(),
            phase,
        };
        if !matches!(report.phase, Phase::Health { .. }) {
            inner.newest.insert(task.clone(), report.clone());
        }
        inner.pending.push_back(report);
        drop(inner);
        self.added.notify_one();
    }

    pub(super) fn pending(&self) -> Vec<TaskReport> {
        self.lock().pending.iter().cloned().collect()
    }

    /// What a registration says: every task, as it is now.
    pub(super) fn newest(&self) -> Vec<TaskReport> {
        self.lock().newest.values().cloned().collect()
    }

    pub(super) fn acknowledge(&self, seq: u64) {
        self.lock().pending.retain(|report| report.seq > seq);
    }

    pub(super) fn forget(&self, task: &TaskId) {
        let mut inner = self.lock();
        inner.newest.remove(task);
        inner.pending.retain(|report| report.task != *task);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_stay_until_acknowledged_and_health_hides_nothing() {
        let reports = Reports::default();
        let task: TaskId = "web.0#1".parse().unwrap();
        reports.add(&task, Phase::Starting);
        reports.add(
            &task,
            Phase::Health {
                healthy: true,
                detail: String::new(),
                remedy: Default::default(),
            },
        );
        assert_eq!(
            reports
                .pending()
                .iter()
                .map(|report| report.seq)
                .collect::<Vec<_>>(),
            [1, 2]
        );
        reports.acknowledge(1);
        assert_eq!(reports.pending().len(), 1);
        assert_eq!(reports.newest()[0].phase, Phase::Starting);
        reports.forget(&task);
        assert!(reports.pending().is_empty() && reports.newest().is_empty());
    }
}
