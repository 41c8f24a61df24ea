//! How an error reaches a person: what happened, what caused it, and what would help, each once.

use std::process::ExitCode;

use tw_api::ClientError;
use tw_spec::SourceError;

use crate::text::{BOLD_RED, CYAN};

/// An error that knows what would help.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Advice {
    message: String,
    hint: String,
}

/// An error with a hint.
pub(crate) fn advice(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Advice {
        message: message.into(),
        hint: hint.into(),
    }
    .into()
}

/// Prints the error and its causes to standard error; the exit code is 1.
pub(crate) fn report(failure: &anyhow::Error) -> ExitCode {
    anstream::eprintln!("{BOLD_RED}error{BOLD_RED:#}: {failure}");
    for cause in failure.chain().skip(1) {
        anstream::eprintln!("  caused by: {cause}");
    }
    for hint in hints(failure) {
        anstream::eprintln!("  {CYAN}hint{CYAN:#}: {hint}");
    }
    ExitCode::FAILURE
}

/// What would help.
pub(crate) fn hints(failure: &anyhow::Error) -> Vec<&str> {
    failure.chain().filter_map(hint_of).collect()
}

fn hint_of<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    if let Some(advice) = cause.downcast_ref::<Advice>() {
        return Some(&advice.hint);
    }
    if let Some(cause) = cause.downcast_ref::<SourceError>() {
        return source_hint(cause);
    }
    match cause.downcast_ref::<ClientError>()? {
        ClientError::Refused(body) => body.hint.as_deref(),
        ClientError::Connect { source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Some("it belongs to another user: call as root, or as the user who started it")
        }
        ClientError::Connect { .. } => {
            Some("is it running? `tw dev` starts one; `--state DIR` or TW_STATE names another")
        }
        _ => None,
    }
}

fn source_hint(cause: &SourceError) -> Option<&'static str> {
    match cause {
        SourceError::NoSpecs { .. } => Some("specs are files *.tw; `tw init` makes a first one"),
        SourceError::NoRevision { revision, .. } if revision == "HEAD" => {
            Some("nothing is committed yet: commit once, then there is something to compare with")
        }
        SourceError::Ambiguous { .. } => {
            Some("say which: its whole name, or more digits of its id")
        }
        SourceError::Shallow { .. } => {
            Some("`git fetch --unshallow` gets the rest; in CI ask for the whole history")
        }
        _ => None,
    }
}
