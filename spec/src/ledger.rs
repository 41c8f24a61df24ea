//! Which result each spec of a tree had when it was last looked at: an equal tree then asks nothing, and another
//! one only the questions whose answers may have changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

use crate::cache::{Identity, Key};
use crate::source::{Hash, Snapshot, path};
use crate::{Cache, Question, QuestionKind, Source};

/// A question and its answer, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) kind: QuestionKind,
    pub(crate) path: String,
    pub(crate) answer: Option<Hash>,
    /// Whether a link is on the way, so that what changes may have another path.
    is_linked: bool,
}

impl Asked {
    /// As a closure has it. Hashes of packages are hashes, too.
    fn of(question: &Question, tree: &Snapshot<'_>) -> Option<Asked> {
        let answer = match &question.answer_hash {
            None => None,
            Some(hex) => Some(*blake3::Hash::from_hex(hex).ok()?.as_bytes()),
        };
        Some(Asked {
            kind: question.kind,
            path: question.path.clone(),
            answer,
            is_linked: tree.is_linked(&question.path),
        })
    }

    pub(crate) fn question(&self) -> Question {
        let hex = |hash: &Hash| blake3::Hash::from(*hash).to_hex().to_string();
        Question {
            kind: self.kind,
            path: self.path.clone(),
            answer_hash: self.answer.as_ref().map(hex),
        }
    }

    /// Whether `tree` gives the same answer.
    pub(crate) fn holds(&self, tree: &Snapshot<'_>) -> bool {
        tree.answer(self.kind, &self.path) == Some(self.answer)
    }
}

/// The hash of a closure: which questions were asked, and what was answered.
pub(crate) fn trace_of(asked: &[Asked]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for Asked {
        kind, path, answer, ..
    } in asked
    {
        hasher.update(&[*kind as u8, u8::from(answer.is_some())]);
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&answer.unwrap_or_default());
    }
    *hasher.finalize().as_bytes()
}

/// What is known of a spec's result without loading it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The ids of its jobs; empty if it has errors.
    pub(crate) jobs: Vec<String>,
    pub(crate) has_errors: bool,
    /// Whether a second evaluation under other conditions came to the same.
    pub(crate) is_verified: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    trace: Hash,
    questions: Vec<u32>,
    summary: Summary,
}

/// The results of the specs of one tree.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// The git tree that was looked at; none for a work tree.
    root_tree: Option<[u8; 20]>,
    questions: Vec<Asked>,
    specs: HashMap<String, Record>,
    #[serde(skip)]
    ids: HashMap<Asked, u32>,
    /// Whether it is of another tree than the one looked at.
    #[serde(skip)]
    is_other: bool,
    /// How many records came or went.
    #[serde(skip)]
    news: usize,
}

/// How the questions of a ledger stand with a tree.
pub(crate) struct Standing<'a> {
    ledger: &'a Ledger,
    tree: &'a Snapshot<'a>,
    /// What differs from the ledger's tree; none if that has to be found out.
    changed: Option<Changed>,
    /// A state for each question.
    known: Vec<AtomicU8>,
}

/// Paths that differ, and all folders above them.
#[derive(Default)]
struct Changed(BTreeSet<String>);

/// News are kept where they are at least this part of all records.
const NEWS_WORTH_KEEPING: usize = 500;

const UNKNOWN: u8 = 0;
const HOLDS: u8 = 1;
const FAILS: u8 = 2;

impl Ledger {
    /// Loads what is known of the source's tree: of exactly this one, or of the last one of this repository.
    pub(crate) fn load(cache: &Cache, identity: &Identity, source: &Source) -> Ledger {
        let exact = cache.get(&key(identity, source, source.root_tree()));
        let found = exact.or_else(|| {
            let last = cache.get(&key(identity, source, None))?;
            match source.root_tree() {
                None => Some(last),
                Some(_) => cache.get(&key(identity, source, git2::Oid::from_bytes(&last).ok())),
            }
        });
        let mut ledger: Ledger = found
            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
            .unwrap_or_default();
        let same = ledger.root_tree.as_ref().map(<[u8; 20]>::as_slice)
            == source.root_tree().as_ref().map(git2::Oid::as_bytes);
        ledger.is_other = !same;
        ledger
    }

    /// Keeps the ledger for the source's tree, unless it is quicker to look at what is new once more.
    pub(crate) fn save(mut self, cache: &Cache, identity: &Identity, source: &Source) {
        let is_worth_it = self.news > 0 && self.news >= self.specs.len() / NEWS_WORTH_KEEPING;
        if !self.is_other && !is_worth_it {
            return;
        }
        self.compact();
        let root_tree = source.root_tree();
        self.root_tree = root_tree.and_then(|id| id.as_bytes().try_into().ok());
        if let Ok(bytes) = postcard::to_stdvec(&self) {
            cache.put(key(identity, source, root_tree), bytes);
        }
        if let Some(id) = root_tree {
            cache.put(key(identity, source, None), id.as_bytes().to_vec());
        }
    }

    /// The record of a spec whose questions all stand.
    pub(crate) fn standing<'a>(&'a self, tree: &'a Snapshot<'a>) -> Standing<'a> {
        let changed = match (self.root_tree, tree.source.root_tree()) {
            (Some(before), Some(now)) if before == now.as_bytes() => Some(Changed::default()),
            (Some(before), Some(_)) => git2::Oid::from_bytes(&before)
                .ok()
                .and_then(|before| tree.source.paths_changed_since(before))
                .map(Changed::of),
            _ => None,
        };
        Standing {
            ledger: self,
            tree,
            changed,
            known: self
                .questions
                .iter()
                .map(|_| AtomicU8::new(UNKNOWN))
                .collect(),
        }
    }

    /// Notes the result of a spec.
    pub(crate) fn note(&mut self, spec: &str, asked: &[Asked], summary: Summary) {
        if self.ids.is_empty() {
            let numbered = self.questions.iter().cloned().zip(0..);
            self.ids = numbered.collect();
        }
        let mut questions = Vec::with_capacity(asked.len());
        for question in asked {
            let next = self.questions.len() as u32;
            let id = *self.ids.entry(question.clone()).or_insert(next);
            if id == next {
                self.questions.push(question.clone());
            }
            questions.push(id);
        }
        let record = Record {
            trace: trace_of(asked),
            questions,
            summary,
        };
        self.specs.insert(spec.to_owned(), record);
        self.news += 1;
    }

    /// How many specs it knows.
    pub(crate) fn len(&self) -> usize {
        self.specs.len()
    }

    /// Forgets a spec whose result is not to be kept.
    pub(crate) fn forget(&mut self, spec: &str) {
        self.news += usize::from(self.specs.remove(spec).is_some());
    }

    /// Drops the records of specs that are gone.
    pub(crate) fn keep_only(&mut self, is_there: impl Fn(&str) -> bool) {
        let before = self.specs.len();
        self.specs.retain(|spec, _| is_there(spec));
        self.news += before - self.specs.len();
    }

    /// Drops questions that no spec asks any more.
    fn compact(&mut self) {
        let mut numbers: Vec<Option<u32>> = vec![None; self.questions.len()];
        let mut kept = Vec::new();
        for record in self.specs.values_mut() {
            for id in &mut record.questions {
                let number = &mut numbers[*id as usize];
                if number.is_none() {
                    *number = Some(kept.len() as u32);
                    kept.push(self.questions[*id as usize].clone());
                }
                *id = number.unwrap_or_default();
            }
        }
        self.questions = kept;
        self.ids.clear();
    }
}

fn key(identity: &Identity, source: &Source, root_tree: Option<git2::Oid>) -> Key {
    let kind = match source.root_tree() {
        None => "ledger of a work tree",
        Some(_) => "ledger of a revision",
    };
    let root = source.root().as_os_str().as_encoded_bytes();
    let id = root_tree
        .as_ref()
        .map(git2::Oid::as_bytes)
        .unwrap_or_default();
    Key::new(kind, &[identity.as_bytes(), root, id])
}

impl Standing<'_> {
    /// The trace and the summary of a spec, if nothing that it asked has changed.
    pub(crate) fn of(&self, spec: &str) -> Option<(Hash, Summary)> {
        let record = self.ledger.specs.get(spec)?;
        let stands = record.questions.iter().all(|id| self.holds(*id));
        stands.then(|| (record.trace, record.summary.clone()))
    }

    fn holds(&self, id: u32) -> bool {
        let Some((asked, known)) = self
            .ledger
            .questions
            .get(id as usize)
            .zip(self.known.get(id as usize))
        else {
            return false;
        };
        match known.load(Ordering::Relaxed) {
            HOLDS => true,
            FAILS => false,
            _ => {
                let untouched = self
                    .changed
                    .as_ref()
                    .is_some_and(|changed| !asked.is_linked && !changed.touches(asked));
                let holds = untouched || asked.holds(self.tree);
                known.store(if holds { HOLDS } else { FAILS }, Ordering::Relaxed);
                holds
            }
        }
    }
}

impl Changed {
    fn of(paths: Vec<String>) -> Changed {
        let mut all = BTreeSet::new();
        for changed in paths {
            let mut here = changed.as_str();
            while !here.is_empty() && all.insert(here.to_owned()) {
                here = path::parent(here);
            }
            all.insert(String::new());
        }
        Changed(all)
    }

    /// Whether the answer may have changed: because of the path, of what is below it, or of what is above.
    fn touches(&self, asked: &Asked) -> bool {
        let mut here = asked.path.as_str();
        loop {
            // A folder above is in the set for anything that changed below it, which does not matter here; but
            // it may have become a link or a file itself.
            if self.0.contains(here) && (here == asked.path || self.is_leaf(here)) {
                return true;
            }
            if here.is_empty() {
                return false;
            }
            here = path::parent(here);
        }
    }

    /// Whether nothing below `here` is in the set: it is what changed itself.
    fn is_leaf(&self, here: &str) -> bool {
        let below = format!("{here}/");
        let next = self.0.range(below.clone()..).next();
        !here.is_empty() && next.is_none_or(|next| !next.starts_with(&below))
    }
}

/// Everything a spec asked, as stored; none if a hash is not one.
pub(crate) fn asked_of(closure: &[Question], tree: &Snapshot<'_>) -> Option<Vec<Asked>> {
    closure
        .iter()
        .map(|question| Asked::of(question, tree))
        .collect()
}
