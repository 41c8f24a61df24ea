//! Finds out what comes of specs with the least work: what is known of an equal tree, else a result whose closure
//! holds, else an evaluation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use tw_model::{Code, diff_jobs};

use crate::cache::Identity;
use crate::ledger::{Ledger, Summary, asked_of, trace_of};
use crate::outcome::{self, SpecOutcome};
use crate::source::{Hash, Snapshot};
use crate::stored::{Results, Stored};
use crate::{Cache, Detail, Evaluator, EvaluatorError, Outcome, Source, SpecError};

/// With more specs than this to evaluate, none of them is looked at for references.
const REFERENCES_UP_TO: usize = 1000;
/// Results that are read from the cache together.
const PART: usize = 64;
/// With more specs than this, the ledger tells sooner than their results what has changed.
const RESULTS_UP_TO: usize = 32;
/// Specs that one thread looks for in the ledger at a time.
const LOOKED_AT_TOGETHER: usize = 256;

/// How results are come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// What evaluations find out about places. A known result may have more.
    pub(crate) detail: Detail,
    /// Whether a result must have come out the same under other conditions.
    pub(crate) is_strict: bool,
    /// Whether the results are wanted, and not only what is different about them.
    pub(crate) keeps: bool,
}

/// What came of the specs of a source.
pub(crate) struct Survey<'a> {
    evaluator: &'a Evaluator,
    tree: &'a Snapshot<'a>,
    options: Options,
    /// In the order of the paths given.
    pub(crate) specs: Vec<Surveyed>,
}

/// What is known of one spec.
pub(crate) struct Surveyed {
    pub(crate) path: String,
    pub(crate) summary: Summary,
    /// The hash of its closure; none if the result does not follow from that.
    pub(crate) trace: Option<Hash>,
    /// The result, where it is not in the cache or is wanted anyway.
    outcome: Option<SpecOutcome>,
}

/// What one spec leaves in the ledger.
struct News {
    surveyed: Surveyed,
    asked: Vec<crate::ledger::Asked>,
}

/// Surveys `specs` of the tree.
pub(crate) fn survey<'a>(
    evaluator: &'a Evaluator,
    tree: &'a Snapshot<'a>,
    specs: &[String],
    options: Options,
) -> Result<Survey<'a>, EvaluatorError> {
    // Of a few specs the results are asked for one by one: the ledger has all of the tree.
    let mut ledger = match evaluator.identity() {
        Some((cache, identity)) if specs.len() > RESULTS_UP_TO => {
            Some(Ledger::load(cache, &identity, tree.source))
        }
        _ => None,
    };
    let mut found = standing(evaluator, tree, specs, options, ledger.as_ref());
    let missing: Vec<usize> = (0..specs.len())
        .filter(|index| !found.contains_key(index))
        .collect();
    let options = Options {
        detail: match missing.len() > REFERENCES_UP_TO && !options.keeps {
            true => Detail::Places,
            false => options.detail,
        },
        ..options
    };
    let mut survey = Survey {
        evaluator,
        tree,
        options,
        specs: Vec::with_capacity(specs.len()),
    };
    let news = evaluator.in_parallel(&missing, |index| survey.find_out(&specs[*index]));
    for (index, news) in missing.into_iter().zip(news) {
        let News { surveyed, asked } = news?;
        match (&mut ledger, surveyed.trace) {
            (Some(ledger), Some(_)) => {
                ledger.note(&surveyed.path, &asked, surveyed.summary.clone());
            }
            (Some(ledger), None) => ledger.forget(&surveyed.path),
            (None, _) => {}
        }
        found.insert(index, surveyed);
    }
    survey.specs = found.into_values().collect();
    survey.keep(ledger);
    Ok(survey)
}

/// Those of the specs whose results the ledger tells, by their numbers. If another will be evaluated, the evaluator comes
/// up meanwhile.
fn standing(
    evaluator: &Evaluator,
    tree: &Snapshot<'_>,
    specs: &[String],
    options: Options,
    ledger: Option<&Ledger>,
) -> BTreeMap<usize, Surveyed> {
    let standing = ledger.map(|ledger| ledger.standing(tree));
    let is_awake = AtomicBool::new(false);
    let look = |path: &String| {
        let known = standing.as_ref().and_then(|standing| standing.of(path));
        let known = known.filter(|(_, summary)| summary.is_verified || !options.is_strict);
        if known.is_none()
            && !is_awake.load(Ordering::Relaxed)
            && !has_result(evaluator, tree, path, options)
        {
            evaluator.wake();
            is_awake.store(true, Ordering::Relaxed);
        }
        let (trace, summary) = known?;
        Some(Surveyed {
            path: path.clone(),
            summary,
            trace: Some(trace),
            outcome: None,
        })
    };
    let parts: Vec<&[String]> = specs.chunks(LOOKED_AT_TOGETHER).collect();
    let looked = evaluator.in_parallel(&parts, |part| part.iter().map(look).collect::<Vec<_>>());
    let looked = looked.into_iter().flatten().enumerate();
    looked
        .filter_map(|(index, surveyed)| Some((index, surveyed?)))
        .collect()
}

/// Whether a result of the spec is kept that holds.
fn has_result(evaluator: &Evaluator, tree: &Snapshot<'_>, path: &str, options: Options) -> bool {
    evaluator.identity().is_some_and(|(cache, identity)| {
        let results = Results::load(cache, &identity, path);
        let held = results.that_holds(tree);
        held.is_some_and(|stored| stored.summary.is_verified || !options.is_strict)
    })
}

impl Survey<'_> {
    /// Keeps what is new.
    fn keep(&self, ledger: Option<Ledger>) {
        if let Some((cache, identity)) = self.evaluator.identity() {
            if let Some(mut ledger) = ledger {
                let asked: BTreeSet<&str> =
                    self.specs.iter().map(|spec| spec.path.as_str()).collect();
                if asked.len() * 2 > ledger.len() {
                    ledger.keep_only(|spec| asked.contains(spec) || self.tree.is_there(spec));
                }
                ledger.save(cache, &identity, self.tree.source);
            }
            self.tree.source.remember();
            cache.flush();
        }
    }

    /// Looks for a result of the spec that holds, or else evaluates it.
    fn find_out(&self, path: &str) -> Result<News, EvaluatorError> {
        let Some((cache, identity)) = self.evaluator.identity() else {
            return self.evaluate(path, None);
        };
        let results = Results::load(cache, &identity, path);
        let Some(stored) = results.that_holds(self.tree) else {
            return self.evaluate(path, Some((cache, identity, results)));
        };
        if self.options.is_strict && !stored.summary.is_verified {
            let Some(outcome) = stored.outcome(path) else {
                return self.evaluate(path, Some((cache, identity, results)));
            };
            let references = stored.has_references;
            return self.finish(outcome, references, Some((cache, identity, results)));
        }
        let outcome = match self.options.keeps {
            true => stored.outcome(path),
            false => None,
        };
        let surveyed = Surveyed {
            path: path.to_owned(),
            summary: stored.summary.clone(),
            trace: Some(stored.trace),
            outcome,
        };
        let asked = stored.asked.clone();
        Ok(News { surveyed, asked })
    }

    fn evaluate(
        &self,
        path: &str,
        kept: Option<(&std::sync::Arc<Cache>, Identity, Results)>,
    ) -> Result<News, EvaluatorError> {
        let detail = self.options.detail;
        let outcome = outcome::evaluate_one(self.evaluator, self.tree, path, detail)?;
        self.finish(outcome, detail == Detail::References, kept)
    }

    /// Has the result confirmed if it must be, and keeps it.
    fn finish(
        &self,
        mut outcome: SpecOutcome,
        has_references: bool,
        kept: Option<(&std::sync::Arc<Cache>, Identity, Results)>,
    ) -> Result<News, EvaluatorError> {
        let mut is_verified = false;
        if self.options.is_strict && outcome.is_repeatable {
            match self.second_thoughts(&outcome)? {
                None => is_verified = true,
                Some(error) => {
                    outcome.errors.push(error);
                    outcome.is_repeatable = false;
                }
            }
        }
        let summary = summary_of(&outcome, is_verified);
        let path = outcome.file.clone();
        let asked = asked_of(&outcome.closure, self.tree);
        let asked = asked.filter(|_| outcome.is_repeatable);
        let trace = asked.as_deref().map(trace_of);
        let asked = asked.unwrap_or_default();
        let mut is_kept = false;
        if let Some((cache, identity, results)) = kept
            && let Some(trace) = trace
            && let Some(stored) = Stored::new(
                &outcome,
                trace,
                asked.clone(),
                summary.clone(),
                has_references,
            )
        {
            results.add(stored).save(cache, &identity, &path);
            is_kept = true;
        }
        let surveyed = Surveyed {
            path,
            summary,
            trace,
            outcome: (self.options.keeps || !is_kept).then_some(outcome),
        };
        Ok(News { surveyed, asked })
    }

    /// Evaluates again with other hashes and objects at other addresses; a difference is an error.
    fn second_thoughts(&self, first: &SpecOutcome) -> Result<Option<SpecError>, EvaluatorError> {
        let second = self.evaluator.second()?;
        let again = outcome::evaluate_one(second, self.tree, &first.file, Detail::Places)?;
        Ok(again
            .is_repeatable
            .then(|| difference(first, &again))
            .flatten())
    }

    /// The results of those specs that `wanted` names, in the order of the survey.
    pub(crate) fn load(
        &mut self,
        wanted: impl Fn(&Surveyed) -> bool,
    ) -> Result<Outcome, EvaluatorError> {
        let mut held = BTreeMap::new();
        let mut missing = Vec::new();
        for (index, spec) in self.specs.iter_mut().enumerate() {
            if wanted(spec) {
                match spec.outcome.take() {
                    Some(outcome) => drop(held.insert(index, outcome)),
                    None => missing.push(index),
                }
            }
        }
        let parts: Vec<&[usize]> = missing.chunks(PART).collect();
        let loaded = self
            .evaluator
            .in_parallel(&parts, |part| self.load_part(part));
        for (index, outcome) in missing.iter().zip(loaded.into_iter().flatten()) {
            held.insert(*index, outcome?);
        }
        Ok(Outcome::of(held.into_values(), self.tree.source))
    }

    /// The results of several specs, whose places among all are given.
    fn load_part(&self, part: &[usize]) -> Vec<Result<SpecOutcome, EvaluatorError>> {
        let specs: Vec<&Surveyed> = part.iter().map(|index| &self.specs[*index]).collect();
        let kept = match self.evaluator.identity() {
            Some((cache, identity)) => {
                let paths = specs.iter().map(|spec| spec.path.as_str());
                Results::load_all(cache, &identity, paths)
            }
            None => specs.iter().map(|_| Results::default()).collect(),
        };
        let loaded = specs.into_iter().zip(kept);
        loaded
            .map(|(spec, kept)| self.load_one(spec, &kept))
            .collect()
    }

    /// The result from the cache, or evaluated again if it is not there any more.
    fn load_one(&self, spec: &Surveyed, kept: &Results) -> Result<SpecOutcome, EvaluatorError> {
        let stored = spec.trace.and_then(|trace| {
            let stored = kept.of_trace(&trace)?;
            let enough = self.options.detail == Detail::Places || stored.has_references;
            stored.outcome(&spec.path).filter(|_| enough)
        });
        match stored {
            Some(outcome) => Ok(outcome),
            None => {
                let news = Survey {
                    evaluator: self.evaluator,
                    tree: self.tree,
                    options: Options {
                        keeps: true,
                        ..self.options
                    },
                    specs: Vec::new(),
                }
                .again(&spec.path)?;
                Ok(news)
            }
        }
    }

    fn again(&self, path: &str) -> Result<SpecOutcome, EvaluatorError> {
        let kept = self
            .evaluator
            .identity()
            .map(|(cache, identity)| (cache, identity, Results::load(cache, &identity, path)));
        let news = self.evaluate(path, kept)?;
        Ok(news.surveyed.outcome.unwrap_or_default())
    }
}

fn summary_of(outcome: &SpecOutcome, is_verified: bool) -> Summary {
    Summary {
        jobs: outcome
            .jobs
            .iter()
            .map(|job| job.spec.id().to_string())
            .collect(),
        has_errors: !outcome.errors.is_empty(),
        is_verified,
    }
}

/// What is different about a second evaluation.
fn difference(first: &SpecOutcome, again: &SpecOutcome) -> Option<SpecError> {
    let second_error = again.errors.first();
    if first.errors != again.errors {
        let said = |error: Option<&SpecError>| {
            error.map_or("none".to_owned(), |error| error.message.clone())
        };
        let message = format!(
            "the spec's errors differ between two evaluations: first {}, then {}",
            said(first.errors.first()),
            said(second_error)
        );
        return Some(nondeterministic(first, None, message));
    }
    // Two jobs of one name are a mistake that is found later; here each is compared with its own like.
    let mut others: BTreeMap<_, VecDeque<_>> = BTreeMap::new();
    for job in &again.jobs {
        let same = others.entry(job.spec.id()).or_default();
        same.push_back(&job.spec);
    }
    for job in &first.jobs {
        let same = others.get_mut(&job.spec.id());
        let other = same.and_then(VecDeque::pop_front);
        if let Some(change) = diff_jobs(Some(&job.spec), other) {
            let value = change.changes.first().map_or_else(
                || "the second has no such job".to_owned(),
                |change| format!("{}: {} and then {}", change.path, change.old, change.new),
            );
            let message = format!(
                "job '{}' came out differently in a second evaluation: {value}",
                job.spec.id()
            );
            let place = change
                .changes
                .first()
                .and_then(|change| job.provenance.locate(&change.path))
                .unwrap_or(&job.source);
            return Some(nondeterministic(first, Some(place), message));
        }
    }
    if first.jobs.len() != again.jobs.len() {
        let message = "a second evaluation exports other jobs".to_owned();
        return Some(nondeterministic(first, None, message));
    }
    (first.output != again.output).then(|| {
        let lines = first.output.lines().zip(again.output.lines());
        let differing = lines.into_iter().find(|(one, other)| one != other);
        let (one, other) = differing.unwrap_or(("…", "another number of lines"));
        let message =
            format!("what the spec prints differs between two evaluations: {one} and then {other}");
        nondeterministic(first, None, message)
    })
}

fn nondeterministic(
    outcome: &SpecOutcome,
    place: Option<&tw_model::Location>,
    message: String,
) -> SpecError {
    let hint =
        "sort what comes from a set, and let no value depend on id() or on the order of objects";
    let hint = Some(hint.to_owned());
    match place {
        Some(place) => SpecError::at(Code::SpecNondeterministic, place, message, hint),
        None => SpecError::of_file(Code::SpecNondeterministic, &outcome.file, message, hint),
    }
}

/// Evaluates `specs` of `source`, as `Source::find_specs` lists them, under two conditions; a difference is an error.
///
/// What was found the same once is not evaluated again as long as its closure stays.
pub fn evaluate_strictly(
    evaluator: &Evaluator,
    source: &Source,
    specs: &[String],
) -> Result<Outcome, EvaluatorError> {
    let options = Options {
        is_strict: true,
        keeps: true,
        ..Options::default()
    };
    let tree = evaluator.snapshot(source);
    survey(evaluator, &tree, specs, options)?.load(|_| true)
}
