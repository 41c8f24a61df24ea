//! A mistake in a spec, as every front end shows it.

use serde::{Deserialize, Serialize};
use tw_model::{Code, Location};

use crate::Source;

/// One step on the way from the spec to the mistake, outermost first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Relative to the repository's root.
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// `<module>` at the top level of a file.
    pub function: String,
    pub source_line: Option<String>,
}

/// A mistake in a spec. Lines and columns count from 1, columns in code points; ends are exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecError {
    pub code: Code,
    /// Relative to the repository's root.
    pub file: String,
    /// None where no line is to blame.
    pub line: Option<u32>,
    pub column: Option<u32>,
    #[serde(default)]
    pub end_line: Option<u32>,
    #[serde(default)]
    pub end_column: Option<u32>,
    /// What was found and what was expected.
    pub message: String,
    /// What would help.
    pub hint: Option<String>,
    /// The author's line.
    pub source_line: Option<String>,
    /// The calls that led there, where there were any.
    #[serde(default)]
    pub trace: Vec<Frame>,
}

impl SpecError {
    /// An error of a whole file.
    pub(crate) fn of_file(
        code: Code,
        file: &str,
        message: String,
        hint: Option<String>,
    ) -> SpecError {
        SpecError {
            code,
            file: file.to_owned(),
            line: None,
            column: None,
            end_line: None,
            end_column: None,
            message,
            hint,
            source_line: None,
            trace: Vec::new(),
        }
    }

    /// An error at a place.
    pub(crate) fn at(
        code: Code,
        place: &Location,
        message: String,
        hint: Option<String>,
    ) -> SpecError {
        SpecError {
            line: Some(place.line),
            column: Some(place.column),
            ..SpecError::of_file(code, &place.file, message, hint)
        }
    }

    /// Adds the author's lines, where they are not known yet.
    pub(crate) fn fill_source_lines(&mut self, source: &Source) {
        if self.source_line.is_none()
            && let Some(line) = self.line
        {
            self.source_line = line_of(source, &self.file, line);
        }
        for call in self
            .trace
            .iter_mut()
            .filter(|call| call.source_line.is_none())
        {
            call.source_line = line_of(source, &call.file, call.line);
        }
    }
}

/// A line of a file, counted from 1.
pub(crate) fn line_of(source: &Source, file: &str, line: u32) -> Option<String> {
    let bytes = source.read(file).ok()??;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .nth(line.checked_sub(1)? as usize)
        .map(str::to_owned)
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {} [{}]", self.message, self.code)
    }
}
