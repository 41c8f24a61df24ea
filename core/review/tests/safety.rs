//! Whatever a spec holds: it steers no terminal, becomes no markup, and a comment stays short enough.

use proptest::prelude::*;
use tw_model::Effect;
use tw_review::{Card, CardJob, Line, MARKDOWN_BYTES_MAX, Mark, Part, Review, Row, Tone};
use tw_review::{html, markdown, terminal};

/// Texts of the kind that someone would try.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        Just("```".to_owned()),
        Just("`".to_owned()),
        Just("\n".to_owned()),
        Just("</details>".to_owned()),
        Just("<img src=x onerror=alert(1)>".to_owned()),
        Just("@everyone".to_owned()),
        Just("[x](http://evil.example)".to_owned()),
        Just("\u{1b}[2J".to_owned()),
        Just("\u{202e}".to_owned()),
        Just("~~~\n".to_owned()),
        Just("/close\n".to_owned()),
        Just("\\".to_owned()),
        "[ -~]{0,8}",
        "\\PC{0,4}",
        any::<char>().prop_map(|c| c.to_string()),
    ];
    prop::collection::vec(pieces, 0..8).prop_map(|pieces| pieces.concat())
}

fn card() -> impl Strategy<Value = Card> {
    let row = (hostile(), hostile(), hostile(), hostile());
    let rows = prop::collection::vec(row, 0..4);
    (hostile(), hostile(), rows, line(), 1_usize..4).prop_map(|(file, owner, rows, line, jobs)| {
        Card {
            mark: Mark::Modified,
            jobs: (0..jobs)
                .map(|number| CardJob {
                    name: format!("web-{number}"),
                    file: file.clone(),
                    owner: owner.clone(),
                })
                .collect(),
            effect: Some(Effect::Restart),
            summary: String::new(),
            rows: rows
                .into_iter()
                .map(|(path, old, new, cause)| Row {
                    path,
                    old,
                    new,
                    effect: Effect::Restart,
                    cause,
                    own: false,
                })
                .collect(),
            lines: vec![line],
        }
    })
}

fn line() -> impl Strategy<Value = Line> {
    prop::collection::vec(hostile(), 0..3).prop_map(|quoted| Line {
        tone: Tone::Warning,
        parts: quoted
            .into_iter()
            .flat_map(|text| [Part::Words("it says ".to_owned()), Part::Quoted(text)])
            .collect(),
    })
}

fn review() -> impl Strategy<Value = Review> {
    let cards = prop::collection::vec(card(), 0..4);
    let lines = || prop::collection::vec(line(), 0..3);
    (lines(), lines(), cards, lines()).prop_map(|(alarms, notes, cards, totals)| Review {
        headline: "something changes".to_owned(),
        errors: Vec::new(),
        alarms,
        notes,
        cards,
        totals,
        digest: None,
    })
}

/// What is left of Markdown without fenced blocks, code spans and our own tags, read as CommonMark reads them.
fn outside_code(text: &str) -> String {
    let mut left = String::new();
    let mut fence: Option<usize> = None;
    for line in text.lines() {
        let ticks = line.len() - line.trim_start_matches('`').len();
        match fence {
            Some(width) if ticks >= width && line.trim_start_matches('`').trim().is_empty() => {
                fence = None
            }
            Some(_) => {}
            None if ticks >= 3 && !line[ticks..].contains('`') => fence = Some(ticks),
            None => left.push_str(&(without_spans(line) + "\n")),
        }
    }
    assert_eq!(fence, None, "a block stays open: {text}");
    for tag in [
        "<details>",
        "<details open>",
        "</details>",
        "<summary>",
        "</summary>",
        "<b>",
        "</b>",
    ] {
        left = left.replace(tag, "");
    }
    left
}

/// A line without its code spans: a run of ticks, up to the next run of the same length.
fn without_spans(line: &str) -> String {
    let (mut left, mut rest) = (String::new(), line);
    while let Some(start) = rest.find('`') {
        left.push_str(&rest[..start]);
        let width = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let mut inner = &rest[start + width..];
        loop {
            let Some(next) = inner.find('`') else {
                return left + rest;
            };
            let run = inner[next..].len() - inner[next..].trim_start_matches('`').len();
            inner = &inner[next + run..];
            if run == width {
                break;
            }
        }
        rest = inner;
    }
    left + rest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_of_a_spec_becomes_markup(review in review()) {
        let text = markdown(&review, "tw diff");
        let outside = outside_code(&text);
        let marks: &[char] = &['<', '>', '@', '[', '`', '\\'];
        prop_assert!(!outside.contains(marks), "{outside}\n---\n{text}");
        let page = html(&review);
        for mark in ["<img", "</details", "onerror=alert(1)>"] {
            prop_assert!(!page.contains(mark), "{page}");
        }
    }

    #[test]
    fn nothing_of_a_spec_steers_the_terminal(review in review()) {
        // Our own colours are the only sequences.
        let text = terminal(&review);
        let plain = anstream::adapter::strip_str(&text).to_string();
        let expected = text.matches("\u{1b}[").count();
        let colours = ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[33m"];
        let known: usize = colours.iter().map(|colour| text.matches(colour).count()).sum();
        prop_assert_eq!(expected, known, "{:?}", text);
        let steers = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        prop_assert!(!plain.contains(steers), "{:?}", plain);
    }
}

#[test]
fn a_comment_is_short_enough_however_much_changes() {
    let row = |number: usize| Row {
        path: format!("env.VARIABLE_{number}"),
        old: "x".repeat(500),
        new: "`".repeat(500),
        effect: Effect::Restart,
        cause: "config.tw:1".to_owned(),
        own: true,
    };
    let card = |number: usize| Card {
        mark: Mark::Modified,
        jobs: vec![CardJob {
            name: format!("job-{number}"),
            file: "config.tw".to_owned(),
            owner: String::new(),
        }],
        effect: Some(Effect::Restart),
        summary: String::new(),
        rows: (0..200).map(row).collect(),
        lines: Vec::new(),
    };
    let line = Line {
        tone: Tone::Danger,
        parts: vec![Part::Quoted("é".repeat(10_000))],
    };
    let review = Review {
        headline: "very much changes".to_owned(),
        alarms: vec![line; 30],
        cards: (0..100).map(card).collect(),
        ..Review::default()
    };
    let text = markdown(&review, "tw diff main HEAD");
    assert!(text.len() <= MARKDOWN_BYTES_MAX, "{}", text.len());
    assert!(
        text.contains("did not fit here: `tw diff main HEAD`"),
        "{}",
        &text[text.len() - 300..]
    );
}
