//! The differences between two specs, from the specs alone.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Effect, FieldPath, JobSpec, Rule, SpecType, masked};

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// As in the JSON of `tw eval`.
    pub path: String,
    /// Null when the value was not there.
    pub old: Value,
    /// Null when the value is gone.
    pub new: Value,
    pub effect: Effect,
    /// Where it comes from, for those who have looked at the sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// The changed file nearest to a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub file: String,
    /// In the new file; none if unknown.
    pub line: Option<u32>,
    /// The newest commit between the two sides that touched the file; none if it is not committed.
    pub commit: Option<String>,
}

/// A changed file that specs import or read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedModule {
    pub file: String,
    /// How many `.tw` files import or read it, transitively.
    pub importers: usize,
    /// How many jobs have a change that it caused.
    pub changed_jobs: usize,
}

impl Change {
    /// The change as it may be shown, without what looks like a credential.
    pub fn masked(self) -> Change {
        Change {
            old: masked(&self.path, &self.old),
            new: masked(&self.path, &self.new),
            ..self
        }
    }
}

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Added,
    Removed,
    Modified,
}

/// The differences of one job. Never empty when `change` is `Modified`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobChange {
    pub change: ChangeKind,
    pub changes: Vec<Change>,
}

impl JobChange {
    /// The strongest effect on a task; none when only the number of tasks changes.
    pub fn effect(&self) -> Effect {
        match self.change {
            ChangeKind::Added | ChangeKind::Removed => Effect::Scale,
            ChangeKind::Modified => self
                .changes
                .iter()
                .map(|change| change.effect)
                .max()
                .unwrap_or(Effect::None),
        }
    }
}

/// Compares two specs of one job; none where nothing differs. Both the plan and the updater ask this.
pub fn diff_jobs(old: Option<&JobSpec>, new: Option<&JobSpec>) -> Option<JobChange> {
    let changes = match (old, new) {
        (None, None) => return None,
        (Some(old), Some(new)) => {
            let mut changes = Vec::new();
            JobSpec::diff(
                old,
                new,
                &FieldPath::root(),
                &Rule::Fixed(Effect::None),
                &mut changes,
            );
            changes
        }
        _ => Vec::new(),
    };
    let change = match (old, new) {
        (None, _) => ChangeKind::Added,
        (_, None) => ChangeKind::Removed,
        _ if changes.is_empty() => return None,
        _ => ChangeKind::Modified,
    };
    Some(JobChange { change, changes })
}
