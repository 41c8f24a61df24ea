//! Whole cores: which tasks have which cores of the machine for themselves.
//!
//! Everything else shares the rest. Where nothing is left, helpers and what else there is share all: a machine gives
//! out no more cores than it has, so that nothing that asked for cores is among it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tw_model::{JobSpec, TaskId};

use crate::cgroup::{CgroupError, CgroupTree};
use crate::helper::record;

/// What a task was given, in its folder, for the agent that comes after this one.
const CORES_FILE: &str = "cores.json";

type Given = BTreeMap<TaskId, Vec<u32>>;

pub(super) struct WholeCores {
    tree: Arc<dyn CgroupTree>,
    /// The machine's; none where a task cannot be held to cores.
    all: Option<Vec<u32>>,
    given: Mutex<Given>,
}

impl WholeCores {
    pub(super) fn open(tree: Arc<dyn CgroupTree>) -> Result<WholeCores, CgroupError> {
        Ok(WholeCores {
            all: tree.cores()?,
            tree,
            given: Mutex::default(),
        })
    }

    /// Remembers what an earlier agent has given to the task in `folder`.
    pub(super) fn adopt(&self, task: &TaskId, folder: &Path) {
        match record::read::<Vec<u32>>(folder, CORES_FILE) {
            Ok(Some(cores)) if !cores.is_empty() => {
                self.lock().insert(task.clone(), cores);
            }
            Ok(_) => {}
            Err(cause) => tracing::warn!(%task, %cause, "the record of its cores cannot be read"),
        }
    }

    /// Sets aside the cores that a new task wants for itself, and takes them from all others; none for most tasks.
    pub(super) fn give(&self, task: &TaskId, spec: &JobSpec) -> anyhow::Result<Vec<u32>> {
        let Some(all) = &self.all else {
            return Ok(Vec::new());
        };
        let mut given = self.lock();
        let cores = choose(all, &given, task, wanted(spec)).ok_or_else(|| {
            anyhow::anyhow!(
                "{} of the {} cores of this machine are other tasks' own, and {task} wants {} for itself",
                given.values().map(Vec::len).sum::<usize>(),
                all.len(),
                wanted(spec)
            )
        })?;
        let before = match cores.is_empty() {
            true => given.remove(task),
            false => given.insert(task.clone(), cores.clone()),
        };
        if before.unwrap_or_default() != cores {
            self.share(all, &given)?;
        }
        Ok(cores)
    }

    /// Writes down what a task has; nothing for one that never had any.
    pub(super) fn note(folder: &Path, cores: &[u32]) -> anyhow::Result<()> {
        if cores.is_empty() && !folder.join(CORES_FILE).exists() {
            return Ok(());
        }
        Ok(record::write(folder, CORES_FILE, &cores)?)
    }

    /// Gives a running task what its new spec asks for.
    pub(super) fn follow(
        &self,
        task: &TaskId,
        spec: &JobSpec,
        folder: &Path,
    ) -> anyhow::Result<()> {
        let Some(all) = &self.all else {
            return Ok(());
        };
        let had = self.lock().get(task).cloned().unwrap_or_default();
        let cores = self.give(task, spec)?;
        let leaf = task.folder_name();
        match (cores == had, cores.is_empty()) {
            (true, _) => {}
            (false, true) => self.tree.take_cores(&leaf)?,
            (false, false) => self.tree.give_cores(&leaf, &cores)?,
        }
        let given = self.lock();
        if !given.is_empty() || cores != had {
            // A leaf that is new has all cores.
            self.share(all, &given)?;
        }
        WholeCores::note(folder, &cores)
    }

    /// Lets all tasks use the cores of one that has ended.
    pub(super) fn take_back(&self, task: &TaskId) {
        let mut given = self.lock();
        if let (Some(_), Some(all)) = (given.remove(task), &self.all)
            && let Err(cause) = self.share(all, &given)
        {
            tracing::warn!(%task, cause = %crate::error::chain(&cause), "cannot share its cores again");
        }
    }

    fn share(&self, all: &[u32], given: &Given) -> Result<(), CgroupError> {
        let own: BTreeSet<String> = given.keys().map(TaskId::folder_name).collect();
        self.tree.share_cores(&shared(all, given), &own)
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many cores a task wants for itself.
fn wanted(spec: &JobSpec) -> usize {
    match spec.resources.whole_cores {
        true => (spec.resources.cpu.0 / 1000) as usize,
        false => 0,
    }
}

/// Chooses cores for a task: first those that it has, then free ones from the end, as the machine's own work tends
/// to be at the beginning. None when too few are free.
fn choose(all: &[u32], given: &Given, task: &TaskId, wanted: usize) -> Option<Vec<u32>> {
    let others = given.iter().filter(|(other, _)| *other != task);
    let taken: BTreeSet<u32> = others
        .flat_map(|(_, cores)| cores.iter().copied())
        .collect();
    let has = given.get(task).cloned().unwrap_or_default();
    let free = all.iter().rev().copied();
    let free = free.filter(|core| !taken.contains(core) && !has.contains(core));
    let kept = has.iter().copied().filter(|core| all.contains(core));
    let mut cores: Vec<u32> = kept.chain(free).take(wanted).collect();
    cores.sort_unstable();
    (cores.len() == wanted).then_some(cores)
}

/// What is left for everything else.
fn shared(all: &[u32], given: &Given) -> Vec<u32> {
    let taken: BTreeSet<u32> = given.values().flatten().copied().collect();
    let rest: Vec<u32> = all
        .iter()
        .copied()
        .filter(|core| !taken.contains(core))
        .collect();
    match rest.is_empty() {
        true => all.to_vec(),
        false => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::{CORES_FILE, Given, WholeCores, choose, shared};
    use tw_model::TaskId;

    fn task(text: &str) -> TaskId {
        text.parse().unwrap()
    }

    #[test]
    fn only_a_task_that_had_cores_of_its_own_has_a_note_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let note = |cores: &[u32]| {
            WholeCores::note(folder.path(), cores).unwrap();
            std::fs::read_to_string(folder.path().join(CORES_FILE)).ok()
        };
        assert_eq!(note(&[]), None);
        assert_eq!(note(&[3]).as_deref(), Some("[3]"));
        assert_eq!(note(&[]).as_deref(), Some("[]"));
    }

    #[test]
    fn a_task_keeps_its_cores_and_gets_free_ones_from_the_end() {
        let all = [0, 1, 2, 3];
        let mut given = Given::new();
        assert_eq!(choose(&all, &given, &task("a.0#1"), 2), Some(vec![2, 3]));
        given.insert(task("a.0#1"), vec![2, 3]);
        assert_eq!(shared(&all, &given), [0, 1]);
        assert_eq!(choose(&all, &given, &task("b.0#1"), 1), Some(vec![1]));
        assert_eq!(choose(&all, &given, &task("b.0#1"), 3), None);
        assert_eq!(choose(&all, &given, &task("a.0#1"), 3), Some(vec![1, 2, 3]));
        assert_eq!(choose(&all, &given, &task("a.0#1"), 1), Some(vec![2]));
        given.insert(task("b.0#1"), vec![0, 1]);
        assert_eq!(shared(&all, &given), all, "helpers need a core, too");
    }
}
