//! Children that evaluate one spec after the other: each finds what the first one found.

use std::collections::BTreeSet;

use nix::unistd::Pid;
use serde_json::Value;
use tw_model::Code;
use tw_spec::{Detail, EvalConfig, Evaluation, Evaluator};

use crate::support::{Repo, children_of, config};

const HELLO: &str =
    "from tw import Job, export\nexport(Job(name=\"hello\", command=\"echo hello\"))\n";

/// Says where new objects come to lie, which depends on all that was made and given back before.
const WHERE: &str = r#"from tw import Job, export
kept = [object() for _ in range(50)]
places = [id(one) for one in kept] + [id(b"x" * 3000), id({str(n): n for n in range(100)})]
export(Job(name="where", command="x", env={str(index): str(place) for index, place in enumerate(places)}))
"#;

/// Leaves as much as it can.
const UNTIDY: &str = r#"import collections, json, tw
from tw import Job, export
json.dumps = lambda _: "dumped"
json.decoder.left = {number: str(number) for number in range(1000)}
collections.left = ["left"] * 1000
tw.left = [object() for _ in range(20_000)]
for name in [name for name in dir(tw) if name.startswith("H")]:
    delattr(tw, name)
export(Job(name="untidy", command="x", env={"DUMPED": json.dumps(1)}))
Job.left = "left"
"#;

/// Finds what the other left.
const TIDY: &str = r#"import collections, json, tw
from tw import HttpCheck, Job, export
found = [json.dumps(1)] + [hasattr(one, "left") for one in (collections, json.decoder, tw, Job)]
export(Job(name="tidy", command="x", env={"FOUND": str(found)}))
"#;

/// One at a time, so that it is the same child that does all of them.
fn one_at_a_time() -> Evaluator {
    let config = EvalConfig {
        in_flight: 1,
        ..config()
    };
    Evaluator::start(config).expect("tw-eval starts")
}

fn evaluate(evaluator: &Evaluator, repo: &Repo, spec: &str) -> Evaluation {
    let done = evaluator.evaluate(&repo.work_tree(), spec, Detail::Places);
    done.expect("an answer")
}

fn jobs(evaluator: &Evaluator, repo: &Repo, spec: &str) -> Vec<Value> {
    let done = evaluate(evaluator, repo, spec);
    assert_eq!(done.error, None);
    done.jobs
}

fn children(evaluator: &Evaluator) -> BTreeSet<Pid> {
    let zygote = evaluator.process_id().expect("a process");
    children_of(zygote).into_iter().collect()
}

/// Evaluates until there is a child that does one spec after the other, and no other is made.
fn warm(evaluator: &Evaluator, repo: &Repo) {
    for _ in 0..200 {
        let before = children(evaluator);
        (0..5).for_each(|_| drop(jobs(evaluator, repo, "hello.tw")));
        if children(evaluator) == before {
            return;
        }
    }
    panic!("a child is made for each spec");
}

#[test]
fn one_child_evaluates_many_specs() {
    let repo = Repo::with(&[("hello.tw", HELLO)]);
    let evaluator = one_at_a_time();
    warm(&evaluator, &repo);
    let before = children(&evaluator);
    for _ in 0..30 {
        jobs(&evaluator, &repo, "hello.tw");
    }
    // What one wrote to is told by its page faults, of which there are none in pages that the kernel collapses. Besides, a
    // child may wait for a spec that needs one of its own.
    let has_small_pages = |child: &Pid| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status"));
        status.is_ok_and(|status| status.lines().any(|line| line == "THP_enabled:\t0"))
    };
    let stayed = children(&evaluator);
    let kept = stayed
        .intersection(&before)
        .filter(|it| has_small_pages(it));
    assert!(kept.count() > 0, "some child has stayed");
}

#[test]
fn a_spec_finds_nothing_of_the_one_before() {
    let repo = Repo::with(&[
        ("hello.tw", HELLO),
        ("tidy.tw", TIDY),
        ("untidy.tw", UNTIDY),
    ]);
    let evaluator = one_at_a_time();
    let fresh = jobs(&evaluator, &repo, "tidy.tw");
    warm(&evaluator, &repo);
    for _ in 0..10 {
        assert!(
            jobs(&evaluator, &repo, "untidy.tw")[0]
                .to_string()
                .contains("dumped")
        );
        assert_eq!(jobs(&evaluator, &repo, "tidy.tw"), fresh);
    }
}

#[test]
fn objects_lie_where_they_would_in_the_first_spec() {
    let repo = Repo::with(&[
        ("hello.tw", HELLO),
        ("untidy.tw", UNTIDY),
        ("where.tw", WHERE),
    ]);
    let evaluator = one_at_a_time();
    warm(&evaluator, &repo);
    let first = jobs(&evaluator, &repo, "where.tw");
    for _ in 0..10 {
        jobs(&evaluator, &repo, "untidy.tw");
        assert_eq!(jobs(&evaluator, &repo, "where.tw"), first);
    }
}

#[test]
fn what_needs_more_than_a_kept_child_has_gets_a_child_of_its_own() {
    let large = "x = [bytes(1 << 20) for _ in range(64)]\nfrom tw import Job, export\n\
                 export(Job(name=\"large\", command=\"x\", env={\"N\": str(len(x))}))\n";
    let deep = "def down(n):\n    return 0 if n == 0 else 1 + down(n - 1)\nfrom tw import Job, export\n\
                export(Job(name=\"deep\", command=\"x\", env={\"N\": str(down(900))}))\n";
    let repo = Repo::with(&[("hello.tw", HELLO), ("large.tw", large), ("deep.tw", deep)]);
    let evaluator = one_at_a_time();
    warm(&evaluator, &repo);
    for (spec, found) in [("large.tw", "64"), ("deep.tw", "900")] {
        let made = jobs(&evaluator, &repo, spec);
        assert!(
            made[0].to_string().contains(&format!("\"{found}\"")),
            "{made:?}"
        );
        jobs(&evaluator, &repo, "hello.tw");
    }
}

#[test]
fn what_is_wrong_is_said_as_by_a_child_of_its_own() {
    let wrong = [
        (
            "name.tw",
            "from tw import Job\nJob(nam=1)\n",
            Code::SpecUnknownField,
        ),
        ("call.tw", "import os\nos.fork()\n", Code::SpecDenied),
        (
            "below.tw",
            "f = [c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'BuiltinImporter'][0]\n\
             f.load_module('posix').getpid()\n",
            Code::SpecDenied,
        ),
        ("leave.tw", "import sys\nsys.exit(0)\n", Code::SpecExit),
        ("loop.tw", "while True:\n    pass\n", Code::SpecTimeout),
    ];
    let files: Vec<(&str, &str)> = wrong.iter().map(|(path, text, _)| (*path, *text)).collect();
    let repo = Repo::with(&files);
    repo.write("hello.tw", HELLO);
    let evaluator = one_at_a_time();
    let fresh: Vec<_> = wrong
        .iter()
        .map(|(path, ..)| {
            let own = one_at_a_time();
            evaluate(&own, &repo, path).error
        })
        .collect();
    for ((path, _, code), fresh) in wrong.iter().zip(fresh) {
        warm(&evaluator, &repo);
        let error = evaluate(&evaluator, &repo, path).error;
        assert_eq!(
            error.as_ref().map(|error| error.code),
            Some(*code),
            "{path}: {error:?}"
        );
        assert_eq!(error, fresh, "{path}");
    }
}
