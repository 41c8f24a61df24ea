//! What a hostile spec may try. Each attempt ends as one clear error, and the evaluator serves the next spec.
//!
//! The attempts stand in `attacks/CLASS.txt`. Most of them get around the stand-ins of the library for specs
//! first, through `dataclasses.sys.modules`: what holds then is the seal. A flag says that an attempt needs time
//! to grow (`large`) or none at all (`idle`), that its line is up to chance (`anywhere`), or its end, too (`any`).

use std::fs;
use std::time::Duration;

use tw_model::Code;
use tw_spec::{EvalConfig, Evaluator, RenderOptions, Source, SpecError, evaluate, render_error};

use crate::scenario::{Scenario, scenarios};
use crate::support::config;

const HELLO: &str =
    "from tw import Job, export\nexport(Job(name=\"hello\", command=\"echo hello\"))\n";

/// What broken machine code may end as: which of them is up to the memory it hits.
const ENDS_OF_CHAOS: [Code; 5] = [
    Code::SpecCrash,
    Code::SpecDenied,
    Code::SpecException,
    Code::SpecMemory,
    Code::SpecTimeout,
];

macro_rules! attacks {
    ($($class:ident at least $least:literal),+ $(,)?) => {
        $(
            #[test]
            fn $class() {
                let text = include_str!(concat!("attacks/", stringify!($class), ".txt"));
                let shown = attempt_all(text, $least);
                insta::with_settings!({ filters => FILTERS.to_vec(), omit_expression => true }, {
                    insta::assert_snapshot!(concat!("attacks_", stringify!($class)), shown);
                });
            }
        )+
    };
}

/// Numbers of system calls are the machine's.
const FILTERS: &[(&str, &str)] = &[(r"system call \d+", "system call N")];

attacks! {
    caught at least 5,
    code at least 5,
    codecs at least 5,
    ctypes at least 5,
    exits at least 5,
    facts at least 5,
    frames at least 5,
    gc at least 5,
    imports at least 5,
    integers at least 5,
    memory at least 5,
    objects at least 5,
    output at least 5,
    patterns at least 5,
    pickles at least 5,
    pipe at least 5,
    recursion at least 5,
    signals at least 5,
    threads at least 5,
}

/// Makes every attempt of a class with one evaluator; returns what an author would see of each.
fn attempt_all(text: &str, least: usize) -> String {
    let attempts = scenarios(text, "attempt.tw");
    assert!(attempts.len() >= least, "{} attempts", attempts.len());
    let start = |config| Evaluator::start(config).expect("tw-eval starts");
    let evaluator = start(limits());
    let before = evaluator.process_id().expect("a process");
    let mut shown = String::new();
    for attempt in &attempts {
        let error = match attempt.flag {
            "idle" => made(&start(impatient()), attempt),
            "large" | "large, anywhere" => made(&start(patient()), attempt),
            _ => made(&evaluator, attempt),
        };
        shown += &format!("=== {}\n", attempt.name);
        shown += &match attempt.flag {
            "any" => chaos(attempt, &error),
            "anywhere" | "large, anywhere" => format!("{}: {}\n", error.code, error.message),
            _ => render_error(&error, RenderOptions::default()),
        };
    }
    let after = evaluator.process_id().expect("a process");
    assert_eq!(before, after, "the evaluator survived all of it");
    shown
}

fn limits() -> EvalConfig {
    EvalConfig {
        cpu: Duration::from_millis(200),
        memory_bytes: 160 << 20,
        ..config()
    }
}

/// For what takes its time until it is too large.
fn patient() -> EvalConfig {
    EvalConfig {
        cpu: Duration::from_secs(10),
        ..limits()
    }
}

/// For what uses no processor time while it does not end.
fn impatient() -> EvalConfig {
    EvalConfig {
        deadline: Duration::from_secs(2),
        ..limits()
    }
}

/// Makes one attempt, has the next spec served, and returns the one error.
fn made(evaluator: &Evaluator, attempt: &Scenario<'_>) -> SpecError {
    let name = attempt.name;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| fs::write(folder.path().join(path), text).expect("write");
    attempt
        .files
        .iter()
        .for_each(|(path, text)| write(path, text));
    write("hello.tw", HELLO);
    let tree = Source::work_tree(folder.path()).expect("a tree");
    let run = |path: &str| evaluate(evaluator, &tree, &[path.to_owned()]).expect("an answer");
    let attempted = run("attempt.tw");
    let next = run("hello.tw");
    assert_eq!(next.errors, [], "{name}: the next spec is served");
    assert_eq!(next.jobs.len(), 1, "{name}: the next spec has its job");
    let names: Vec<&str> = attempted
        .jobs
        .iter()
        .map(|job| job.spec.name.as_str())
        .collect();
    let [error] = &attempted.errors[..] else {
        panic!(
            "{name}: one error, not {:?}; jobs {names:?}",
            attempted.errors
        );
    };
    assert!(
        names.is_empty(),
        "{name}: a failed spec gives no jobs, not {names:?}"
    );
    error.clone()
}

fn chaos(attempt: &Scenario<'_>, error: &SpecError) -> String {
    let allowed = ENDS_OF_CHAOS.contains(&error.code);
    assert!(allowed, "{}: {error:?}", attempt.name);
    "one error\n".to_owned()
}
