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
