//! Changes as lines, one under the other.

use tw_model::{Cause, Effect};
use tw_spec::visible;

use crate::review::Row;
use crate::words::{both, shortened};

/// The longest part of a value that is shown.
const VALUE_WIDTH_MAX: usize = 100;
/// Letters of a commit's id.
const COMMIT_WIDTH: usize = 8;
/// Wider columns are not lined up.
const COLUMN_MAX: usize = 44;

impl Row {
    pub(crate) fn of(
        path: &str,
        old: &serde_json::Value,
        new: &serde_json::Value,
        effect: Effect,
    ) -> Row {
        let (old, new) = both(path, old, new);
        Row {
            path: path.to_owned(),
            old,
            new,
            effect,
            cause: String::new(),
            own: false,
        }
    }

    /// Adds where the change comes from; `spec` is the job's own file.
    pub(crate) fn caused_by(self, cause: Option<&Cause>, spec: &str) -> Row {
        Row {
            cause: cause.map(place).unwrap_or_default(),
            own: cause.is_some_and(|cause| cause.file == spec),
            ..self
        }
    }

    fn values(&self) -> String {
        format!("{} → {}", cell(&self.old), cell(&self.new))
    }
}

/// `FILE:LINE in COMMIT`, as far as it is known.
fn place(cause: &Cause) -> String {
    let Cause { file, line, commit } = cause;
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    let short = |commit: &String| commit.chars().take(COMMIT_WIDTH).collect::<String>();
    let commit = commit.as_ref().map(short);
    let commit = commit
        .map(|commit| format!(" in {commit}"))
        .unwrap_or_default();
    format!("{file}{line}{commit}")
}

/// A text in one line that steers nothing.
pub(crate) fn cell(text: &str) -> String {
    shortened(&one_line(text), VALUE_WIDTH_MAX)
}

/// A quoted text with its line ends written out.
pub(crate) fn one_line(text: &str) -> String {
    visible(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// The three columns of a row: path, values, effect; and the cause.
pub(crate) struct Columns {
    path: usize,
    values: usize,
    effect: usize,
}

impl Columns {
    pub(crate) fn of(rows: &[Row]) -> Columns {
        let widest = |width: &dyn Fn(&Row) -> usize| {
            let widths = rows.iter().map(width);
            widths
                .filter(|width| *width <= COLUMN_MAX)
                .max()
                .unwrap_or(0)
        };
        Columns {
            path: widest(&|row| cell(&row.path).chars().count()),
            values: widest(&|row| row.values().chars().count()),
            effect: widest(&|row| row.effect.as_str().len()),
        }
    }

    /// (path, values, effect, cause), padded.
    pub(crate) fn cells(&self, row: &Row) -> [String; 4] {
        let Columns {
            path,
            values,
            effect,
        } = self;
        [
            format!("{:<path$}", cell(&row.path)),
            format!("{:<values$}", row.values()),
            format!("{:<effect$}", row.effect),
            cell(&row.cause),
        ]
    }

    /// A row without colours.
    pub(crate) fn line(&self, row: &Row) -> String {
        self.cells(row).join("  ").trim_end().to_owned()
    }
}

/// One change as a line of its own, with the effect as `painted` shows it.
pub fn change_line(
    path: &str,
    old: &serde_json::Value,
    new: &serde_json::Value,
    painted: impl std::fmt::Display,
) -> String {
    let row = Row::of(path, old, new, Effect::None);
    format!("{:<28} {:<28} {painted}", cell(path), row.values())
        .trim_end()
        .to_owned()
}
