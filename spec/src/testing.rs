//! Tests of specs: Python functions beside them, each run in a sealed child of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tw_model::{Code, SpecType};

use crate::evaluator::{Answers, Role};
use crate::render::{Severity, render_as};
use crate::sealed::{self, Ran, Reported};
use crate::source::path;
use crate::{
    EntryKind, Evaluator, EvaluatorError, RenderOptions, Source, SourceError, SpecError, evaluate,
    render_errors,
};

/// The files with tests below some paths.
#[derive(Clone, Debug, Default)]
pub struct TestFiles {
    /// From the root, sorted.
    pub files: Vec<String>,
    /// Files of that name which do not import `tw`: tests of something else.
    pub passed_over: Vec<String>,
}

/// One test, or one case of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Test {
    pub file: String,
    /// The function.
    pub name: String,
    /// The line of its `def`.
    pub line: u32,
    /// Its arguments, where it has several cases.
    pub case: Option<String>,
}

impl Test {
    /// The name with its case, as `test_owner["web"]`.
    pub fn title(&self) -> String {
        match &self.case {
            Some(case) => format!("{}[{case}]", self.name),
            None => self.name.clone(),
        }
    }
}

/// Why a test failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub error: SpecError,
    /// The expressions that the failed assertion compared, and their values.
    pub values: Vec<(String, String)>,
    /// The lines in which two collections differ, with `-` and `+` before them.
    pub difference: Vec<String>,
}

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum TestOutcome {
    Passed,
    Skipped { reason: String },
    Failed(Box<Failure>),
}

/// What came of one test, or of a file that could not be read for tests.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    #[serde(flatten)]
    pub test: Test,
    #[serde(flatten)]
    pub outcome: TestOutcome,
    /// What it printed.
    pub output: String,
    #[serde(rename = "duration_ms", serialize_with = "millis")]
    pub duration: Duration,
}

fn millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_millis() as u64)
}

impl Source {
    /// Finds files with tests, `test_*.py` and `*_test.py`, below `paths`; a file that is named counts whatever its name.
    pub fn find_tests(&self, paths: &[String]) -> Result<TestFiles, SourceError> {
        let mut found = TestFiles::default();
        for path in paths {
            match self.kind(path)? {
                Some(EntryKind::Folder) => self.tests_below(path, &mut found)?,
                Some(_) => found.files.push(path.clone()),
                None => {
                    return Err(self.not_found(path));
                }
            }
        }
        found.files.sort();
        found.files.dedup();
        Ok(found)
    }

    fn tests_below(&self, folder: &str, found: &mut TestFiles) -> Result<(), SourceError> {
        for entry in self.list(folder)?.unwrap_or_default() {
            let path = path::join(folder, &entry.name);
            match entry.kind {
                _ if entry.name.starts_with('.') => {}
                EntryKind::Folder => self.tests_below(&path, found)?,
                EntryKind::File { .. } if is_test(&entry.name) => {
                    match imports_tw(&self.read(&path)?.unwrap_or_default()) {
                        true => found.files.push(path),
                        false => found.passed_over.push(path),
                    }
                }
                EntryKind::File { .. } | EntryKind::Symlink => {}
            }
        }
        Ok(())
    }
}

fn is_test(name: &str) -> bool {
    name.strip_suffix(".py")
        .is_some_and(|stem| stem.starts_with("test_") || stem.ends_with("_test"))
}

/// Whether a line of the file imports `tw` or a module of it.
fn imports_tw(content: &[u8]) -> bool {
    String::from_utf8_lossy(content).lines().any(|line| {
        let mut words = line.split_whitespace();
        let named = match words.next() {
            Some("from") => 1,
            Some("import") => usize::MAX,
            _ => 0,
        };
        let mut modules = words.take(named);
        modules.any(|module| module.trim_end_matches(',').split('.').next() == Some("tw"))
    })
}

/// Runs the tests of `files` whose title or file `is_wanted` accepts, each sealed, several at a time.
///
/// `done` hears of each as it ends; the results are in the order of the files and of the tests in them.
pub fn run_tests(
    evaluator: &Evaluator,
    source: &Source,
    files: &[String],
    is_wanted: &(dyn Fn(&Test) -> bool + Sync),
    done: &(dyn Fn(&TestResult) + Sync),
) -> Result<Vec<TestResult>, EvaluatorError> {
    let run = TestRun {
        evaluator,
        source,
        loaded: Mutex::default(),
    };
    let listed = run.in_parallel(files, |file| run.list(file))?;
    let mut results = Vec::new();
    let mut asked = Vec::new();
    for found in listed.into_iter().flatten() {
        match found {
            Listed::Test(test, case) if is_wanted(&test) => asked.push((test, case)),
            Listed::Test(..) => {}
            Listed::Ended(result) => {
                done(&result);
                results.push(result);
            }
        }
    }
    results.extend(run.in_parallel(&asked, |(test, case)| {
        let result = run.run(test, *case)?;
        done(&result);
        Ok(result)
    })?);
    let order = |result: &TestResult| files.iter().position(|file| *file == result.test.file);
    results.sort_by_key(order);
    Ok(results)
}

/// What a file lists: a test with the number of its case, or a result that stands already.
enum Listed {
    Test(Test, usize),
    Ended(TestResult),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Listing {
    Test {
        name: String,
        line: u32,
        cases: Option<Vec<String>>,
        problem: Option<String>,
    },
    /// The file as a whole.
    Ended(Verdict),
}

#[derive(Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Verdict {
    Passed,
    Skipped {
        reason: String,
    },
    Failed {
        error: Reported,
        values: Vec<(String, String)>,
        difference: Vec<String>,
    },
}

impl Verdict {
    fn outcome(self, file: &str) -> TestOutcome {
        match self {
            Verdict::Passed => TestOutcome::Passed,
            Verdict::Skipped { reason } => TestOutcome::Skipped { reason },
            Verdict::Failed {
                error,
                values,
                difference,
            } => TestOutcome::Failed(Box::new(Failure {
                error: error.located(file, Role::Test),
                values,
                difference,
            })),
        }
    }
}

/// What `load` gives of a spec.
type Loaded = Arc<OnceLock<Vec<u8>>>;

struct TestRun<'a> {
    evaluator: &'a Evaluator,
    source: &'a Source,
    /// Specs that tests have loaded, each evaluated once.
    loaded: Mutex<BTreeMap<String, Loaded>>,
}

impl TestRun<'_> {
    /// Does `work` for each item on as many threads as the evaluator serves; keeps the order.
    fn in_parallel<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> Result<R, EvaluatorError> + Sync,
    ) -> Result<Vec<R>, EvaluatorError> {
        let next = AtomicUsize::new(0);
        let one_thread = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                match items.get(index) {
                    Some(item) => done.push((index, work(item)?)),
                    None => return Ok(done),
                }
            }
        };
        let threads = self.evaluator.in_flight().clamp(1, items.len().max(1));
        let mut done = Vec::with_capacity(items.len());
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(one_thread)).collect();
            let mut finished = vec![one_thread()];
            for other in others {
                finished.push(match other.join() {
                    Ok(finished) => finished,
                    Err(panic) => std::panic::resume_unwind(panic),
                });
            }
            for part in finished {
                done.extend(part?);
            }
            Ok::<(), EvaluatorError>(())
        })?;
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }

    fn list(&self, file: &str) -> Result<Vec<Listed>, EvaluatorError> {
        let began = Instant::now();
        let ran: Ran<Listing> = self.ask(file, json!({ "test": null }))?;
        let whole_file = |outcome| {
            Listed::Ended(TestResult {
                test: Test {
                    file: file.to_owned(),
                    name: "(file)".to_owned(),
                    line: 1,
                    case: None,
                },
                outcome,
                output: ran.output.clone(),
                duration: began.elapsed(),
            })
        };
        if let Some(error) = ran.error {
            return Ok(vec![whole_file(TestOutcome::Failed(Failure::plain(error)))]);
        }
        let mut listed = Vec::new();
        for one in ran.report {
            match one {
                Listing::Ended(verdict) => listed.push(whole_file(verdict.outcome(file))),
                Listing::Test {
                    name,
                    line,
                    cases,
                    problem,
                } => listed.extend(self.cases(file, &name, line, cases, problem)),
            }
        }
        Ok(listed)
    }

    fn cases(
        &self,
        file: &str,
        name: &str,
        line: u32,
        cases: Option<Vec<String>>,
        problem: Option<String>,
    ) -> Vec<Listed> {
        let test = |case| Test {
            file: file.to_owned(),
            name: name.to_owned(),
            line,
            case,
        };
        if let Some(problem) = problem {
            let mut error = SpecError::of_file(Code::SpecBadValue, file, problem, None);
            error.line = Some(line);
            error.source_line = crate::error::line_of(self.source, file, line);
            return vec![Listed::Ended(TestResult {
                test: test(None),
                outcome: TestOutcome::Failed(Failure::plain(error)),
                output: String::new(),
                duration: Duration::ZERO,
            })];
        }
        match cases {
            None => vec![Listed::Test(test(None), 0)],
            Some(cases) => (0..)
                .zip(cases)
                .map(|(number, case)| Listed::Test(test(Some(case)), number))
                .collect(),
        }
    }

    fn run(&self, test: &Test, case: usize) -> Result<TestResult, EvaluatorError> {
        let began = Instant::now();
        let input = json!({ "test": test.name, "case": case });
        let mut ran: Ran<Verdict> = self.ask(&test.file, input)?;
        let outcome = match (ran.error, ran.report.pop()) {
            (Some(error), _) => TestOutcome::Failed(Failure::plain(error)),
            (None, Some(verdict)) => verdict.outcome(&test.file),
            (None, None) => {
                let message = "the test ended without a verdict".to_owned();
                let error = SpecError::of_file(Code::SpecCrash, &test.file, message, None);
                TestOutcome::Failed(Failure::plain(error))
            }
        };
        Ok(TestResult {
            test: test.clone(),
            outcome,
            output: ran.output,
            duration: began.elapsed(),
        })
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        file: &str,
        input: serde_json::Value,
    ) -> Result<Ran<T>, EvaluatorError> {
        let answers = TestAnswers { run: self, input };
        sealed::run(self.evaluator, self.source, Role::Test, file, &answers)
    }

    /// The jobs of the spec that a test asks for, or its mistakes, as JSON.
    fn load(&self, question: &str) -> Option<Vec<u8>> {
        let Asked { path, from } = serde_json::from_str(question).ok()?;
        let wanted = match path.strip_prefix("//") {
            Some(path) => path::resolve("", path),
            None => path::resolve(path::parent(&from), &path),
        };
        let Some(wanted) = wanted else {
            return Some(self.not_found(&path, "it leads out of the repository"));
        };
        if !matches!(self.source.kind(&wanted), Ok(Some(EntryKind::File { .. }))) {
            let from_root = self.source.kind(&path).ok().flatten().is_some();
            let help = match from_root {
                true => {
                    format!("paths count from the folder of the test; write load(\"//{path}\")")
                }
                false => format!("looked for '{wanted}' in {}", self.source.describe()),
            };
            return Some(self.not_found(&path, &help));
        }
        let loaded = {
            let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loaded.entry(wanted.clone()).or_default())
        };
        Some(loaded.get_or_init(|| self.evaluated(&wanted)).clone())
    }

    fn evaluated(&self, spec: &str) -> Vec<u8> {
        let answer = match evaluate(self.evaluator, self.source, &[spec.to_owned()]) {
            Ok(outcome) => {
                let jobs: Vec<String> = outcome
                    .jobs
                    .iter()
                    .map(|job| job.spec.to_python())
                    .collect();
                let text = render_errors(&outcome.errors, RenderOptions::default());
                json!({ "path": spec, "jobs": jobs, "errors": outcome.errors, "text": text })
            }
            Err(cause) => failed(&cause.to_string()),
        };
        answer.to_string().into_bytes()
    }

    fn not_found(&self, path: &str, help: &str) -> Vec<u8> {
        failed(&format!("there is no spec '{path}': {help}"))
            .to_string()
            .into_bytes()
    }
}

/// What a test that calls `load` wants.
#[derive(Deserialize)]
struct Asked {
    path: String,
    /// The file that calls.
    from: String,
}

fn failed(message: &str) -> serde_json::Value {
    json!({ "errors": [{ "code": Code::SpecNotFound, "message": message }], "text": message })
}

struct TestAnswers<'a> {
    run: &'a TestRun<'a>,
    input: serde_json::Value,
}

impl Answers for TestAnswers<'_> {
    fn answer(&self, ask: &str, path: &str) -> Option<Vec<u8>> {
        match ask {
            "input" => Some(self.input.to_string().into_bytes()),
            "jobs" => self.run.load(path),
            _ => None,
        }
    }
}

impl Failure {
    /// The failure as a person sees it: the author's line, then what it compared.
    pub fn render(&self, options: RenderOptions) -> String {
        let notes: Vec<(&str, String)> = self
            .values
            .iter()
            .map(|(text, value)| (text.as_str(), value.clone()))
            .collect();
        let mut text = render_as(Severity::Error, &self.error, &notes, options);
        for line in &self.difference {
            text.push_str("    ");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn plain(error: SpecError) -> Box<Failure> {
        Box::new(Failure {
            error,
            values: Vec::new(),
            difference: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_known_by_their_names_and_by_importing_tw() {
        assert!(is_test("test_web.py") && is_test("config_test.py"));
        assert!(!is_test("testing.py") && !is_test("test_web.txt"));
        assert!(imports_tw(b"import os\nfrom tw.testing import load\n"));
        assert!(imports_tw(b"import json, tw\n"));
        assert!(!imports_tw(b"import twisted\nfrom twine import tw\n"));
    }
}
