//! Shows errors to a person, with the author's line.

use std::fmt::Write;

use crate::SpecError;

/// How errors are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions {
    /// Whether to use ANSI colours.
    pub color: bool,
}

struct Style {
    error: &'static str,
    frame: &'static str,
    bold: &'static str,
    reset: &'static str,
}

const PLAIN: Style = Style {
    error: "",
    frame: "",
    bold: "",
    reset: "",
};
const COLOR: Style = Style {
    error: "\x1b[1;31m",
    frame: "\x1b[1;34m",
    bold: "\x1b[1m",
    reset: "\x1b[0m",
};

const WARNING: Style = Style {
    error: "\x1b[1;33m",
    ..COLOR
};

/// The longest part of a line that is shown.
const LINE_WIDTH_MAX: usize = 160;

/// Shows errors one after the other, a blank line between them.
pub fn render_errors(errors: &[SpecError], options: RenderOptions) -> String {
    errors
        .iter()
        .map(|error| render_error(error, options))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Shows one error: what is wrong, where, the author's line with the place marked, the calls that led
/// there, and what would help. Ends in a newline.
pub fn render_error(error: &SpecError, options: RenderOptions) -> String {
    render_as(Severity::Error, error, &[], options)
}

/// As [`render_errors`], for what only deserves attention.
pub fn render_warnings(warnings: &[SpecError], options: RenderOptions) -> String {
    warnings
        .iter()
        .map(|warning| render_as(Severity::Warning, warning, &[], options))
        .collect::<Vec<_>>()
        .join("\n")
}

/// How grave what is shown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Error,
    Warning,
}

/// As [`render_error`], with lines about it after those about its place.
pub(crate) fn render_as(
    severity: Severity,
    error: &SpecError,
    notes: &[(&str, String)],
    options: RenderOptions,
) -> String {
    let style = match (options.color, severity) {
        (false, _) => &PLAIN,
        (true, Severity::Error) => &COLOR,
        (true, Severity::Warning) => &WARNING,
    };
    let Style {
        error: red,
        frame,
        bold,
        reset,
    } = style;
    let word = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut text = format!(
        "{red}{word}[{}]{reset}{bold}: {}{reset}\n",
        error.code, error.message
    );
    let margin = " ".repeat(gutter_width(error));
    let _ = writeln!(text, "{margin}{frame}-->{reset} {}", place(error));
    if let (Some(line), Some(source)) = (error.line, &error.source_line) {
        let shown = shorten(source);
        let _ = writeln!(text, "{margin} {frame}|{reset}");
        let _ = writeln!(
            text,
            "{frame}{line:>width$} |{reset} {shown}",
            width = margin.len()
        );
        if let Some(mark) = mark(error, &shown) {
            let _ = writeln!(text, "{margin} {frame}|{reset} {red}{mark}{reset}");
        }
    }
    for call in outer_calls(error) {
        let _ = writeln!(
            text,
            "{margin} {frame}={reset} called from {}:{}:{} in {}",
            call.file, call.line, call.column, call.function
        );
        if let Some(source) = &call.source_line {
            let _ = writeln!(text, "{margin}       {}", shorten(source.trim()));
        }
    }
    for (name, note) in notes {
        let _ = writeln!(text, "{margin} {frame}={reset} {bold}{name}{reset}: {note}");
    }
    if let Some(hint) = &error.hint {
        let _ = writeln!(text, "{margin} {frame}={reset} {bold}help{reset}: {hint}");
    }
    text
}

fn place(error: &SpecError) -> String {
    match (error.line, error.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", error.file),
        (Some(line), None) => format!("{}:{line}", error.file),
        _ => error.file.clone(),
    }
}

fn gutter_width(error: &SpecError) -> usize {
    error.line.unwrap_or(1).to_string().len()
}

/// The calls around the mistake, nearest first; its own place is shown already.
fn outer_calls(error: &SpecError) -> impl Iterator<Item = &crate::Frame> {
    error
        .trace
        .iter()
        .rev()
        .filter(|call| Some(call.line) != error.line || call.file != error.file)
}

/// Carets below the mistake, as far as it goes on this line.
fn mark(error: &SpecError, shown: &str) -> Option<String> {
    let start = error.column?.checked_sub(1)? as usize;
    let length = shown.chars().count();
    if start > length {
        return None;
    }
    let ends_here = error.end_line.is_none_or(|line| Some(line) == error.line);
    let end = match error.end_column {
        Some(column) if ends_here => (column as usize).saturating_sub(1),
        Some(_) => length,
        None => start + 1,
    };
    let indent: String = shown
        .chars()
        .take(start)
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    Some(indent + &"^".repeat(end.min(length).saturating_sub(start).max(1)))
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LINE_WIDTH_MAX) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line.to_owned(),
    }
}
