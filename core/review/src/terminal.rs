//! A review in a terminal. Nothing that comes from a spec reaches it raw.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use tw_model::Effect;

use crate::card::because;
use crate::review::{Card, Line, Mark, Part, Review, Tone};
use crate::rows::{Columns, one_line};
use crate::words::some_of;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();

/// Names that are shown of the jobs that share a change.
const NAMES_MAX: usize = 8;

/// The review with ANSI colours; whoever prints it drops them where there is no terminal.
pub fn terminal(review: &Review) -> String {
    let mut text = format!("{BOLD}{}{BOLD:#}\n", review.headline);
    let lines = review.errors.iter().chain(&review.alarms);
    for alarm in lines.chain(&review.notes) {
        let _ = writeln!(text, "{}", line(alarm));
    }
    let brief = |card: &&Card| card.is_brief() && !card.is_folded();
    let titles = review.cards.iter().filter(brief);
    let width = titles.map(|card| card.title().chars().count()).max();
    let mut was_brief = false;
    for card in &review.cards {
        let is_brief = brief(&card);
        match is_brief {
            true => {
                if !was_brief {
                    text.push('\n');
                }
                write_brief(&mut text, card, width.unwrap_or(0));
            }
            false => write_card(&mut text, card),
        }
        was_brief = is_brief;
    }
    if !review.totals.is_empty() {
        text.push('\n');
    }
    for total in &review.totals {
        let _ = writeln!(text, "{}", line(total));
    }
    if let Some(digest) = &review.digest {
        let _ = writeln!(text, "{DIM}plan {}{DIM:#}", one_line(digest));
    }
    text
}

/// The colour of an effect.
pub fn effect_style(effect: Effect) -> Style {
    match effect {
        Effect::None | Effect::InPlace | Effect::Scale => GREEN,
        Effect::Restart | Effect::Move => YELLOW,
        Effect::Recreate => RED,
    }
}

fn line(line: &Line) -> String {
    let parts: String = line.parts.iter().map(part).collect();
    match line.tone {
        Tone::Plain => parts,
        Tone::Warning => format!("{YELLOW}note{YELLOW:#}: {parts}"),
        Tone::Danger => format!("{RED}danger{RED:#}: {parts}"),
    }
}

fn part(part: &Part) -> String {
    match part {
        Part::Words(words) => words.clone(),
        Part::Quoted(words) => one_line(words),
    }
}

fn write_card(text: &mut String, card: &Card) {
    let style = mark_style(card.mark);
    let title = one_line(&card.title());
    let _ = write!(
        text,
        "\n{style}{}{style:#} {BOLD}{title}{BOLD:#}",
        card.mark.sign()
    );
    if let Some(effect) = card.effect {
        let style = effect_style(effect);
        let _ = write!(
            text,
            ": {style}{effect}{style:#}{}",
            &because(effect)[effect.as_str().len()..]
        );
    }
    let about = card.about();
    if !about.is_empty() {
        let _ = write!(text, "  {DIM}{about}{DIM:#}");
    }
    text.push('\n');
    if !card.summary.is_empty() {
        let _ = writeln!(text, "    {}", card.summary);
    }
    if card.is_folded() {
        let _ = writeln!(text, "    {}", one_line(&some_of(&card.names(), NAMES_MAX)));
    }
    let columns = Columns::of(&card.rows);
    for row in &card.rows {
        let [path, values, effect, cause] = columns.cells(row);
        let style = effect_style(row.effect);
        let shown = format!("    {path}  {values}  {style}{effect}{style:#}  {DIM}{cause}{DIM:#}");
        let shown = match cause.is_empty() {
            true => format!(
                "    {path}  {values}  {style}{}{style:#}",
                effect.trim_end()
            ),
            false => shown,
        };
        let _ = writeln!(text, "{shown}");
    }
    for one in &card.lines {
        let _ = writeln!(text, "    {}", line(one));
    }
}

/// A job that comes or goes, in one line.
fn write_brief(text: &mut String, card: &Card, width: usize) {
    let style = mark_style(card.mark);
    let (sign, title) = (card.mark.sign(), one_line(&card.title()));
    let pad = " ".repeat(width.saturating_sub(title.chars().count()));
    let shown = format!(
        "{style}{sign}{style:#} {BOLD}{title}{BOLD:#}{pad}  {}  {DIM}{}{DIM:#}",
        card.summary,
        card.about()
    );
    let _ = writeln!(text, "{}", shown);
}

fn mark_style(mark: Mark) -> Style {
    match mark {
        Mark::Added => GREEN,
        Mark::Removed => RED,
        Mark::Modified | Mark::Again => YELLOW,
    }
}
