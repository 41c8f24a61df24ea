//! How one job changed from commit to commit, in the terms of its spec.
//!
//! A job depends on its closure alone, so a commit that changes no answer in the closure did not change the job:
//! only the others are evaluated. Walking from the newest commit back, the closure of each is that of the commit
//! after it until some answer differs.

use std::collections::HashMap;
use std::sync::Arc;

use git2::{Commit, Oid, Repository, Sort, Tree};
use serde::Serialize;
use tw_model::{Change, ChangeKind, Effect, JobId, JobSpec, Timestamp, diff_jobs, nearest};

use crate::source::path;
use crate::{
    EvaluatedJob, Evaluator, EvaluatorError, Outcome, Question, QuestionKind, Source, SourceError,
    SpecError, evaluate,
};

/// Other spec files that are looked through for a job that left its own, at most.
const OTHER_SPECS_MAX: usize = 50;
/// Links followed before a path counts as one that leads nowhere.
const LINKS_MAX: usize = 40;

/// What a commit did to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryChange {
    Added,
    Modified,
    Removed,
    /// The same job, exported by another file.
    Moved,
    /// The spec does not evaluate from here on.
    Broken,
    /// The spec evaluates again, with the changes since it last did.
    Repaired,
}

/// One commit that changed a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryEntry {
    /// None for what is not committed yet.
    pub commit: Option<String>,
    pub date: Option<Timestamp>,
    pub author: Option<String>,
    /// The first line of the message.
    pub subject: Option<String>,
    pub change: HistoryChange,
    /// The strongest effect on a task; none where it is not known.
    pub effect: Option<Effect>,
    /// The spec that exported the job then; for a job that is gone, the one before.
    pub file: String,
    /// The spec that exported it before, where that is another.
    pub file_before: Option<String>,
    pub changes: Vec<Change>,
    /// Why the spec did not evaluate.
    pub errors: Vec<SpecError>,
}

/// Why a history cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Evaluator(#[from] EvaluatorError),
    #[error("{} is not in a git repository, so nothing has a history", root.display())]
    NotInGit { root: std::path::PathBuf },
    #[error("no spec of {tree} exports a job '{job}'{}", near.as_ref().map(|near| format!("; did you mean '{near}'?")).unwrap_or_default())]
    NoJob {
        job: JobId,
        tree: String,
        near: Option<String>,
    },
    #[error("git: {}", .0.message())]
    Git(#[from] git2::Error),
}

/// Tells how `job` changed up to `tip`, newest first, at most `most` entries.
///
/// `specs` are where to look for the job at the tip; if it is not there, the history is that of the job that the
/// one spec exported before. A work tree as the tip adds what is not committed. `looked` hears of each commit.
pub fn job_history(
    evaluator: &Evaluator,
    tip: &Source,
    specs: &[String],
    job: &JobId,
    most: usize,
    looked: &dyn Fn(usize),
) -> Result<Vec<HistoryEntry>, HistoryError> {
    let no_git = || HistoryError::NotInGit {
        root: tip.root().to_owned(),
    };
    let repository = Repository::discover(tip.root()).map_err(|_| no_git())?;
    let history = History {
        evaluator,
        repository: &repository,
        root: tip,
        job,
    };
    let mut now = history.find(tip, specs)?;
    let head = match tip.commit() {
        Some(commit) => Oid::from_str(&commit)?,
        // Where nothing is committed yet, this says so as for any other revision.
        None => match repository.head() {
            Ok(head) => head.peel_to_commit()?.id(),
            Err(_) => Oid::from_str(
                &Source::revision(tip.root(), "HEAD")?
                    .commit()
                    .unwrap_or_default(),
            )?,
        },
    };
    let is_absent = matches!(now.state, State::Absent);
    let mut walk = Walk {
        history: &history,
        states: HashMap::new(),
        found: Vec::new(),
    };
    match tip.commit() {
        Some(_) => {
            let tree = repository.find_commit(head)?.tree()?;
            now.answers = walk.history.answers(&tree, &now.closure)?;
            walk.states.insert(head, Arc::new(now));
        }
        None => {
            let now = Arc::new(now);
            let committed = walk.history.before(&now, None, head)?;
            walk.compare(None, &now, &committed);
            walk.states.insert(head, committed);
        }
    }
    walk.run(head, most, looked)?;
    let mut found = walk.finished()?;
    if found.is_empty() && is_absent {
        let known = evaluate(evaluator, tip, &tip.specs_if_any(specs)?)?;
        let names: Vec<String> = known
            .jobs
            .iter()
            .map(|job| job.spec.id().to_string())
            .collect();
        return Err(history.no_job(tip, &names));
    }
    found.truncate(most);
    Ok(found)
}

/// A job at a commit, and what that rests on.
struct AtCommit {
    state: State,
    /// The spec file that exports it, or did last.
    file: String,
    closure: Arc<[Question]>,
    /// The objects behind the closure's answers.
    answers: Vec<Option<(Oid, i32)>>,
}

enum State {
    Found(Box<JobSpec>),
    Absent,
    Broken(Vec<SpecError>),
}

impl AtCommit {
    fn spec(&self) -> Option<&JobSpec> {
        match &self.state {
            State::Found(spec) => Some(spec),
            State::Absent | State::Broken(_) => None,
        }
    }

    fn is_same(&self, other: &AtCommit) -> bool {
        match (&self.state, &other.state) {
            (State::Found(one), State::Found(two)) => one == two && self.file == other.file,
            (State::Absent, State::Absent) | (State::Broken(_), State::Broken(_)) => true,
            _ => false,
        }
    }
}

struct History<'a> {
    evaluator: &'a Evaluator,
    repository: &'a Repository,
    root: &'a Source,
    job: &'a JobId,
}

impl History<'_> {
    /// Looks for the job among `specs`, first in those that name it.
    fn find(&self, source: &Source, specs: &[String]) -> Result<AtCommit, HistoryError> {
        let names_it = |file: &&String| {
            let content = source.read(file).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&content).contains(self.job.name.as_str())
        };
        let (likely, others): (Vec<&String>, Vec<&String>) = specs.iter().partition(names_it);
        let mut names = Vec::new();
        for (files, is_likely) in [(likely, true), (others, specs.len() == 1)] {
            let files: Vec<String> = files.into_iter().cloned().collect();
            let mut outcome = evaluate(self.evaluator, source, &files)?;
            names.extend(outcome.jobs.iter().map(|job| job.spec.id().to_string()));
            if let Some(at) = outcome.jobs.iter().position(|job| self.is_it(job)) {
                return Ok(found(outcome.jobs.swap_remove(at)));
            }
            let guilty = outcome
                .errors
                .iter()
                .find(|error| files.contains(&error.file));
            if let (Some(error), true) = (guilty, is_likely) {
                return Ok(broken(error.file.clone(), outcome));
            }
        }
        match specs {
            [only] => Ok(absent(only)),
            _ => Err(self.no_job(source, &names)),
        }
    }

    fn no_job(&self, source: &Source, names: &[String]) -> HistoryError {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        HistoryError::NoJob {
            job: self.job.clone(),
            tree: source.describe(),
            near: nearest(&self.job.to_string(), &names).map(str::to_owned),
        }
    }

    fn is_it(&self, job: &EvaluatedJob) -> bool {
        job.spec.id() == *self.job
    }

    /// The job at `commit`, given how it is at `newer`, a child of it (none: the work tree).
    fn before(
        &self,
        now: &Arc<AtCommit>,
        newer: Option<Oid>,
        commit: Oid,
    ) -> Result<Arc<AtCommit>, HistoryError> {
        let tree = self.repository.find_commit(commit)?.tree()?;
        if newer.is_some() && self.answers(&tree, &now.closure)? == now.answers {
            return Ok(Arc::clone(now));
        }
        let source = Source::revision(self.root.root(), &commit.to_string())?;
        let mut at = self.evaluate(&source, &now.file)?;
        if matches!(at.state, State::Absent)
            && let Some(moved) = self.elsewhere(&source, &tree, newer, &now.file)?
        {
            at = moved;
        }
        at.answers = self.answers(&tree, &at.closure)?;
        Ok(Arc::new(at))
    }

    fn evaluate(&self, source: &Source, file: &str) -> Result<AtCommit, HistoryError> {
        if source.kind(file)?.is_none() {
            return Ok(absent(file));
        }
        let mut outcome = evaluate(self.evaluator, source, &[file.to_owned()])?;
        if let Some(at) = outcome.jobs.iter().position(|job| self.is_it(job)) {
            return Ok(found(outcome.jobs.swap_remove(at)));
        }
        let mut at = broken(file.to_owned(), outcome);
        if matches!(&at.state, State::Broken(errors) if errors.is_empty()) {
            at.state = State::Absent;
        }
        Ok(at)
    }

    /// Looks for the job in the specs that the newer commit removed, renamed or changed.
    fn elsewhere(
        &self,
        source: &Source,
        tree: &Tree<'_>,
        newer: Option<Oid>,
        file: &str,
    ) -> Result<Option<AtCommit>, HistoryError> {
        let newer = match newer {
            Some(newer) => Some(self.repository.find_commit(newer)?.tree()?),
            None => None,
        };
        let mut options = git2::DiffOptions::new();
        options.pathspec("*.tw");
        let diff = match &newer {
            Some(newer) => {
                self.repository
                    .diff_tree_to_tree(Some(tree), Some(newer), Some(&mut options))?
            }
            None => self
                .repository
                .diff_tree_to_workdir(Some(tree), Some(&mut options))?,
        };
        let files: Vec<String> = diff
            .deltas()
            .filter(|delta| !delta.old_file().id().is_zero())
            .filter_map(|delta| delta.old_file().path()?.to_str().map(str::to_owned))
            .filter(|other| other != file)
            .take(OTHER_SPECS_MAX)
            .collect();
        for other in files {
            let at = self.evaluate(source, &other)?;
            if matches!(at.state, State::Found(_)) {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The objects behind the answers to `closure` in a tree.
    fn answers(
        &self,
        tree: &Tree<'_>,
        closure: &[Question],
    ) -> Result<Vec<Option<(Oid, i32)>>, HistoryError> {
        let answer = |question: &Question| {
            let object = self.object(tree, &question.path)?;
            // Whether something is there does not depend on what it holds.
            Ok(object.map(|(id, mode)| match question.kind {
                QuestionKind::Exists => (Oid::ZERO_SHA1, mode),
                _ => (id, mode),
            }))
        };
        closure.iter().map(answer).collect()
    }

    /// The object at a path, links followed.
    fn object(&self, tree: &Tree<'_>, wanted: &str) -> Result<Option<(Oid, i32)>, HistoryError> {
        const FOLDER: i32 = 0o040_000;
        const LINK: i32 = 0o120_000;
        let mut rest = wanted.to_owned();
        for _ in 0..LINKS_MAX {
            let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
            let mut here = (tree.id(), FOLDER);
            let mut followed = None;
            for (index, name) in parts.iter().enumerate() {
                if here.1 != FOLDER {
                    return Ok(None);
                }
                let folder = self.repository.find_tree(here.0)?;
                let Some(entry) = folder.get_name(name) else {
                    return Ok(None);
                };
                here = (entry.id(), entry.filemode());
                if here.1 == LINK {
                    let blob = self.repository.find_blob(here.0)?;
                    let target = String::from_utf8_lossy(blob.content()).into_owned();
                    let way = path::resolve(&parts[..index].join("/"), &target);
                    followed = Some(way.map(|way| path::join(&way, &parts[index + 1..].join("/"))));
                    break;
                }
            }
            match followed {
                None => return Ok(Some(here)),
                Some(None) => return Ok(None),
                Some(Some(next)) => rest = next,
            }
        }
        Ok(None)
    }
}

fn found(job: EvaluatedJob) -> AtCommit {
    AtCommit {
        state: State::Found(Box::new(job.spec)),
        file: job.file,
        closure: job.closure,
        answers: Vec::new(),
    }
}

/// A spec that does not evaluate, with what its outcome rests on.
fn broken(file: String, outcome: Outcome) -> AtCommit {
    let spec = outcome.specs.into_iter().find(|spec| spec.file == file);
    AtCommit {
        state: State::Broken(outcome.errors),
        file,
        closure: spec.map(|spec| spec.closure).unwrap_or_default(),
        answers: Vec::new(),
    }
}

/// Changes as they may be shown.
fn shown(difference: tw_model::JobChange) -> Vec<Change> {
    let changes = difference.changes.into_iter();
    changes.map(|change| change.masked()).collect()
}

/// No job: nothing is known until the file that had it changes.
fn absent(file: &str) -> AtCommit {
    AtCommit {
        state: State::Absent,
        file: file.to_owned(),
        closure: Arc::new([Question {
            kind: QuestionKind::Read,
            path: file.to_owned(),
            answer_hash: None,
        }]),
        answers: Vec::new(),
    }
}

/// An entry, and what it needs to be finished.
struct Pending {
    entry: HistoryEntry,
    now: Arc<AtCommit>,
    /// For a spec that evaluates again: where to look on for when it did before.
    since: Option<Oid>,
}

struct Walk<'a> {
    history: &'a History<'a>,
    states: HashMap<Oid, Arc<AtCommit>>,
    found: Vec<Pending>,
}

impl Walk<'_> {
    fn run(&mut self, head: Oid, most: usize, looked: &dyn Fn(usize)) -> Result<(), HistoryError> {
        let repository = self.history.repository;
        let mut commits = repository.revwalk()?;
        commits.set_sorting(Sort::TOPOLOGICAL | Sort::TIME)?;
        commits.push(head)?;
        for (number, id) in commits.enumerate() {
            // One more than asked for: what came before a repair may be older.
            if self.found.len() > most {
                break;
            }
            looked(number);
            let commit = repository.find_commit(id?)?;
            let Some(now) = self.states.get(&commit.id()).map(Arc::clone) else {
                continue;
            };
            self.step(&commit, &now)?;
        }
        Ok(())
    }

    /// Compares a commit with its parents. One that is like any of them did not change the job.
    fn step(&mut self, commit: &Commit<'_>, now: &Arc<AtCommit>) -> Result<(), HistoryError> {
        let mut parents = Vec::new();
        for parent in commit.parent_ids() {
            let before = match self.states.get(&parent) {
                Some(known) => Arc::clone(known),
                None => {
                    let before = self.history.before(now, Some(commit.id()), parent)?;
                    self.states.insert(parent, Arc::clone(&before));
                    before
                }
            };
            parents.push(before);
        }
        if parents.iter().any(|before| before.is_same(now)) {
            return Ok(());
        }
        let before = parents
            .into_iter()
            .next()
            .unwrap_or_else(|| Arc::new(absent(&now.file)));
        self.compare(Some(commit), now, &before);
        Ok(())
    }

    fn compare(&mut self, commit: Option<&Commit<'_>>, now: &Arc<AtCommit>, before: &AtCommit) {
        if now.is_same(before) {
            return;
        }
        let difference = diff_jobs(before.spec(), now.spec());
        let change = match (&before.state, &now.state) {
            (_, State::Broken(_)) => HistoryChange::Broken,
            (State::Broken(_), _) => HistoryChange::Repaired,
            _ => match &difference {
                None => HistoryChange::Moved,
                Some(change) => match change.change {
                    ChangeKind::Added => HistoryChange::Added,
                    ChangeKind::Removed => HistoryChange::Removed,
                    ChangeKind::Modified => HistoryChange::Modified,
                },
            },
        };
        let known = !matches!(change, HistoryChange::Broken | HistoryChange::Repaired);
        let difference = difference.filter(|_| known);
        let entry = HistoryEntry {
            commit: commit.map(|commit| commit.id().to_string()),
            date: commit.map(|commit| Timestamp(commit.author().when().seconds() * 1_000_000)),
            author: commit
                .map(|commit| String::from_utf8_lossy(commit.author().name_bytes()).into_owned()),
            subject: commit.map(|commit| {
                let subject = commit.summary_bytes().unwrap_or_default();
                String::from_utf8_lossy(subject).into_owned()
            }),
            change,
            effect: difference.as_ref().map(tw_model::JobChange::effect),
            file_before: Some(&before.file)
                .filter(|file| **file != now.file && before.spec().is_some())
                .cloned(),
            file: now.file.clone(),
            changes: difference.map(shown).unwrap_or_default(),
            errors: match &now.state {
                State::Broken(errors) => errors.clone(),
                State::Found(_) | State::Absent => Vec::new(),
            },
        };
        self.found.push(Pending {
            entry,
            now: Arc::clone(now),
            since: commit
                .filter(|_| change == HistoryChange::Repaired)
                .and_then(|commit| commit.parent_id(0).ok()),
        });
    }

    /// Fills in what changed while a spec did not evaluate, as far back as the walk has come.
    fn finished(self) -> Result<Vec<HistoryEntry>, HistoryError> {
        let mut entries = Vec::with_capacity(self.found.len());
        for Pending {
            mut entry,
            now,
            since,
        } in self.found
        {
            let mut at = since;
            while let Some(commit) = at {
                let Some(state) = self.states.get(&commit) else {
                    break;
                };
                if !matches!(state.state, State::Broken(_)) {
                    let difference = diff_jobs(state.spec(), now.spec());
                    entry.effect = difference.as_ref().map(tw_model::JobChange::effect);
                    entry.changes = difference.map(shown).unwrap_or_default();
                    break;
                }
                at = self
                    .history
                    .repository
                    .find_commit(commit)?
                    .parent_id(0)
                    .ok();
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}
