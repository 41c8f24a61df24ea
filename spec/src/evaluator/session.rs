//! One evaluation: answers what the child asks, writes it down, and understands how the child ended.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::libc;
use serde::Deserialize;
use serde_json::{Value, json};
use tw_model::Code;

use super::compiler::{Code as Compiled, Compiler, Keep};
use super::frame::Frames;
use super::zygote::{Request, Zygote};
use super::{Answers, Detail, EvalConfig, Evaluation, Question, QuestionKind, Work};
use crate::source::{EntryKind, Source, SourceError};
use crate::{Frame, SpecError};

/// How long to wait for a sign of a zygote that should have killed its child.
const SILENCE: Duration = Duration::from_secs(5);

/// A frame from the child.
#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Question {
        ask: String,
        path: String,
    },
    Jobs {
        jobs: Vec<Value>,
        output: String,
    },
    Error {
        error: RawError,
        #[serde(default)]
        output: String,
    },
    /// The number of a system call that the seal refused.
    Denied {
        denied: i64,
    },
    /// The child could not be sealed and did not run.
    Unsealed {
        unsealed: String,
    },
    /// The evaluator's own Python failed.
    Broken {
        broken: String,
    },
}

/// An error as the child words it.
#[derive(Deserialize)]
struct RawError {
    code: String,
    message: String,
    #[serde(default)]
    hint: Option<String>,
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    line: Option<u32>,
    #[serde(default)]
    column: Option<u32>,
    #[serde(default)]
    end_line: Option<u32>,
    #[serde(default)]
    end_column: Option<u32>,
    #[serde(default)]
    source_line: Option<String>,
    #[serde(default)]
    trace: Vec<Frame>,
}

/// How a child ended, as the zygote saw it.
#[derive(Default, Deserialize)]
struct Ended {
    exit_code: Option<i32>,
    signal: Option<i32>,
    deadline: bool,
}

/// Has the file run and serves the child until it ends; none if the zygote is gone, in which case the
/// request may be made again to another one.
pub(super) fn run(means: Means<'_>, source: &Source, work: Work<'_>) -> Option<Evaluation> {
    let (mut session, status) = Session::open(means, source, work).ok()?;
    match session.serve() {
        Ok(Some(message)) => Some(session.finished(message)),
        Ok(None) | Err(_) => {
            let ended = how_it_ended(status)?;
            Some(session.failed(unfinished(&ended, means.config, work.path)))
        }
    }
}

/// What an evaluation is done with.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) zygote: &'a Zygote,
    pub(super) config: &'a EvalConfig,
    pub(super) compiler: &'a Compiler,
}

struct Session<'a> {
    means: Means<'a>,
    source: &'a Source,
    path: &'a str,
    answers: Option<&'a dyn Answers>,
    child: Frames,
    asked: BTreeMap<(QuestionKind, String), Option<String>>,
}

impl<'a> Session<'a> {
    /// Sends the request; returns the session and the pipe on which the zygote reports.
    fn open(
        means: Means<'a>,
        source: &'a Source,
        work: Work<'a>,
    ) -> io::Result<(Session<'a>, OwnedFd)> {
        let (child, theirs) = UnixStream::pair()?;
        let (status, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let config = means.config;
        child.set_read_timeout(Some(config.deadline + SILENCE))?;
        let request = Request {
            role: work.role.as_str(),
            path: work.path,
            cpu_s: config.cpu.as_secs().max(1),
            wall_ms: config.deadline.as_millis() as u64,
            memory_bytes: config.memory_bytes,
            references: work.detail == Detail::References,
        };
        means.zygote.request(&request, &theirs.into(), &report)?;
        Ok((
            Session {
                means,
                source,
                path: work.path,
                answers: work.answers,
                child: Frames::new(child),
                asked: BTreeMap::new(),
            },
            status,
        ))
    }

    /// Answers questions until the child says something else; none if it ended without a word.
    fn serve(&mut self) -> io::Result<Option<Message>> {
        loop {
            let Some(bytes) = self.child.read()? else {
                return Ok(None);
            };
            match serde_json::from_slice(&bytes)? {
                Message::Question { ask, path } => self.answer(&ask, &path)?,
                last => return Ok(Some(last)),
            }
        }
    }

    fn answer(&mut self, ask: &str, path: &str) -> io::Result<()> {
        let answer = match ask {
            "spec" => self.spec(path),
            "read" => self.read(path),
            "list" => self.list(path),
            "exists" => self.exists(path),
            "module" => self.module(path),
            _ => match self.answers {
                Some(answers) => Ok(answers.answer(ask, path).map(|content| Found {
                    content: Some(content),
                    ..Found::new("answer", path)
                })),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the question '{ask}'"),
                    ));
                }
            },
        };
        let (head, found) = match answer {
            Ok(None) => (json!({ "found": null }), None),
            Ok(Some(found)) => (found.head(), Some(found)),
            Err(cause) => (json!({ "error": describe(&cause) }), None),
        };
        let content = found.as_ref().and_then(|found| found.content.as_deref());
        let code = found.as_ref().and_then(|found| found.code.as_deref());
        self.child.answer(
            &head.to_string(),
            content.unwrap_or_default(),
            code.unwrap_or_default(),
        )
    }

    /// The file that is evaluated, with its code.
    fn spec(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let found = self.read(path)?;
        Ok(found.map(|found| self.compiled(found, Keep::Spec)))
    }

    /// Adds the code of a file that runs.
    fn compiled(&self, found: Found, keep: Keep) -> Found {
        let Means {
            zygote,
            config,
            compiler,
        } = self.means;
        let code = found
            .content
            .as_deref()
            .zip(found.hash)
            .and_then(|(content, hash)| compiler.code(zygote, config, content, hash, keep));
        Found { code, ..found }
    }

    fn read(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let content = self.source.read(path)?;
        let hash = content.as_deref().map(blake3::hash);
        self.asked.insert(
            (QuestionKind::Read, path.to_owned()),
            hash.map(|hash| hash.to_hex().to_string()),
        );
        Ok(content.map(|content| Found {
            hash,
            content: Some(content),
            ..Found::new("file", path)
        }))
    }

    fn list(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let entries = self.source.list(path)?;
        let listing = entries.map(|entries| {
            let line = |entry: crate::Entry| match entry.kind {
                EntryKind::Folder => entry.name + "/\n",
                EntryKind::File { .. } | EntryKind::Symlink => entry.name + "\n",
            };
            entries
                .into_iter()
                .map(line)
                .collect::<String>()
                .into_bytes()
        });
        let hash = listing
            .as_deref()
            .map(|listing| blake3::hash(listing).to_hex().to_string());
        self.asked
            .insert((QuestionKind::List, path.to_owned()), hash);
        Ok(listing.map(|content| Found {
            content: Some(content),
            ..Found::new("folder", path)
        }))
    }

    fn exists(&mut self, path: &str) -> Result<Option<Found>, SourceError> {
        let what = self.source.kind(path)?.map(|kind| match kind {
            EntryKind::Folder => "folder",
            EntryKind::File { .. } | EntryKind::Symlink => "file",
        });
        let hash = what.map(|what| blake3::hash(what.as_bytes()).to_hex().to_string());
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
                let found = self.compiled(found, Keep::Module);
                return Ok(Some(Found { what, ..found }));
            }
        }
        let folder = self.exists(path)?.filter(|found| found.what == "folder");
        Ok(folder.map(|found| Found {
            what: "namespace",
            ..found
        }))
    }

    fn finished(self, last: Message) -> Evaluation {
        match last {
            Message::Jobs { jobs, output } => Evaluation {
                jobs,
                output,
                ..self.evaluation(None)
            },
            Message::Error { error, output } => {
                let error = error.located(self.path);
                Evaluation {
                    output,
                    ..self.evaluation(Some(error))
                }
            }
            Message::Denied { denied } => {
                let error = denied_call(denied, self.path);
                self.failed(error)
            }
            Message::Unsealed { unsealed } => {
                let message = format!("the evaluation could not be sealed: {unsealed}");
                let error = SpecError::of_file(Code::SpecCrash, self.path, message, None);
                self.failed(error)
            }
            Message::Broken { broken } => {
                let message = format!("the evaluator failed: {broken}");
                let error = SpecError::of_file(Code::SpecCrash, self.path, message, None);
                self.failed(error)
            }
            Message::Question { .. } => unreachable!("questions are answered in `serve`"),
        }
    }

    fn failed(self, error: SpecError) -> Evaluation {
        self.evaluation(Some(error))
    }

    fn evaluation(self, error: Option<SpecError>) -> Evaluation {
        let closure = self
            .asked
            .into_iter()
            .map(|((kind, path), answer_hash)| Question {
                kind,
                path,
                answer_hash,
            })
            .collect::<Arc<[Question]>>();
        Evaluation {
            path: self.path.to_owned(),
            jobs: Vec::new(),
            closure,
            output: String::new(),
            error,
        }
    }
}

/// Something a question found.
struct Found {
    what: &'static str,
    path: String,
    content: Option<Vec<u8>>,
    hash: Option<blake3::Hash>,
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
            "content_bytes": self.content.as_ref().map_or(0, Vec::len),
            "code_bytes": self.code.as_ref().map_or(0, |code| code.len()),
        })
    }
}

impl RawError {
    fn located(self, spec: &str) -> SpecError {
        SpecError {
            code: self.code.parse().unwrap_or(Code::SpecException),
            file: self.file.unwrap_or_else(|| spec.to_owned()),
            line: self.line,
            column: self.column,
            end_line: self.end_line,
            end_column: self.end_column,
            message: self.message,
            hint: self.hint,
            source_line: self.source_line,
            trace: self.trace,
        }
    }
}

fn describe(cause: &SourceError) -> String {
    match std::error::Error::source(cause) {
        Some(source) => format!("{cause}: {source}"),
        None => cause.to_string(),
    }
}

/// Reads the zygote's report; none if the zygote went away without one.
fn how_it_ended(status: OwnedFd) -> Option<Ended> {
    let mut text = String::new();
    std::fs::File::from(status).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The error of a child that ended without a result.
fn unfinished(ended: &Ended, config: &EvalConfig, spec: &str) -> SpecError {
    let (code, message, hint) = match ended {
        Ended { deadline: true, .. } => (
            Code::SpecTimeout,
            format!(
                "the evaluation was killed after {} seconds",
                config.deadline.as_secs_f64()
            ),
            Some("an evaluation takes milliseconds; look for a loop without an end"),
        ),
        Ended {
            signal: Some(libc::SIGKILL | libc::SIGXCPU),
            ..
        } => (
            Code::SpecTimeout,
            format!(
                "the spec used more than {} seconds of processor time in one operation",
                config.cpu.as_secs()
            ),
            Some("look for an operation on a very large number, text or list"),
        ),
        Ended {
            signal: Some(signal),
            ..
        } => (
            Code::SpecCrash,
            format!("the evaluation crashed with signal {signal}"),
            Some("look for recursion in C code, or for very large values"),
        ),
        Ended { exit_code, .. } => (
            Code::SpecCrash,
            format!(
                "the evaluation ended without a result, with exit code {}",
                exit_code.unwrap_or(-1)
            ),
            None,
        ),
    };
    SpecError::of_file(code, spec, message, hint.map(str::to_owned))
}

/// The error of a system call that the seal refused.
fn denied_call(call: i64, spec: &str) -> SpecError {
    let (what, hint) = match call {
        libc::SYS_openat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_readlinkat
        | libc::SYS_getdents64
        | libc::SYS_lseek
        | libc::SYS_fstat => (
            "use the file system",
            "read files of the repository with tw.repo.read(path)",
        ),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_readlink
        | libc::SYS_access => (
            "use the file system",
            "read files of the repository with tw.repo.read(path)",
        ),
        libc::SYS_socket | libc::SYS_connect | libc::SYS_socketpair => (
            "use the network",
            "put the data into the repository and read it with tw.repo",
        ),
        libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_execve
        | libc::SYS_kill
        | libc::SYS_tgkill => (
            "start or signal a process",
            "a spec only describes jobs; put the work into a job's command",
        ),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork | libc::SYS_vfork => (
            "start or signal a process",
            "a spec only describes jobs; put the work into a job's command",
        ),
        libc::SYS_getrandom => (
            "get random numbers",
            "a spec gives the same result every time; derive variety from a name",
        ),
        libc::SYS_clock_nanosleep | libc::SYS_nanosleep => ("sleep", "a spec only describes jobs"),
        _ => (
            "reach outside its evaluation",
            "a spec can only compute, and read files with tw.repo",
        ),
    };
    let message = format!("the spec tried to {what} (system call {call}), which the seal forbids");
    SpecError::of_file(Code::SpecDenied, spec, message, Some(hint.to_owned()))
}
