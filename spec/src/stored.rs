//! Results of specs as the cache has them: a few for each spec, each with the closure that it follows from.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tw_model::{JobSpec, Location};

use crate::cache::{Identity, Key};
use crate::ledger::{Asked, Summary};
use crate::outcome::SpecOutcome;
use crate::provenance::Packed;
use crate::source::{Hash, Snapshot};
use crate::{Cache, EvaluatedJob, Provenance, SpecError};

/// Results kept for one spec: those of the branches somebody works on.
const RESULTS_MAX: usize = 4;

/// The results of one spec, the newest first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    results: Vec<Stored>,
}

/// One result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) trace: Hash,
    pub(crate) asked: Vec<Asked>,
    pub(crate) summary: Summary,
    /// Whether the places of values include the definitions that they refer to.
    pub(crate) has_references: bool,
    content: Packed,
}

#[derive(Serialize, Deserialize)]
struct Content {
    jobs: Vec<StoredJob>,
    output: String,
    errors: Vec<SpecError>,
}

#[derive(Serialize, Deserialize)]
struct StoredJob {
    /// The stored form of the job, as JSON.
    spec: String,
    source: Location,
    provenance: Provenance,
}

impl Results {
    pub(crate) fn load(cache: &Cache, identity: &Identity, spec: &str) -> Results {
        Results::read(cache.get(&key(identity, spec)))
    }

    /// Those of several specs.
    pub(crate) fn load_all<'a>(
        cache: &Cache,
        identity: &Identity,
        specs: impl Iterator<Item = &'a str>,
    ) -> Vec<Results> {
        let keys: Vec<Key> = specs.map(|spec| key(identity, spec)).collect();
        let found = cache.get_all(&keys);
        found.into_iter().map(Results::read).collect()
    }

    fn read(found: Option<Vec<u8>>) -> Results {
        found
            .and_then(|bytes| postcard::from_bytes(&bytes).ok())
            .unwrap_or_default()
    }

    /// The result that follows from what `tree` answers.
    pub(crate) fn that_holds(&self, tree: &Snapshot<'_>) -> Option<&Stored> {
        self.results
            .iter()
            .find(|stored| stored.asked.iter().all(|asked| asked.holds(tree)))
    }

    /// The result of a closure.
    pub(crate) fn of_trace(&self, trace: &Hash) -> Option<&Stored> {
        self.results.iter().find(|stored| stored.trace == *trace)
    }

    /// Takes in a result as the newest.
    pub(crate) fn add(mut self, result: Stored) -> Results {
        self.results.retain(|stored| stored.trace != result.trace);
        self.results.insert(0, result);
        self.results.truncate(RESULTS_MAX);
        self
    }

    pub(crate) fn save(&self, cache: &Cache, identity: &Identity, spec: &str) {
        if let Ok(bytes) = postcard::to_stdvec(self) {
            cache.put(key(identity, spec), bytes);
        }
    }
}

fn key(identity: &Identity, spec: &str) -> Key {
    Key::new("results", &[identity.as_bytes(), spec.as_bytes()])
}

impl Stored {
    /// None if the outcome cannot be written down.
    pub(crate) fn new(
        outcome: &SpecOutcome,
        trace: Hash,
        asked: Vec<Asked>,
        summary: Summary,
        has_references: bool,
    ) -> Option<Stored> {
        let stored = |job: &EvaluatedJob| {
            Some(StoredJob {
                spec: serde_json::to_string(&job.spec).ok()?,
                source: job.source.clone(),
                provenance: job.provenance.clone(),
            })
        };
        let content = Content {
            jobs: outcome.jobs.iter().map(stored).collect::<Option<_>>()?,
            output: outcome.output.clone(),
            errors: outcome.errors.clone(),
        };
        Some(Stored {
            trace,
            asked,
            summary,
            has_references,
            content: Packed(postcard::to_stdvec(&content).ok()?.into()),
        })
    }

    /// The result of the spec `file`; none if it cannot be read.
    pub(crate) fn outcome(&self, file: &str) -> Option<SpecOutcome> {
        let content: Content = postcard::from_bytes(&self.content.0).ok()?;
        let closure: Arc<[_]> = self.asked.iter().map(Asked::question).collect();
        let job = |stored: StoredJob| {
            let spec: JobSpec = serde_json::from_str(&stored.spec).ok()?;
            Some(EvaluatedJob {
                spec,
                file: file.to_owned(),
                source: stored.source,
                provenance: stored.provenance,
                closure: Arc::clone(&closure),
            })
        };
        Some(SpecOutcome {
            file: file.to_owned(),
            jobs: content.jobs.into_iter().map(job).collect::<Option<_>>()?,
            closure: Arc::clone(&closure),
            output: content.output,
            errors: content.errors,
            is_repeatable: true,
        })
    }
}
