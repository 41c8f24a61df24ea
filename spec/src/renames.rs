//! Jobs that may be the same under another name. They are pointed out in words; nothing is done as if they were.

use serde::Serialize;
use tw_model::{JobSpec, diff_jobs};

/// A job that went and one that came that are much alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rename {
    /// As `NAME` or `NAMESPACE/NAME`.
    pub from: String,
    pub to: String,
    /// The values in which they differ beside the name; at most a few.
    pub differing: Vec<String>,
    /// Volumes of the old job that the new one will not find.
    pub volumes: Vec<String>,
}

/// Beside the name, this many values may differ.
const DIFFERING_MAX: usize = 3;
/// More jobs than this are not compared with each other.
const JOBS_MAX: usize = 400;

/// Pairs jobs that went with jobs that came, the most alike first; each is named once.
pub(crate) fn likely(removed: &[&JobSpec], added: &[&JobSpec]) -> Vec<Rename> {
    if removed.len().max(added.len()) > JOBS_MAX {
        return Vec::new();
    }
    let mut pairs = Vec::new();
    for (old_at, old) in removed.iter().enumerate() {
        for (new_at, new) in added.iter().enumerate() {
            let differing = differing(old, new);
            if differing.len() <= DIFFERING_MAX {
                let unlike = usize::MAX - alike(old.name.as_str(), new.name.as_str());
                pairs.push((differing.len(), unlike, old_at, new_at, differing));
            }
        }
    }
    pairs.sort();
    let (mut gone, mut come) = (vec![false; removed.len()], vec![false; added.len()]);
    let mut found = Vec::new();
    for (_, _, old_at, new_at, differing) in pairs {
        if gone[old_at] || come[new_at] {
            continue;
        }
        (gone[old_at], come[new_at]) = (true, true);
        let (old, new) = (removed[old_at], added[new_at]);
        let volumes = old.volumes.iter().map(|volume| volume.name.to_string());
        found.push(Rename {
            from: old.id().to_string(),
            to: new.id().to_string(),
            differing,
            volumes: volumes.collect(),
        });
    }
    found.sort_by(|one, other| one.from.cmp(&other.from));
    found
}

fn differing(old: &JobSpec, new: &JobSpec) -> Vec<String> {
    let mut renamed = new.clone();
    renamed.name = old.name.clone();
    renamed.namespace = old.namespace.clone();
    let change = diff_jobs(Some(old), Some(&renamed));
    let changes = change.into_iter().flat_map(|change| change.changes);
    changes.map(|change| change.path).collect()
}

/// How many letters two names share at their ends.
fn alike(one: &str, other: &str) -> usize {
    let same =
        |pairs: &mut dyn Iterator<Item = (char, char)>| pairs.take_while(|(a, b)| a == b).count();
    let front = same(&mut one.chars().zip(other.chars()));
    let back = same(&mut one.chars().rev().zip(other.chars().rev()));
    front + back
}
