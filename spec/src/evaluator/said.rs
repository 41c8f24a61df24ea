//! What a sealed child may say, read with care: everything here was chosen by a spec, or could have been.

use std::io;

use serde::Deserialize;
use serde_json::Value;

use super::frame::Received;
use crate::Frame;

/// The most values of JSON that a frame may hold: a short text can stand for a great many empty lists.
const VALUES_MAX: usize = 2_000_000;

/// What the kinds of frames mean; `tw-eval` chooses the byte, a spec cannot.
#[derive(Debug)]
pub(super) enum Said {
    Question(Asked),
    Jobs(Jobs),
    Error(Failure),
    /// A signal ended it.
    Fault(Fault),
    /// It could not be sealed and did not run.
    Unsealed(String),
    /// The evaluator's own Python failed.
    Broken(String),
}

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub(super) ask: String,
    pub(super) path: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Jobs {
    pub(super) jobs: Vec<Value>,
    pub(super) output: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Failure {
    pub(super) error: RawError,
    #[serde(default)]
    pub(super) output: String,
}

/// An error as the child words it.
#[derive(Debug, Deserialize)]
pub(super) struct RawError {
    pub(super) code: String,
    pub(super) message: String,
    #[serde(default)]
    pub(super) hint: Option<String>,
    #[serde(default)]
    pub(super) file: Option<String>,
    #[serde(default)]
    pub(super) line: Option<u32>,
    #[serde(default)]
    pub(super) column: Option<u32>,
    #[serde(default)]
    pub(super) end_line: Option<u32>,
    #[serde(default)]
    pub(super) end_column: Option<u32>,
    #[serde(default)]
    pub(super) trace: Vec<Frame>,
}

/// Why a child was ended by its own signal handler.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) signal: i32,
    /// Whether it read the processor's clock.
    pub(super) clock: bool,
    /// Where the interpreter was, outermost call first; files may be any, columns are not known.
    pub(super) calls: Vec<Frame>,
}

/// Why what a child said cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaidError {
    /// The child can no longer be heard.
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    TooLong(String),
    #[error("a result of more than {VALUES_MAX} values")]
    TooManyValues,
    #[error("a frame of the kind {0:#04x}, which an evaluation does not send")]
    UnknownKind(u8),
    #[error("more than {0} questions of its tree")]
    TooManyQuestions(usize),
    #[error("a question about a path of {0} bytes")]
    LongPath(usize),
    #[error("the question '{0}', which does not exist")]
    UnknownQuestion(String),
    #[error("an empty frame")]
    Empty,
    #[error("a frame that is not of its form: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl From<io::Error> for SaidError {
    fn from(cause: io::Error) -> SaidError {
        match cause.kind() {
            io::ErrorKind::InvalidData => SaidError::TooLong(cause.to_string()),
            _ => SaidError::Io(cause),
        }
    }
}

/// Understands one frame.
pub(super) fn understand(received: &Received) -> Result<Said, SaidError> {
    let Received { kind, content } = received;
    let text = || String::from_utf8_lossy(content).into_owned();
    Ok(match *kind {
        b'F' => Said::Fault(fault(content)?),
        b'U' => Said::Unsealed(text()),
        b'B' => Said::Broken(text()),
        b'Q' | b'J' | b'E' if has_too_many_values(content) => {
            return Err(SaidError::TooManyValues);
        }
        b'Q' => Said::Question(serde_json::from_slice(content)?),
        b'J' => Said::Jobs(serde_json::from_slice(content)?),
        b'E' => Said::Error(serde_json::from_slice(content)?),
        other => return Err(SaidError::UnknownKind(other)),
    })
}

/// Counts what separates values, outside of texts.
fn has_too_many_values(json: &[u8]) -> bool {
    let mut values = 0;
    let mut in_text = false;
    let mut escaped = false;
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' | b':' if !in_text => values += 1,
            _ => {}
        }
    }
    values > VALUES_MAX
}

fn fault(content: &[u8]) -> Result<Fault, SaidError> {
    let [signal, clock, text @ ..] = content else {
        return Err(SaidError::Empty);
    };
    let text = String::from_utf8_lossy(text);
    let mut calls: Vec<Frame> = text.lines().filter_map(call).collect();
    calls.reverse();
    Ok(Fault {
        signal: i32::from(*signal),
        clock: *clock != 0,
        calls,
    })
}

/// One line of the interpreter's account: `  File "web/config.tw", line 3 in service`.
fn call(line: &str) -> Option<Frame> {
    let (file, rest) = line
        .trim()
        .strip_prefix("File \"")?
        .rsplit_once("\", line ")?;
    let (number, function) = rest.split_once(" in ")?;
    Some(Frame {
        file: file.to_owned(),
        line: number.parse().ok()?,
        column: 1,
        function: function.to_owned(),
        source_line: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(kind: u8, content: &[u8]) -> Result<Said, SaidError> {
        understand(&Received {
            kind,
            content: content.to_vec(),
        })
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for (kind, content, expected) in [
            (b'Z', &b""[..], "the kind 0x5a"),
            (b'J', b"{}", "missing field `jobs`"),
            (b'E', b"\xff", "not of its form"),
            (b'F', b"", "an empty frame"),
        ] {
            let error = heard(kind, content).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_bomb_of_empty_lists_is_refused_before_it_is_built() {
        let bomb = format!(r#"{{"jobs":[{}[]],"output":""}}"#, "[],".repeat(VALUES_MAX));
        assert!(matches!(
            heard(b'J', bomb.as_bytes()),
            Err(SaidError::TooManyValues)
        ));
        let text = format!(
            r#"{{"jobs":[],"output":"{}"}}"#,
            ",\\\"[".repeat(VALUES_MAX)
        );
        assert!(matches!(heard(b'J', text.as_bytes()), Ok(Said::Jobs(_))));
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = format!(r#"{{"jobs":{}"#, "[".repeat(100_000));
        assert!(matches!(
            heard(b'J', deep.as_bytes()),
            Err(SaidError::Malformed(_))
        ));
    }

    #[test]
    fn the_interpreters_account_is_read_from_its_end() {
        let text = b"\x0b\x00Stack (most recent call first):\n  File \"shared/a \"b\".py\", line 7 in f\n  File \"web.tw\", line 2 in <module>\n  ...\n";
        let fault = fault(text).expect("a fault");
        let calls: Vec<(&str, u32, &str)> = fault
            .calls
            .iter()
            .map(|call| (call.file.as_str(), call.line, call.function.as_str()))
            .collect();
        assert_eq!((fault.signal, fault.clock), (libc_sigsegv(), false));
        assert_eq!(
            calls,
            [("web.tw", 2, "<module>"), ("shared/a \"b\".py", 7, "f")]
        );
    }

    fn libc_sigsegv() -> i32 {
        nix::libc::SIGSEGV
    }
}
