//! Shows errors to a person, with the author's line.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write;

use crate::{Frame, SpecError};

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
/// The lines of a message that are shown, and the characters of one of them.
const MESSAGE_LINES_MAX: usize = 40;
const MESSAGE_WIDTH_MAX: usize = 1000;
/// The calls that are shown.
const CALLS_MAX: usize = 12;

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
        error.code,
        message(&error.message)
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
    let calls = OuterCalls::of(error);
    for call in calls.shown {
        let _ = writeln!(
            text,
            "{margin} {frame}={reset} called from {}:{}:{} in {}",
            visible(&call.file),
            call.line,
            call.column,
            visible(&call.function)
        );
        if let Some(source) = &call.source_line {
            let _ = writeln!(text, "{margin}       {}", shorten(source.trim()));
        }
    }
    if calls.left_out > 0 {
        let more = calls.left_out;
        let _ = writeln!(text, "{margin} {frame}={reset} and from {more} calls more");
    }
    for (name, note) in notes {
        let _ = writeln!(
            text,
            "{margin} {frame}={reset} {bold}{name}{reset}: {}",
            message(note)
        );
    }
    if let Some(hint) = &error.hint {
        let _ = writeln!(
            text,
            "{margin} {frame}={reset} {bold}help{reset}: {}",
            message(hint)
        );
    }
    text
}

fn place(error: &SpecError) -> String {
    match (error.line, error.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", visible(&error.file)),
        (Some(line), None) => format!("{}:{line}", visible(&error.file)),
        _ => visible(&error.file).into_owned(),
    }
}

fn gutter_width(error: &SpecError) -> usize {
    error.line.unwrap_or(1).to_string().len()
}

/// The calls around the mistake, nearest first, each once; its own place is shown already.
struct OuterCalls<'a> {
    shown: Vec<&'a Frame>,
    left_out: usize,
}

impl<'a> OuterCalls<'a> {
    fn of(error: &'a SpecError) -> OuterCalls<'a> {
        let own = |call: &&Frame| Some(call.line) == error.line && call.file == error.file;
        let mut seen = BTreeSet::new();
        let mut calls = OuterCalls {
            shown: Vec::new(),
            left_out: 0,
        };
        for call in error.trace.iter().rev().filter(|call| !own(call)) {
            if seen.insert((&call.file, call.line, call.column)) && calls.shown.len() < CALLS_MAX {
                calls.shown.push(call);
            } else {
                calls.left_out += 1;
            }
        }
        calls
    }
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

/// A line of a file as it can be shown: as long as it may be, and nothing in it steers the terminal.
fn shorten(line: &str) -> String {
    let characters = line
        .chars()
        .map(|c| if is_control(c) { '\u{fffd}' } else { c });
    let mut shown: String = characters.take(LINE_WIDTH_MAX).collect();
    if line.chars().nth(LINE_WIDTH_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A message as it can be shown: later lines are indented, so that none looks like a message of Twill's.
fn message(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown: Vec<String> = lines
        .iter()
        .take(MESSAGE_LINES_MAX)
        .map(|line| {
            let visible = visible(line);
            match visible.char_indices().nth(MESSAGE_WIDTH_MAX) {
                Some((cut, _)) => format!("{}…", &visible[..cut]),
                None => visible.into_owned(),
            }
        })
        .collect();
    if lines.len() > MESSAGE_LINES_MAX {
        shown.push(format!("… {} lines more", lines.len() - MESSAGE_LINES_MAX));
    }
    shown.join("\n       ")
}

/// Writes out the characters that would steer a terminal, as Python does; line ends and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match (is_control(character), u32::from(character)) {
            (false, _) => shown.push(character),
            (true, code @ ..=0xff) => {
                let _ = write!(shown, "\\x{code:02x}");
            }
            (true, code) => {
                let _ = write!(shown, "\\u{code:04x}");
            }
        }
    }
    Cow::Owned(shown)
}

/// Whether a character moves the cursor, changes colours, turns the direction of what follows, or is there without
/// being seen.
fn is_control(character: char) -> bool {
    let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let hides = matches!(
        character,
        '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    (character.is_control() && !matches!(character, '\n' | '\t')) || turns || hides
}
