//! Colours and words of the terminal. `anstream` drops the colours where there is no terminal.

use anstyle::{AnsiColor, Style};
use tw_model::TaskState;

pub(crate) const BOLD: Style = Style::new().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD_RED: Style = AnsiColor::Red.on_default().bold();
pub(crate) const RED: Style = AnsiColor::Red.on_default();
pub(crate) const GREEN: Style = AnsiColor::Green.on_default();
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(crate) const CYAN: Style = AnsiColor::Cyan.on_default();

pub(crate) fn painted(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

pub(crate) fn state(state: TaskState) -> String {
    let style = match state {
        TaskState::Running | TaskState::Done => GREEN,
        TaskState::Failed | TaskState::Lost => RED,
        TaskState::Pending | TaskState::Starting | TaskState::Stopping => YELLOW,
    };
    painted(style, state)
}

/// `1 task`, `2 tasks`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// A JSON value as a reader of a diff sees it.
pub(crate) fn value(path: &str, value: &serde_json::Value) -> String {
    let number = value.as_u64();
    match number {
        Some(bytes) if path.ends_with("_bytes") => tw_model::Bytes(bytes).to_string(),
        Some(millis) if path.ends_with("_ms") => tw_model::Millis(millis).to_string(),
        Some(cores) if path.ends_with("_millicores") => tw_model::Cores(cores).to_string(),
        _ if value.is_null() => "(none)".to_owned(),
        _ => value.to_string(),
    }
}
