//! How a command shows a review: in the terminal, as Markdown, or as JSON.

use std::io::IsTerminal;

use tw_review::{Review, markdown, terminal};

/// In which form a review is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Format {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print Markdown for a comment on GitHub or GitLab, short enough for both
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
}

/// Prints a review for people. `more` is the command that shows all of it.
pub(crate) fn print(review: &Review, format: Format, more: &str) {
    match format.markdown {
        true => anstream::print!("{}", markdown(review, more)),
        false => anstream::print!("{}", terminal(review)),
    }
}

/// Whether a person reads standard output.
pub(crate) fn is_read() -> bool {
    std::io::stdout().is_terminal()
}
