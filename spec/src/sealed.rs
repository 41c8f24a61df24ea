//! Files other than specs that run in sealed children: tests and policies.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::evaluator::{Answers, Role, Work};
use crate::{Detail, Evaluator, EvaluatorError, Source, SpecError};

/// What came of running a file.
pub(crate) struct Ran<T> {
    /// What it reported; none if it ended in `error`.
    pub(crate) report: Vec<T>,
    pub(crate) output: String,
    pub(crate) error: Option<SpecError>,
}

/// Runs the file at `path` and reads its report.
pub(crate) fn run<T: DeserializeOwned>(
    evaluator: &Evaluator,
    source: &Source,
    role: Role,
    path: &str,
    answers: &dyn Answers,
) -> Result<Ran<T>, EvaluatorError> {
    let work = Work {
        role,
        path,
        detail: Detail::Places,
        answers: Some(answers),
    };
    let done = evaluator.run(source, work)?;
    let error = done.error.map(|error| of_role(error, role));
    let read: Result<Vec<T>, serde_json::Error> =
        done.jobs.into_iter().map(serde_json::from_value).collect();
    let (report, error) = match read {
        Ok(report) => (report, error),
        Err(cause) => (Vec::new(), Some(unreadable(path, &cause))),
    };
    Ok(Ran {
        report,
        output: done.output,
        error,
    })
}

fn unreadable(path: &str, cause: &serde_json::Error) -> SpecError {
    let message = format!("what it reported cannot be read: {cause}");
    SpecError::of_file(tw_model::Code::SpecCrash, path, message, None)
}

/// An error of an evaluation, in the words of what really ran.
fn of_role(mut error: SpecError, role: Role) -> SpecError {
    let noun = match role {
        Role::Spec => return error,
        Role::Test => "test",
        Role::Policy => "policy",
    };
    error.message = error
        .message
        .replace("the evaluation", &format!("the {noun}"));
    error.message = error.message.replace("the spec ", &format!("the {noun} "));
    error
}

/// An error as a child words it inside its report.
#[derive(Clone, Deserialize)]
pub(crate) struct Reported {
    #[serde(flatten)]
    error: serde_json::Map<String, Value>,
}

impl Reported {
    /// The error, which stands in `path` where it says no file of its own.
    pub(crate) fn located(self, path: &str, role: Role) -> SpecError {
        let mut error = self.error;
        if error.get("file").is_none_or(Value::is_null) {
            error.insert("file".to_owned(), path.into());
        }
        let read = serde_json::from_value(Value::Object(error));
        of_role(read.unwrap_or_else(|cause| unreadable(path, &cause)), role)
    }
}
