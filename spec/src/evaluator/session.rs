//! One evaluation: answers what the child asks, writes it down, and understands how the child ended.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tw_model::Code;

use super::compiler::{Code as Compiled, Compiler};
use super::ending::{self, Status};
use super::frame::Frames;
use super::said::{self, Said, SaidError};
use super::zygote::{Job, Running, Zygote};
use super::{Answers, Detail, EvalConfig, Evaluation, Question, QuestionKind, Role, Work};
use crate::SpecError;
use crate::source::{Hash, Snapshot, SourceError};

/// How long to wait for a sign of a zygote that should have killed its child.
const SILENCE: Duration = Duration::from_secs(5);
/// The most time that a child that is kept has for a spec. One that needs more gets a child of its own.
const KEPT_TIME: Duration = Duration::from_secs(2);
/// The most different questions a spec may ask.
const QUESTIONS_MAX: usize = 10_000;
/// The longest path a spec may ask for.
const PATH_BYTES_MAX: usize = 4096;

/// Has the file run and serves the child until it ends; none if the zygote is gone, in which case the
/// request may be made again to another one.
pub(super) fn run(means: Means<'_>, tree: &Snapshot<'_>, work: Work<'_>) -> Option<Evaluation> {
    if work.role == Role::Spec
        && let Some(evaluation) = attempt_in_kept(means, tree, work)
    {
        return Some(evaluation);
    }
    match attempt(means, tree, work)? {
        // A child that waited for a job may have been killed just before it came.
        Attempt::NotTaken(_) => attempt(means, tree, work).map(Attempt::evaluation),
        Attempt::Done(evaluation) => Some(evaluation),
    }
}

/// What came of one child.
enum Attempt {
    Done(Evaluation),
    /// It ended without having read all that it was sent.
    NotTaken(Evaluation),
}

impl Attempt {
    fn evaluation(self) -> Evaluation {
        match self {
            Attempt::Done(evaluation) | Attempt::NotTaken(evaluation) => evaluation,
        }
    }
}

/// Has a spec run in a child that is kept, if there is one. None if it did not come to its end: what is wrong is found out in
/// a child of its own.
fn attempt_in_kept(means: Means<'_>, tree: &Snapshot<'_>, work: Work<'_>) -> Option<Evaluation> {
    let time = KEPT_TIME.min(means.config.cpu).min(means.config.deadline);
    let mut child = means.zygote.begin_in_kept(&job(work), time)?;
    let mut session = Session::new(Some(means), tree, work);
    let is_timed = child.frames.wait_at_most(time + SILENCE);
    session.begin(&mut child.frames, work.role);
    match is_timed.map(|()| session.serve(&mut child.frames)) {
        Ok(Ok(Some(last @ Said::Jobs(_)))) => {
            means.zygote.keep(child);
            Some(session.concluded(Ok(last), &Status::default(), means.config))
        }
        _ => {
            means.zygote.let_go(child);
            None
        }
    }
}

fn attempt(means: Means<'_>, tree: &Snapshot<'_>, work: Work<'_>) -> Option<Attempt> {
    let mut child = start(means, work).ok()?;
    let mut session = Session::new(Some(means), tree, work);
    session.begin(&mut child.frames, work.role);
    means.zygote.begun(&child, means.config.deadline).ok()?;
    let last = session.serve(&mut child.frames);
    let (status, silence) = (child.status, means.config.deadline + SILENCE);
    let done = match last {
        Err(SaidError::Io(cause)) => {
            let status = Status::at_the_end(status, silence)?;
            let ended = session.ended(&status, means.config);
            match cause.kind() {
                // The kernel says so if what was sent had not been read.
                io::ErrorKind::ConnectionReset => return Some(Attempt::NotTaken(ended)),
                _ => ended,
            }
        }
        Ok(None) => {
            let status = Status::at_the_end(status, silence)?;
            session.ended(&status, means.config)
        }
        // Nor can a child be sealed whose zygote is just ending; one that lives tells of the child's end.
        Ok(Some(last @ Said::Unsealed(_))) => {
            let status = Status::at_the_end(status, silence)?;
            session.concluded(Ok(last), &status, means.config)
        }
        // A call that was denied before the last word was noted before it, too.
        Ok(Some(last)) => session.concluded(Ok(last), &Status::so_far(status), means.config),
        Err(cause) => session.concluded(Err(cause), &Status::so_far(status), means.config),
    };
    Some(Attempt::Done(done))
}

/// Understands a recorded conversation as [`run`] would: `said` is everything the child sent.
pub(super) fn replay(tree: &Snapshot<'_>, work: Work<'_>, said: &[u8]) -> Evaluation {
    let (config, status) = (EvalConfig::default(), Status::default());
    let mut session = Session::new(None, tree, work);
    let mut child = Frames::new(Recorded(said));
    session.begin(&mut child, work.role);
    match session.serve(&mut child) {
        Err(SaidError::Io(_)) | Ok(None) => session.ended(&status, &config),
        Ok(Some(last)) => session.concluded(Ok(last), &status, &config),
        Err(cause) => session.concluded(Err(cause), &status, &config),
    }
}

/// A child of which only the words are left.
struct Recorded<'a>(&'a [u8]);

impl Read for Recorded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Recorded<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an evaluation is done with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) zygote: &'a Zygote,
    pub(super) config: &'a EvalConfig,
    pub(super) compiler: &'a Compiler,
}

/// Gives a child the work.
fn start(means: Means<'_>, work: Work<'_>) -> io::Result<Running> {
    let child = means.zygote.begin(&job(work))?;
    child.frames.wait_at_most(means.config.deadline + SILENCE)?;
    Ok(child)
}

fn job(work: Work<'_>) -> Job<'_> {
    Job {
        role: work.role.as_str(),
        path: work.path,
        references: work.detail == Detail::References,
    }
}

struct Session<'a> {
    /// None when a recorded conversation is replayed; files are then not compiled.
    means: Option<Means<'a>>,
    tree: &'a Snapshot<'a>,
    path: &'a str,
    answers: Option<&'a dyn Answers>,
    asked: BTreeMap<(QuestionKind, String), Option<Hash>>,
    /// Whether the source could answer everything.
    is_answered: bool,
}

impl<'a> Session<'a> {
    fn new(means: Option<Means<'a>>, tree: &'a Snapshot<'a>, work: Work<'a>) -> Session<'a> {
        Session {
            means,
            tree,
            path: work.path,
            answers: work.answers,
            asked: BTreeMap::new(),
            is_answered: true,
        }
    }

    /// Sends a spec unasked, so that it is read while its child is being made. A child that does not take it says why,
    /// or its end does. The child compiles it: to have that done elsewhere is two more ways between processes, and a spec is
    /// rarely evaluated twice as it is.
    fn begin(&mut self, child: &mut Frames<impl Read + Write>, role: Role) {
        if role == Role::Spec {
            let found = self.read(self.path);
            let _ = self.reply(child, found);
        }
    }

    /// Answers questions until the child says something else; none if it ended without a word.
    fn serve(&mut self, child: &mut Frames<impl Read + Write>) -> Result<Option<Said>, SaidError> {
        loop {
            let Some(received) = child.read()? else {
                return Ok(None);
            };
            match said::understand(&received)? {
                Said::Question(asked) => self.answer(child, &asked.ask, &asked.path)?,
                last => return Ok(Some(last)),
            }
        }
    }

    fn answer(
        &mut self,
        child: &mut Frames<impl Read + Write>,
        ask: &str,
        path: &str,
    ) -> Result<(), SaidError> {
        if self.asked.len() >= QUESTIONS_MAX {
            return Err(SaidError::TooManyQuestions(QUESTIONS_MAX));
        }
        if path.len() > PATH_BYTES_MAX && self.answers.is_none() {
            return Err(SaidError::LongPath(path.len()));
        }
        let answer = match ask {
            "read" => self.read(path),
            "list" => self.list(path),
            "exists" => self.exists(path),
            "module" => self.module(path),
            _ => match self.answers {
                Some(answers) => Ok(answers.answer(ask, path).map(|content| Found {
                    content: Some(content.into()),
                    ..Found::new("answer", path)
                })),
                None => return Err(SaidError::UnknownQuestion(ask.chars().take(80).collect())),
            },
        };
        Ok(self.reply(child, answer)?)
    }

    fn reply(
        &mut self,
        child: &mut Frames<impl Read + Write>,
        answer: Result<Option<Found>, SourceError>,
    ) -> io::Result<()> {
        let (head, found) = match answer {
            Ok(None) => (json!({ "found": null }), None),
            Ok(Some(found)) => (found.head(), Some(found)),
            Err(cause) => {
                self.is_answered = false;
                (json!({ "error": describe(&cause) }), None)
            }
        };
        let content = found.as_ref().and_then(|found| found.content.as_deref());
        let code = found.as_ref().and_then(|found| found.code.as_deref());
        child.answer(
            &head.to_string(),
            content.unwrap_or_default(),
            code.unwrap_or_default(),
        )
    }

    /// Adds the code of a module.
    fn compiled(&self, found: Found) -> Found {
        let code = found
            .content
            .as_deref()
            .zip(found.hash)
            .zip(self.means)
            .and_then(|((content, hash), means)| {
                let Means {
                    zygote,
                    config,
                    compiler,
                } = means;
                compiler.code(zygote, config, content, hash)
            });
        Found { code, ..found }
    }

    fn read(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let file = self.tree.read(path)?;
        self.asked.insert(
            (QuestionKind::Read, path.to_owned()),
            file.as_ref().map(|file| file.hash),
        );
        Ok(file.map(|file| Found {
            hash: Some(file.hash),
            content: Some(file.content),
            ..Found::new("file", path)
        }))
    }

    fn list(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let listing = self.tree.list(path)?;
        let hash = listing.as_deref().map(hash_of);
        self.asked
            .insert((QuestionKind::List, path.to_owned()), hash);
        Ok(listing.map(|content| Found {
            content: Some(content.into()),
            ..Found::new("folder", path)
        }))
    }

    fn exists(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let what = self.tree.what(path)?;
        let hash = what.map(|what| hash_of(what.as_bytes()));
        self.asked
            .insert((QuestionKind::Exists, path.to_owned()), hash);
        Ok(what.map(|what| Found::new(what, path)))
    }

    /// What an import finds: a package, else a module, else a folder that may hold some.
    fn module(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        for (what, file) in [
            ("package", format!("{path}/__init__.py")),
            ("module", format!("{path}.py")),
        ] {
            if let Some(found) = self.read(&file)? {
                let found = self.compiled(found);
                return Ok(Some(Found { what, ..found }));
            }
        }
        let folder = self.exists(path)?.filter(|found| found.what == "folder");
        Ok(folder.map(|found| Found {
            what: "namespace",
            ..found
        }))
    }

    /// Makes an evaluation of the last word, unless a call was denied before it.
    fn concluded(
        self,
        last: Result<Said, SaidError>,
        status: &Status,
        config: &EvalConfig,
    ) -> Evaluation {
        let output = match &last {
            Ok(Said::Error(failure)) => failure.output.clone(),
            _ => String::new(),
        };
        let error = match last {
            Ok(Said::Jobs(result)) if !status.is_denied() => {
                return Evaluation {
                    jobs: result.jobs,
                    output: result.output,
                    ..self.evaluation(None)
                };
            }
            Ok(last) => ending::error_of(last, status, config, self.path),
            Err(cause) => ending::not_understood(&cause, self.path),
        };
        Evaluation {
            output,
            ..self.failed(error)
        }
    }

    /// Makes an evaluation of a child that ended without a last word.
    fn ended(self, status: &Status, config: &EvalConfig) -> Evaluation {
        let error = ending::without_a_word(status, config, self.path);
        self.failed(error)
    }

    /// A failed evaluation; its error names only files that the child was given, and shows their
    /// lines as they are.
    fn failed(self, mut error: SpecError) -> Evaluation {
        let was_read = |file: &str| {
            let question = (QuestionKind::Read, file.to_owned());
            file == self.path || self.asked.get(&question).is_some_and(Option::is_some)
        };
        error.trace.retain(|call| was_read(&call.file));
        if !was_read(&error.file) {
            error = SpecError::of_file(error.code, self.path, error.message, error.hint);
        }
        error.fill_source_lines(self.tree.source);
        self.evaluation(Some(error))
    }

    fn evaluation(self, error: Option<SpecError>) -> Evaluation {
        let is_repeatable = self.is_answered && error.as_ref().is_none_or(is_repeatable);
        let closure = self
            .asked
            .into_iter()
            .map(|((kind, path), answer_hash)| Question {
                kind,
                path,
                answer_hash: answer_hash.map(|hash| blake3::Hash::from(hash).to_hex().to_string()),
            })
            .collect::<Arc<[Question]>>();
        Evaluation {
            path: self.path.to_owned(),
            jobs: Vec::new(),
            closure,
            output: String::new(),
            error,
            is_repeatable,
        }
    }
}

/// Whether a mistake is the spec's, and not that of the machine at the time.
fn is_repeatable(error: &SpecError) -> bool {
    !matches!(
        error.code,
        Code::SpecTimeout | Code::SpecMemory | Code::SpecCrash
    )
}

fn hash_of(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

/// Something a question found.
struct Found {
    what: &'static str,
    path: String,
    content: Option<Arc<[u8]>>,
    hash: Option<Hash>,
    code: Compiled,
}

impl Found {
    fn new(what: &'static str, path: &str) -> Found {
        Found {
            what,
            path: path.to_owned(),
            content: None,
            hash: None,
            code: None,
        }
    }

    /// What the child is told before the content and the code.
    fn head(&self) -> Value {
        json!({
            "found": self.what,
            "path": self.path,
            "content_bytes": self.content.as_ref().map_or(0, |content| content.len()),
            "code_bytes": self.code.as_ref().map_or(0, |code| code.len()),
        })
    }
}

fn describe(cause: &SourceError) -> String {
    match std::error::Error::source(cause) {
        Some(source) => format!("{cause}: {source}"),
        None => cause.to_string(),
    }
}
