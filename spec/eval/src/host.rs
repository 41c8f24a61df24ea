//! `_twill_host`, the module through which Python in a child speaks to the parent.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;

use crate::frame::{self, Kind};

/// The child's end of its socket; negative in the zygote.
static PARENT: AtomicI32 = AtomicI32::new(-1);

/// Exit codes of a child that ended itself.
const SENT: i32 = 0;
const UNHEARD: i32 = 70;

/// Names the descriptor that leads to the parent. Called once, in the child.
pub(crate) fn connect(socket: RawFd) {
    PARENT.store(socket, Ordering::Relaxed);
}

/// The head of an answer. The frame goes on with the content and then with the compiled code.
#[derive(Deserialize)]
struct Answer {
    /// What was found; none when there is no such thing.
    found: Option<String>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    content_bytes: usize,
    #[serde(default)]
    code_bytes: usize,
    /// Why the parent cannot answer.
    error: Option<String>,
}

/// An answer and the parts of its frame.
struct Parts<'a> {
    head: Answer,
    content: &'a [u8],
    code: &'a [u8],
}

/// Takes a frame apart: the length of the head in four bytes, the head, the content, the code.
fn parts(frame: &[u8]) -> Option<Parts<'_>> {
    let (length, rest) = frame.split_first_chunk()?;
    let (head, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let head: Answer = serde_json::from_slice(head).ok()?;
    let (content, code) = rest.split_at_checked(head.content_bytes)?;
    (code.len() == head.code_bytes).then_some(Parts {
        head,
        content,
        code,
    })
}

/// What was found, its path, its content, and its compiled code with the places of its calls.
type Found<'py> = (String, String, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

/// Says one last thing and ends the child.
pub(crate) fn exit(kind: Kind, bytes: &[u8]) -> ! {
    let sent = frame::write(PARENT.load(Ordering::Relaxed), kind, bytes).is_ok();
    leave(if sent { SENT } else { UNHEARD })
}

/// Ends the child without another word.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: ends the process at once; there is nothing in a child that must be cleaned up.
    unsafe { libc::_exit(code) }
}

fn parent() -> PyResult<RawFd> {
    match PARENT.load(Ordering::Relaxed) {
        socket if socket >= 0 => Ok(socket),
        _ => Err(PyRuntimeError::new_err("no evaluation is going on")),
    }
}

pyo3::create_exception!(
    _twill_host,
    Unanswered,
    PyException,
    "A question that the parent cannot answer, and why."
);

/// The module itself.
#[pymodule]
pub(crate) mod _twill_host {
    use super::*;

    #[pymodule_export]
    use super::Unanswered;

    /// Asks the parent; returns (what was found, its path, its content, its code), or None if there is no such
    /// thing. Code is empty unless a module or a spec was asked for, and where it could not be compiled.
    ///
    /// Questions are `read` (a file), `list` (a folder), `exists`, `module`
    /// (a path without suffix: the package, module or folder that an import of it finds), and in a compile job
    /// `blob` (the next file to compile).
    #[pyfunction]
    fn ask<'py>(py: Python<'py>, question: &str, path: &str) -> PyResult<Option<Found<'py>>> {
        let parent = parent()?;
        let asked = serde_json::json!({ "ask": question, "path": path }).to_string();
        frame::write(parent, Kind::Question, asked.as_bytes())?;
        answer(py, parent)
    }

    /// Returns the spec that is evaluated, which the parent sends unasked; otherwise as `ask`.
    #[pyfunction]
    fn given(py: Python<'_>) -> PyResult<Option<Found<'_>>> {
        answer(py, parent()?)
    }

    /// Reads what the parent answers.
    fn answer(py: Python<'_>, parent: RawFd) -> PyResult<Option<Found<'_>>> {
        let frame = frame::read(parent)?;
        let Some(answer) = parts(&frame) else {
            return Err(PyRuntimeError::new_err(
                "the parent's answer is not understood",
            ));
        };
        if let Some(error) = answer.head.error {
            return Err(Unanswered::new_err(error));
        }
        let path = answer.head.path;
        let bytes = |bytes| PyBytes::new(py, bytes);
        Ok(answer
            .head
            .found
            .map(|found| (found, path, bytes(answer.content), bytes(answer.code))))
    }

    /// Sends the code of a file, the answer to a `blob`, and goes on.
    #[pyfunction]
    fn send(code: &[u8]) -> PyResult<()> {
        Ok(frame::write(parent()?, Kind::Code, code)?)
    }

    /// Sends an error and ends the child. Never returns.
    #[pyfunction]
    fn fail(error: &[u8]) {
        exit(Kind::Error, error)
    }
}
