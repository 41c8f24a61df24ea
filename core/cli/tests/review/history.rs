//! The history of edits, each shown as its reviewer sees it.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tw_spec::{Cache, EvalConfig, Evaluator, Source, Tree};

use crate::edits::{EDITS, begin};
use crate::repository::{Repository, TW};

/// Jobs of one JSON that the golden shows.
const JOBS_SHOWN: usize = 4;

#[test]
fn every_edit_reads_well_in_all_formats() {
    let mut repository = begin();
    let evaluator = evaluator(&repository);
    for (number, (message, edit)) in EDITS.iter().enumerate() {
        edit(&repository);
        repository.commit(message);
        let name = format!("{:02}_{}", number + 1, message.replace([' ', '\''], "_"));
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, shown(&repository, &evaluator));
        });
    }
}

/// One evaluator for the whole history; the commands start one each.
fn evaluator(repository: &Repository) -> Evaluator {
    let config = EvalConfig {
        cache: Some(Arc::new(Cache::open(&repository.cache()))),
        program: Some(Path::new(TW).with_file_name("tw-eval")),
        ..EvalConfig::default()
    };
    Evaluator::start(config).expect("tw-eval starts")
}

/// All formats of the last commit, one under the other.
fn shown(repository: &Repository, evaluator: &Evaluator) -> String {
    let side = |revision: &str| {
        let source = Source::revision(&repository.root(), revision).unwrap();
        let specs = source.specs_if_any(&[String::new()]).unwrap();
        (source, specs)
    };
    let ((base, old), (head, new)) = (side("HEAD~1"), side("HEAD"));
    let base = Tree {
        source: &base,
        specs: &old,
    };
    let head = Tree {
        source: &head,
        specs: &new,
    };
    let compared = tw_spec::diff(evaluator, base, head).unwrap();
    let policy = tw_spec::review(evaluator, head.source, &compared.head.jobs).unwrap();
    let review = tw_review::of_diff(&compared.diff, &policy.report);
    let terminal = anstream::adapter::strip_str(&tw_review::terminal(&review)).to_string();
    assert_nothing_steers_the_terminal(&terminal);
    let markdown = tw_review::markdown(&review, "tw diff HEAD~1 HEAD");
    assert!(markdown.len() <= 65_535);
    let mut text = terminal;
    let _ = write!(text, "\n======== Markdown\n\n{markdown}");
    let json = serde_json::to_value(&compared.diff).unwrap();
    let _ = write!(text, "\n======== JSON\n\n{}", brief(&json));
    text
}

fn assert_nothing_steers_the_terminal(text: &str) {
    let steers = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(steers), "{text:?}");
}

/// JSON with one line a job; of many jobs the first few.
fn brief(answer: &Value) -> String {
    let mut text = String::new();
    for (name, value) in answer.as_object().unwrap() {
        let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
            let _ = writeln!(text, "{name}: {value}");
            continue;
        };
        let _ = writeln!(text, "{name}:");
        for item in items.iter().take(JOBS_SHOWN) {
            let _ = writeln!(text, "  {item}");
        }
        if let Some(more @ 1..) = items.len().checked_sub(JOBS_SHOWN) {
            let _ = writeln!(text, "  … {more} more");
        }
    }
    text
}
