//! What a change to a spec does to the tasks that already run.

use serde::{Deserialize, Serialize};

/// What one change does to a running task, from nothing to starting over.
///
/// The first five are ordered; `Scale` is a second axis: it adds or removes tasks and leaves the others alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing that runs notices.
    None,
    /// Tasks are added or removed; the rest are untouched.
    Scale,
    /// Applied to the running task.
    InPlace,
    /// The task starts again on its machine.
    Restart,
    /// The task starts again on another machine.
    Move,
    /// The job is removed and made anew.
    Recreate,
}

impl Effect {
    /// The name in JSON and in text.
    pub fn as_str(self) -> &'static str {
        match self {
            Effect::None => "none",
            Effect::Scale => "scale",
            Effect::InPlace => "in_place",
            Effect::Restart => "restart",
            Effect::Move => "move",
            Effect::Recreate => "recreate",
        }
    }

    /// Why a change of a value has this effect, in words that follow the name of the value.
    pub fn reason(self) -> &'static str {
        match self {
            Effect::None => "no running task notices",
            Effect::Scale => "tasks are added or removed, the others stay",
            Effect::InPlace => "applied while the task runs",
            Effect::Restart => "read only when a task starts",
            Effect::Move => "its machine cannot take it",
            Effect::Recreate => "makes another job of it",
        }
    }

    /// Whether a task with this effect becomes a new incarnation.
    pub fn replaces_task(self) -> bool {
        self >= Effect::Restart
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
