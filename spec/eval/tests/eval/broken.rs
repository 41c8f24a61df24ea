//! What a beginner sees of each mistake: `broken/TOPIC.txt` has the specs, the goldens what is said of them.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use tw_model::Code;
use tw_spec::{EvalConfig, Evaluator, Outcome, Source};

use crate::scenario::scenarios;
use crate::support::{config, evaluate_all, rendered};

macro_rules! broken {
    ($($topic:ident),+ $(,)?) => {
        $(
            #[test]
            fn $topic() {
                let shown = all(include_str!(concat!("broken/", stringify!($topic), ".txt")));
                insta::with_settings!({ omit_expression => true }, {
                    insta::assert_snapshot!(concat!("broken_", stringify!($topic)), shown);
                });
            }
        )+
    };
}

broken!(exports, fields, modules, syntax, types, values);

/// Evaluates every scenario of a topic; returns what its author would see.
fn all(text: &str) -> String {
    let mut shown = String::new();
    for scenario in scenarios(text, "config.tw") {
        let files = scenario
            .files
            .iter()
            .map(|(path, text)| (*path, text.as_bytes()));
        let outcome = outcome_of(&EVALUATOR, &Vec::from_iter(files));
        let said = match outcome.errors.is_empty() {
            true => format!("no mistake; {} jobs\n", outcome.jobs.len()),
            false => rendered(&outcome),
        };
        shown += &format!("=== {}\n{said}", scenario.name);
    }
    shown
}

static EVALUATOR: LazyLock<Evaluator> = LazyLock::new(|| {
    let config = EvalConfig {
        cpu: Duration::from_millis(500),
        ..config()
    };
    Evaluator::start(config).expect("tw-eval starts")
});

fn outcome_of(evaluator: &Evaluator, files: &[(&str, &[u8])]) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, content) in files {
        write(&folder.path().join(path), content);
    }
    evaluate_all(
        evaluator,
        &Source::work_tree(folder.path()).expect("a tree"),
    )
}

fn write(file: &Path, content: &[u8]) {
    fs::create_dir_all(file.parent().expect("a folder")).expect("mkdir");
    fs::write(file, content).expect("write");
}

#[test]
fn files_that_are_no_text() {
    const GOOD: &[u8] =
        b"from tw import Job, export\nexport(Job(name=\"web\", command=\"server\"))\n";
    let latin = b"# A caf\xe9.\nname = 1\n".to_vec();
    let utf_16: Vec<u8> = [0xff, 0xfe]
        .into_iter()
        .chain(GOOD.iter().flat_map(|byte| [*byte, 0]))
        .collect();
    let with_mark = [b"\xef\xbb\xbf", GOOD].concat();
    let with_nul = b"x = 1\ny = \"a\0b\"\n".to_vec();
    let elf: Vec<u8> = b"\x7fELF\x02\x01\x01\0"
        .iter()
        .copied()
        .chain((0..=255).cycle().take(4096))
        .collect();
    let windows = String::from_utf8_lossy(GOOD)
        .replace('\n', "\r\n")
        .into_bytes();
    let long: Vec<u8> = b"x = [\n"
        .iter()
        .copied()
        .chain(b"    \"0123456789\",\n".repeat(600_000))
        .chain(*b"]\n")
        .collect();
    let mut shown = String::new();
    for (name, content) in [
        ("latin-1", latin),
        ("UTF-16", utf_16),
        ("a byte order mark", with_mark),
        ("a NUL", with_nul),
        ("a program", elf),
        ("the line ends of Windows", windows),
        ("more than 10 MB", long),
        ("more than 16 MB", vec![b'#'; 17 << 20]),
    ] {
        let outcome = outcome_of(&EVALUATOR, &[("config.tw", &content)]);
        let said = match outcome.errors.is_empty() {
            true => format!("no mistake; {} jobs\n", outcome.jobs.len()),
            false => rendered(&outcome),
        };
        shown += &format!("=== {name}\n{said}");
    }
    insta::with_settings!({ omit_expression => true }, {
        insta::assert_snapshot!("broken_files", shown);
    });
}

#[test]
fn a_good_spec_beside_a_hundred_broken_ones_is_evaluated() {
    let broken: Vec<(String, &[u8])> = (0..100)
        .map(|number| (format!("broken-{number}.tw"), &b"export(\n"[..]))
        .collect();
    let mut files: Vec<(&str, &[u8])> = broken
        .iter()
        .map(|(path, text)| (path.as_str(), *text))
        .collect();
    files.push((
        "good.tw",
        b"from tw import Job, export\nexport(Job(name=\"web\", command=\"server\"))\n",
    ));
    let outcome = outcome_of(&EVALUATOR, &files);
    assert_eq!((outcome.jobs.len(), outcome.errors.len()), (1, 100));
    assert!(
        outcome
            .errors
            .iter()
            .all(|error| error.code == Code::SpecSyntax)
    );
}
