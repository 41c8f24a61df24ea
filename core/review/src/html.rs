//! A review as a part of a page. It has no script, and all that comes from specs is text.

use std::fmt::Write;

use crate::card::because;
use crate::review::{Card, Line, Mark, Part, Review, Tone};
use crate::rows::one_line;
use crate::words::some_of;

const NAMES_MAX: usize = 60;

/// The review in HTML: classes `danger`, `note`, `card`, `added`, `removed`, `modified` and `dim` are for the page's
/// style.
pub fn html(review: &Review) -> String {
    let mut html = format!("<h2>{}</h2>\n", escaped(&review.headline));
    for (class, lines) in [
        ("danger", &review.errors),
        ("danger", &review.alarms),
        ("note", &review.notes),
    ] {
        write_list(&mut html, class, lines);
    }
    review
        .cards
        .iter()
        .for_each(|card| write_card(&mut html, card));
    write_list(&mut html, "dim", &review.totals);
    if let Some(digest) = &review.digest {
        let _ = writeln!(
            html,
            "<p class=\"dim\">plan <code>{}</code></p>",
            escaped(digest)
        );
    }
    html
}

fn write_list(html: &mut String, class: &str, lines: &[Line]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(html, "<ul class=\"{class}\">");
    for one in lines {
        let _ = writeln!(html, "<li>{}</li>", line(one));
    }
    html.push_str("</ul>\n");
}

fn line(line: &Line) -> String {
    let tone = match line.tone {
        Tone::Plain => "",
        Tone::Warning => "<b>note</b>: ",
        Tone::Danger => "<b>danger</b>: ",
    };
    let parts = line.parts.iter().map(|part| match part {
        Part::Words(words) => escaped(words),
        Part::Quoted(words) => format!("<code>{}</code>", escaped(words)),
    });
    parts.fold(tone.to_owned(), |all, part| all + &part)
}

fn write_card(html: &mut String, card: &Card) {
    let (class, what) = match (card.mark, card.effect) {
        (Mark::Added, _) => ("added", "added".to_owned()),
        (Mark::Removed, _) => ("removed", "removed".to_owned()),
        (_, Some(effect)) => ("modified", because(effect)),
        (_, None) => ("modified", "begins again".to_owned()),
    };
    let title = escaped(&card.title());
    let _ = write!(
        html,
        "<section class=\"card {class}\">\n<h3>{} {title} <span class=\"dim\">{}</span></h3>\n",
        card.mark.sign(),
        escaped(&what)
    );
    let about: Vec<&str> = match card.jobs.as_slice() {
        [job] => vec![&card.summary, &job.file, &job.owner],
        _ => vec![&card.summary],
    };
    let about: Vec<&str> = about.into_iter().filter(|part| !part.is_empty()).collect();
    if !about.is_empty() {
        let _ = writeln!(html, "<p>{}</p>", escaped(&about.join(", ")));
    }
    if card.is_folded() {
        let names = some_of(&card.names(), NAMES_MAX);
        let _ = writeln!(html, "<p>{}</p>", escaped(&names));
    }
    if !card.rows.is_empty() {
        html.push_str("<table>\n");
        for row in &card.rows {
            let cells = [&row.path, &row.old, &row.new]
                .map(|cell| format!("<td><code>{}</code></td>", escaped(cell)));
            let _ = writeln!(
                html,
                "<tr>{}<td>{}</td><td class=\"dim\">{}</td></tr>",
                cells.concat(),
                row.effect,
                escaped(&row.cause)
            );
        }
        html.push_str("</table>\n");
    }
    write_list(html, "", &card.lines);
    html.push_str("</section>\n");
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in one_line(text).chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
