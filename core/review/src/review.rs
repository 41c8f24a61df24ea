//! The document that all renderers show.

use tw_model::{ChangeKind, Effect};

/// A change as a reviewer reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Review {
    /// One sentence: how much changes. Our words alone.
    pub headline: String,
    /// Specs that do not evaluate; whoever shows them with the author's lines takes them out.
    pub errors: Vec<Line>,
    /// What is dangerous or refused.
    pub alarms: Vec<Line>,
    /// What deserves a thought.
    pub notes: Vec<Line>,
    /// The changes, each once; those with the strongest effect first.
    pub cards: Vec<Card>,
    /// What it reaches, whom it concerns, and what it costs.
    pub totals: Vec<Line>,
    /// What an approval names.
    pub digest: Option<String>,
}

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Warning,
    Danger,
}

/// A sentence of our words and quoted ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub tone: Tone,
    pub parts: Vec<Part>,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Our own.
    Words(String),
    /// From a spec, a repository or a machine: shown literally.
    Quoted(String),
}

/// What becomes of the jobs of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    Removed,
    Modified,
    Added,
    /// The spec is the same, and the job begins again.
    Again,
}

/// One change, and the jobs that have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    pub mark: Mark,
    pub jobs: Vec<CardJob>,
    /// The strongest effect on a task; none for jobs that come or go.
    pub effect: Option<Effect>,
    /// What happens, in our words.
    pub summary: String,
    pub rows: Vec<Row>,
    pub lines: Vec<Line>,
}

/// A job on a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardJob {
    /// As `NAME` or `NAMESPACE/NAME`.
    pub name: String,
    /// The spec file; empty where it is not known.
    pub file: String,
    /// The team that answers for it; empty where it names none.
    pub owner: String,
}

/// One value that changes. All but the effect is from specs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub path: String,
    pub old: String,
    pub new: String,
    pub effect: Effect,
    /// `FILE:LINE in COMMIT`; empty where it is not known.
    pub cause: String,
    /// Whether that file is the job's own spec.
    pub own: bool,
}

impl Line {
    pub(crate) fn new(tone: Tone) -> Line {
        Line {
            tone,
            parts: Vec::new(),
        }
    }

    pub(crate) fn plain() -> Line {
        Line::new(Tone::Plain)
    }

    pub(crate) fn words(mut self, words: impl Into<String>) -> Line {
        self.parts.push(Part::Words(words.into()));
        self
    }

    pub(crate) fn quoted(mut self, words: impl Into<String>) -> Line {
        self.parts.push(Part::Quoted(words.into()));
        self
    }
}

impl Mark {
    /// One letter, as in a diff.
    pub fn sign(self) -> &'static str {
        match self {
            Mark::Removed => "-",
            Mark::Modified | Mark::Again => "~",
            Mark::Added => "+",
        }
    }
}

impl From<ChangeKind> for Mark {
    fn from(kind: ChangeKind) -> Mark {
        match kind {
            ChangeKind::Added => Mark::Added,
            ChangeKind::Removed => Mark::Removed,
            ChangeKind::Modified => Mark::Modified,
        }
    }
}
