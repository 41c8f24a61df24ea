//! `_twill_host`, the module through which Python in a child speaks to the parent.

use std::fs::File;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Deserialize;

use crate::frame;

/// The child's end of its socket.
static PARENT: OnceLock<File> = OnceLock::new();

/// Names the descriptor that leads to the parent. Called once, in the child.
pub(crate) fn connect(socket: RawFd) {
    // SAFETY: the child has just placed its socket at this descriptor, and nothing else owns it.
    let socket = unsafe { File::from_raw_fd(socket) };
    let _ = PARENT.set(socket);
}

/// The head of an answer; `bytes` says that a frame of content follows.
#[derive(Deserialize)]
struct Answer {
    /// What was found; none when there is no such thing.
    found: Option<String>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    content: bool,
    /// Why the parent cannot answer.
    error: Option<String>,
}

/// Ends the child, after `result` was sent if there is one.
pub(crate) fn exit(result: Option<&[u8]>) -> ! {
    let sent = match (PARENT.get(), result) {
        (Some(parent), Some(result)) => frame::write(parent, result).is_ok(),
        _ => false,
    };
    // SAFETY: ends the process at once; there is nothing in a child that must be cleaned up.
    unsafe { libc::_exit(if sent { 0 } else { 70 }) }
}

fn parent() -> PyResult<&'static File> {
    PARENT
        .get()
        .ok_or_else(|| PyRuntimeError::new_err("no evaluation is going on"))
}

/// The module itself.
#[pymodule]
pub(crate) mod _twill_host {
    use super::*;

    /// Asks the parent; returns (what was found, its path, its content), or None if there is no such thing.
    ///
    /// Questions are `read` (a file), `list` (a folder), `exists`, and `module` (a path without suffix:
    /// the package, module or folder that an import of it finds).
    #[pyfunction]
    fn ask<'py>(
        py: Python<'py>,
        question: &str,
        path: &str,
    ) -> PyResult<Option<(String, String, Bound<'py, PyBytes>)>> {
        let parent = parent()?;
        let asked = serde_json::json!({ "ask": question, "path": path }).to_string();
        frame::write(parent, asked.as_bytes())?;
        let answer: Answer = serde_json::from_slice(&frame::read(parent)?)
            .map_err(|cause| PyRuntimeError::new_err(format!("the parent's answer: {cause}")))?;
        if let Some(error) = answer.error {
            return Err(PyRuntimeError::new_err(error));
        }
        let content = if answer.content {
            frame::read(parent)?
        } else {
            Vec::new()
        };
        Ok(answer
            .found
            .map(|found| (found, answer.path, PyBytes::new(py, &content))))
    }

    /// Sends the result and ends the child. Never returns.
    #[pyfunction]
    fn finish(result: &[u8]) {
        exit(Some(result))
    }
}
