//! A review as a comment of GitHub or GitLab.
//!
//! What comes from specs stands in code spans and fenced blocks alone, where neither of the two reads markup, names of
//! people, links or commands; fences are longer than any run of backticks within. A comment holds so many characters,
//! so cards are folded, and left out from the end.

use std::fmt::Write;

use crate::card::because;
use crate::review::{Card, Line, Mark, Part, Review, Tone};
use crate::rows::{Columns, one_line};
use crate::words::{count, shortened, some_of};

/// The longest comment that GitHub takes is 65,535 characters; bytes are never fewer.
pub const MARKDOWN_BYTES_MAX: usize = 65_000;
/// The parts that are always there have this much room, each line of them so much, and cards the rest.
const LINES_MAX: usize = 40;
const LINE_WIDTH_MAX: usize = 400;
const ROWS_MAX: usize = 60;
const NAMES_MAX: usize = 60;
/// So many small cards are open when the comment is.
const OPEN_MAX: usize = 6;
const OPEN_ROWS_MAX: usize = 12;
/// So many jobs that come or go stand in one block.
const BRIEF_MAX: usize = 100;

/// The review in GitHub's Markdown. `more` says where all of it can be read if it does not fit.
pub fn markdown(review: &Review, more: &str) -> String {
    let mut text = format!("### {}\n", review.headline);
    write_list(&mut text, &review.errors);
    write_list(&mut text, &review.alarms);
    write_list(&mut text, &review.notes);
    let mut end = String::new();
    write_list(&mut end, &review.totals);
    if let Some(digest) = &review.digest {
        let _ = write!(end, "\nplan {}\n", code(digest));
    }
    let room = MARKDOWN_BYTES_MAX.saturating_sub(end.len() + 400);
    let blocks = blocks(&review.cards);
    for (at, block) in blocks.iter().enumerate() {
        if text.len() + block.text.len() > room {
            let left: usize = blocks[at..].iter().map(|block| block.jobs).sum();
            let _ = write!(
                text,
                "\n**{} more** did not fit here: {}\n",
                count(left, "job"),
                code(more)
            );
            break;
        }
        text.push_str(&block.text);
    }
    text + &end
}

/// A part of the comment that is shown as a whole.
struct Block {
    text: String,
    jobs: usize,
}

fn blocks(cards: &[Card]) -> Vec<Block> {
    let opens = cards.len() <= OPEN_MAX;
    let mut blocks = Vec::new();
    let is_brief = |card: &Card| card.is_brief() && !card.is_folded();
    for group in cards.chunk_by(|one, other| is_brief(one) && is_brief(other)) {
        match group {
            [card] if !is_brief(card) => blocks.push(Block {
                text: self::card(card, opens && card.rows.len() <= OPEN_ROWS_MAX),
                jobs: card.jobs.len(),
            }),
            brief => blocks.extend(brief.chunks(BRIEF_MAX).map(|cards| Block {
                text: brief_block(cards),
                jobs: cards.len(),
            })),
        }
    }
    blocks
}

/// Jobs that come or go, a line each.
fn brief_block(cards: &[Card]) -> String {
    let widths = cards.iter().map(|card| card.title().chars().count());
    let width = widths.max().unwrap_or(0);
    let lines = cards.iter().map(|card| {
        let (sign, title) = (card.mark.sign(), one_line(&card.title()));
        format!(
            "{sign} {title:<width$}  {}  {}\n",
            card.summary,
            card.about()
        )
    });
    let body: String = lines.collect();
    let fence = fence(&body);
    format!("\n{fence}diff\n{body}{fence}\n")
}

/// A fence that nothing in the block can close.
fn fence(body: &str) -> String {
    "`".repeat(longest_run(body).max(2) + 1)
}

fn write_list(text: &mut String, lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    text.push('\n');
    for one in lines.iter().take(LINES_MAX) {
        let _ = writeln!(text, "- {}", line(one));
    }
    if let Some(more @ 1..) = lines.len().checked_sub(LINES_MAX) {
        let _ = writeln!(text, "- and {more} more");
    }
}

fn line(line: &Line) -> String {
    let parts: String = line.parts.iter().map(part).collect();
    match line.tone {
        Tone::Plain => parts,
        Tone::Warning => format!("**Note**: {parts}"),
        Tone::Danger => format!("❗ **Danger**: {parts}"),
    }
}

fn part(part: &Part) -> String {
    match part {
        Part::Words(words) => words.clone(),
        Part::Quoted(words) => code(words),
    }
}

/// A code span: its ticks are more than any run of them within.
fn code(text: &str) -> String {
    let text = shortened(&one_line(text), LINE_WIDTH_MAX);
    let text = text.trim();
    if text.is_empty() {
        return "` `".to_owned();
    }
    let ticks = "`".repeat(longest_run(text) + 1);
    let pad = match text.starts_with('`') || text.ends_with('`') {
        true => " ",
        false => "",
    };
    format!("{ticks}{pad}{text}{pad}{ticks}")
}

fn longest_run(text: &str) -> usize {
    let runs = text.split(|c| c != '`').map(str::len);
    runs.max().unwrap_or(0)
}

fn card(card: &Card, open: bool) -> String {
    let mut body = String::new();
    let about = card.about();
    if !about.is_empty() {
        let _ = writeln!(body, "{about}");
    }
    if card.is_folded() {
        let _ = writeln!(body, "{}", one_line(&some_of(&card.names(), NAMES_MAX)));
    }
    let columns = Columns::of(&card.rows);
    for row in card.rows.iter().take(ROWS_MAX) {
        let _ = writeln!(body, "{}", columns.line(row));
    }
    if let Some(more @ 1..) = card.rows.len().checked_sub(ROWS_MAX) {
        let _ = writeln!(body, "… {} more", count(more, "value"));
    }
    for one in card.lines.iter().take(LINES_MAX) {
        let _ = writeln!(body, "{}", shortened(&plain(one), LINE_WIDTH_MAX));
    }
    let title = summary(card);
    if body.is_empty() {
        return format!("\n{title}\n");
    }
    let fence = fence(&body);
    let open = if open { " open" } else { "" };
    format!(
        "\n<details{open}><summary>{title}</summary>\n\n{fence}text\n{body}{fence}\n\n</details>\n"
    )
}

/// The words that are seen of a folded card. Names of jobs are letters, digits, `-` and `/`; all others are ours.
fn summary(card: &Card) -> String {
    let what = match (card.mark, card.effect) {
        (Mark::Added, _) => "added".to_owned(),
        (Mark::Removed, _) => "removed".to_owned(),
        (_, Some(effect)) => because(effect),
        (Mark::Modified | Mark::Again, None) => "begins again".to_owned(),
    };
    let summary = match card.summary.is_empty() {
        true => String::new(),
        false => format!(" · {}", card.summary),
    };
    let title: String = card
        .title()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || " -/".contains(*c))
        .collect();
    format!("{} <b>{title}</b>: {what}{summary}", card.mark.sign())
}

/// A line within a fenced block.
fn plain(line: &Line) -> String {
    let parts = line.parts.iter().map(|part| match part {
        Part::Words(words) => words.clone(),
        Part::Quoted(words) => one_line(words),
    });
    let tone = match line.tone {
        Tone::Plain => "",
        Tone::Warning => "note: ",
        Tone::Danger => "danger: ",
    };
    parts.fold(tone.to_owned(), |all, part| all + &part)
}
