//! Specs, from source control to typed jobs.
//!
//! [`Source`] is a tree of files: the work tree, or any git revision without a checkout. [`Evaluator`] keeps
//! a `tw-eval` process and has specs evaluated in sealed children of it, whose every question it answers
//! from a source and writes down. [`evaluate`] makes typed jobs and located errors of that, [`compare`] two
//! such outcomes into what `tw diff` shows, and [`package`] packs the folders that jobs name.
//!
//! Everything here blocks; the work is done on the caller's thread and on threads of its own.

mod blobs;
mod cache;
mod cause;
mod compare;
mod dependencies;
mod error;
mod evaluator;
mod field_names;
mod history;
mod job_history;
mod ledger;
pub mod library;
mod mirror;
mod outcome;
pub mod package;
mod policy;
mod provenance;
mod renames;
mod render;
mod rewrite;
mod running;
mod sealed;
mod source;
mod stored;
mod survey;
mod testing;

pub use blobs::{source_diff, trees_of_blobs};
pub use cache::{CACHE_BYTES_MAX, Cache};
pub use compare::{
    CompareError, Compared, DiffChange, DiffJob, DiffScope, DiffSummary, Side, SpecDiff, Tree,
    compare, diff,
};
pub use dependencies::{Dependencies, dependencies};
pub use error::{Frame, SpecError};
pub use evaluator::{
    Detail, EvalConfig, Evaluation, Evaluator, EvaluatorError, Question, QuestionKind,
};
pub use job_history::{HistoryChange, HistoryEntry, HistoryError, job_history};
pub use mirror::{Mirror, MirrorError, Remote};
pub use outcome::{EvaluatedJob, EvaluatedSpec, Outcome, evaluate, replay};
pub use policy::{POLICY_FILE, PolicyError, PolicyReview, review, review_some};
pub use provenance::Provenance;
pub use renames::Rename;
pub use render::{RenderOptions, render_error, render_errors, render_warnings, visible};
pub use rewrite::{FieldChange, Place, Refusal, RewriteError, Rewriter, Rewritten, Wanted, Wish};
pub use running::{RunningJob, diff_with_running};
pub use source::{Entry, EntryKind, Near, Source, SourceError};
pub use survey::evaluate_strictly;
pub use testing::{Failure, Test, TestFiles, TestOutcome, TestResult, run_tests};
