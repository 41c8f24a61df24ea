//! The client of `tw-eval`: keeps a zygote and has specs evaluated in children of it.

mod companion;
mod compiler;
mod ending;
mod frame;
mod said;
mod session;
mod zygote;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tw_model::Code;

use crate::cache::Identity;
use crate::source::Snapshot;
use crate::{Cache, Source, SpecError};
use compiler::Compiler;
use session::Means;
use zygote::{Launched, Zygote};

/// Objects that shift the heap of the second evaluator.
const OTHER_HEAP: u32 = 1009;

/// How specs are evaluated.
#[derive(Clone, Debug)]
pub struct EvalConfig {
    /// The evaluator's program; none means to look beside the running program, in `TW_LIBEXEC`, then in
    /// `../lib/twill`.
    pub program: Option<PathBuf>,
    /// How many specs are evaluated at the same time. Twice the processors by default: an evaluation waits for answers
    /// about a fifth of its time.
    pub in_flight: usize,
    /// Processor time a spec may take; past it the error names the line.
    pub cpu: Duration,
    /// Time after which an evaluation is killed.
    pub deadline: Duration,
    /// Address space of an evaluation.
    pub memory_bytes: u64,
    /// What earlier evaluations left, and where these leave theirs; none means that nothing is kept.
    pub cache: Option<Arc<Cache>>,
    /// Seeds the hashes of text, and with them the order of sets.
    pub hash_seed: u32,
    /// Objects allocated before anything else, which moves the rest in memory.
    pub heap_shift: u32,
}

impl Default for EvalConfig {
    fn default() -> EvalConfig {
        EvalConfig {
            program: None,
            in_flight: 2 * std::thread::available_parallelism().map_or(1, usize::from),
            cpu: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            memory_bytes: 512 << 20,
            cache: None,
            hash_seed: 0,
            heap_shift: 0,
        }
    }
}

/// Why nothing can be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvaluatorError {
    #[error(
        "the program 'tw-eval' is in none of {}; build it with `cargo build -p tw-eval`, or name its folder in TW_LIBEXEC",
        searched.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoProgram { searched: Vec<PathBuf> },
    #[error("cannot start {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("{} ended before it was ready; it says why on standard error", program.display())]
    NotReady { program: PathBuf },
    #[error("{} is of version {found} and this program of version {expected}; install both from one build", program.display())]
    Version {
        program: PathBuf,
        found: String,
        expected: String,
    },
}

/// What a spec asked of its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionKind {
    /// The contents of a file.
    Read,
    /// The names in a folder.
    List,
    /// Whether a file or folder is there.
    Exists,
    /// The digest of a folder, as a package.
    Package,
}

/// One question and the hash of its answer: a part of the closure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Question {
    pub kind: QuestionKind,
    pub path: String,
    /// BLAKE3 in hex; none when there was no such thing.
    pub answer_hash: Option<String>,
}

/// How much is found out about where values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Where each value is written.
    #[default]
    Places,
    /// Also the definitions that it refers to, through arguments and imports; takes several times as long.
    References,
}

/// What a sealed child runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A spec, for its jobs.
    Spec,
    /// A file of tests.
    Test,
    /// A file of policies.
    Policy,
}

impl Role {
    /// The role as `tw-eval` knows it.
    fn as_str(self) -> &'static str {
        match self {
            Role::Spec => "spec",
            Role::Test => "test",
            Role::Policy => "policy",
        }
    }
}

/// Answers questions beyond those about the tree. They are not part of the closure.
pub(crate) trait Answers {
    /// The answer to `ask` about `path`; none if there is no such thing.
    fn answer(&self, ask: &str, path: &str) -> Option<Vec<u8>>;
}

/// What a sealed child is asked to do.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) role: Role,
    /// The file, from the root.
    pub(crate) path: &'a str,
    pub(crate) detail: Detail,
    pub(crate) answers: Option<&'a dyn Answers>,
}

/// Understands everything a child is recorded to have sent, as if it had just evaluated the spec at `path`.
pub(crate) fn replay(source: &Source, path: &str, said: &[u8]) -> Evaluation {
    let spec = Work {
        role: Role::Spec,
        path,
        detail: Detail::Places,
        answers: None,
    };
    session::replay(&Snapshot::new(source, None), spec, said)
}

/// What came of one spec.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The spec, from the repository's root.
    pub path: String,
    /// Its jobs as author JSON, in the order exported; empty when there is an error.
    pub jobs: Vec<Value>,
    /// Everything it asked, sorted, each question once. The result depends on nothing else.
    pub closure: Arc<[Question]>,
    /// What it printed.
    pub output: String,
    pub error: Option<SpecError>,
    /// Whether the closure alone led here: not so after a timeout, or when a file could not be read.
    pub is_repeatable: bool,
}

/// A running evaluator. Shared freely between threads; dropping it ends the process.
#[derive(Debug)]
pub struct Evaluator {
    config: EvalConfig,
    program: PathBuf,
    zygote: Mutex<Option<Arc<Zygote>>>,
    /// One that nobody has waited for yet.
    launched: Mutex<Option<Launched>>,
    compiler: Compiler,
    second: OnceLock<Box<Evaluator>>,
    evaluations: AtomicUsize,
}

impl Evaluator {
    /// Finds and starts `tw-eval`. Takes about a tenth of a second, for the interpreter and its library, unless
    /// the cache knows the program: then it is started when it is first needed.
    pub fn start(config: EvalConfig) -> Result<Evaluator, EvaluatorError> {
        let program = match &config.program {
            Some(program) => program.clone(),
            None => companion::find("tw-eval")?,
        };
        let known = config
            .cache
            .as_ref()
            .and_then(|cache| Identity::recall(cache, &program));
        let evaluator = Evaluator {
            config,
            program,
            zygote: Mutex::default(),
            launched: Mutex::default(),
            compiler: Compiler::default(),
            second: OnceLock::new(),
            evaluations: AtomicUsize::new(0),
        };
        match known {
            Some(identity) => drop(evaluator.compiler.identity.set(identity)),
            None => drop(evaluator.zygote()?),
        }
        Ok(evaluator)
    }

    /// What results are kept under; none if they are not kept.
    pub(crate) fn identity(&self) -> Option<(&Arc<Cache>, Identity)> {
        let cache = self.config.cache.as_ref()?;
        Some((cache, *self.compiler.identity.get()?))
    }

    /// An evaluator that lays things out otherwise: other hashes of text, and objects at other addresses.
    pub(crate) fn second(&self) -> Result<&Evaluator, EvaluatorError> {
        if let Some(second) = self.second.get() {
            return Ok(second);
        }
        let config = EvalConfig {
            hash_seed: self.config.hash_seed.wrapping_add(1),
            heap_shift: self.config.heap_shift + OTHER_HEAP,
            program: Some(self.program.clone()),
            ..self.config.clone()
        };
        let started = Evaluator::start(config)?;
        Ok(self.second.get_or_init(|| Box::new(started)))
    }

    /// Evaluates one spec of `source`. A crashed evaluator is started again, once.
    pub fn evaluate(
        &self,
        source: &Source,
        path: &str,
        detail: Detail,
    ) -> Result<Evaluation, EvaluatorError> {
        self.evaluate_in(&self.snapshot(source), path, detail)
    }

    /// The answers of a source, for one run.
    pub(crate) fn snapshot<'a>(&self, source: &'a Source) -> Snapshot<'a> {
        Snapshot::new(source, self.config.cache.clone())
    }

    /// As [`Evaluator::evaluate`], sharing what is looked up with other evaluations.
    pub(crate) fn evaluate_in(
        &self,
        tree: &Snapshot<'_>,
        path: &str,
        detail: Detail,
    ) -> Result<Evaluation, EvaluatorError> {
        let spec = Work {
            role: Role::Spec,
            path,
            detail,
            answers: None,
        };
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        self.run_in(tree, spec)
    }

    /// Runs one file of `source` in a sealed child; what it hands over are its "jobs".
    pub(crate) fn run(
        &self,
        source: &Source,
        work: Work<'_>,
    ) -> Result<Evaluation, EvaluatorError> {
        self.run_in(&self.snapshot(source), work)
    }

    fn run_in(&self, tree: &Snapshot<'_>, work: Work<'_>) -> Result<Evaluation, EvaluatorError> {
        let path = work.path;
        for _ in 0..2 {
            let zygote = self.zygote()?;
            let means = Means {
                zygote: &zygote,
                config: &self.config,
                compiler: &self.compiler,
            };
            if let Some(evaluation) = session::run(means, tree, work) {
                return Ok(evaluation);
            }
            tracing::warn!(spec = path, "the evaluator went away; starting it again");
            self.forget(&zygote);
        }
        let message = "the evaluator ended twice while it evaluated this spec".to_owned();
        Ok(Evaluation::failed(
            path,
            SpecError::of_file(Code::SpecCrash, path, message, None),
        ))
    }

    /// Evaluates specs, several at a time; the results are in the order of `paths`.
    pub fn evaluate_all(
        &self,
        source: &Source,
        paths: &[String],
        detail: Detail,
    ) -> Result<Vec<Evaluation>, EvaluatorError> {
        let tree = self.snapshot(source);
        let done = self.in_parallel(paths, |path| self.evaluate_in(&tree, path, detail));
        done.into_iter().collect()
    }

    /// Does `work` for each item, as many at a time as are evaluated; the results are in the order of the items.
    pub(crate) fn in_parallel<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let run = || {
            let mut done = Vec::new();
            while let Some((index, item)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                items.get(index).map(|item| (index, item))
            } {
                done.push((index, work(item)));
            }
            done
        };
        let workers = self.config.in_flight.clamp(1, items.len().max(1));
        let mut done: Vec<(usize, R)> = thread::scope(|scope| {
            let threads: Vec<_> = (1..workers).map(|_| scope.spawn(run)).collect();
            let own = run();
            let others = threads.into_iter().flat_map(|thread| match thread.join() {
                Ok(finished) => finished,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            own.into_iter().chain(others).collect()
        });
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// How many specs were evaluated so far; those whose results were known are not among them.
    pub fn evaluations(&self) -> usize {
        self.evaluations.load(Ordering::Relaxed)
    }

    /// How many files are run at the same time.
    pub(crate) fn in_flight(&self) -> usize {
        self.config.in_flight
    }

    /// The interpreter's version, as `3.11.2`.
    pub fn python_version(&self) -> Result<String, EvaluatorError> {
        Ok(self.zygote()?.python.clone())
    }

    /// The process id of the zygote.
    pub fn process_id(&self) -> Result<u32, EvaluatorError> {
        Ok(self.zygote()?.process_id())
    }

    /// Has the zygote come up while the caller does something else first. What is wrong shows when it is used.
    pub fn wake(&self) {
        if lock(&self.zygote).is_some() {
            return;
        }
        let mut launched = lock(&self.launched);
        if launched.is_none() {
            *launched = Zygote::launch(&self.program, &self.config).ok();
        }
    }

    fn zygote(&self) -> Result<Arc<Zygote>, EvaluatorError> {
        let mut current = lock(&self.zygote);
        if let Some(zygote) = current.as_ref() {
            return Ok(Arc::clone(zygote));
        }
        let launched = lock(&self.launched).take();
        let launched = match launched {
            Some(launched) => launched,
            None => Zygote::launch(&self.program, &self.config)?,
        };
        let started = Arc::new(launched.ready()?);
        if let Some(cache) = &self.config.cache
            && self.compiler.identity.get().is_none()
            && let Some(identity) = Identity::learn(cache, &self.program, &started.library)
        {
            let _ = self.compiler.identity.set(identity);
        }
        *current = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Lets go of a zygote that is gone, unless another thread has replaced it already.
    fn forget(&self, gone: &Arc<Zygote>) {
        let mut current = lock(&self.zygote);
        if current
            .as_ref()
            .is_some_and(|zygote| Arc::ptr_eq(zygote, gone))
        {
            *current = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Evaluation {
    fn failed(path: &str, error: SpecError) -> Evaluation {
        Evaluation {
            path: path.to_owned(),
            jobs: Vec::new(),
            closure: Arc::new([]),
            output: String::new(),
            error: Some(error),
            is_repeatable: false,
        }
    }
}
