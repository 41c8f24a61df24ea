//! Tests of specs, as `tw test` runs them.

use std::time::Duration;

use crate::support::{Repo, config, evaluator};
use tw_spec::{EvalConfig, Evaluator, RenderOptions, TestOutcome, TestResult, run_tests};

const SPEC: &str = "from tw import Job, MiB, Resources, export\n\nexport(Job(name=\"web\", command=\"sleep 60\", resources=Resources(memory=256 * MiB), env={\"A\": \"1\", \"B\": \"2\"}))\n";

fn run(repo: &Repo) -> Vec<TestResult> {
    run_in(repo, evaluator())
}

fn run_with(repo: &Repo, config: EvalConfig) -> Vec<TestResult> {
    run_in(repo, &Evaluator::start(config).expect("tw-eval starts"))
}

fn run_in(repo: &Repo, evaluator: &Evaluator) -> Vec<TestResult> {
    let source = repo.work_tree();
    let found = source.find_tests(&[String::new()]).expect("tests");
    run_tests(evaluator, &source, &found.files, &|_| true, &|_| ()).expect("an evaluator")
}

/// Titles and outcomes, one a line.
fn summary(results: &[TestResult]) -> String {
    let line = |result: &TestResult| {
        let outcome = match &result.outcome {
            TestOutcome::Passed => "passed".to_owned(),
            TestOutcome::Skipped { reason } => format!("skipped: {reason}"),
            TestOutcome::Failed(failure) => failure.error.to_string(),
        };
        format!("{} {outcome}\n", result.test.title())
    };
    results.iter().map(line).collect()
}

/// Every failure as a person sees it.
fn failures(results: &[TestResult]) -> String {
    let shown = results.iter().filter_map(|result| match &result.outcome {
        TestOutcome::Failed(failure) => Some(failure.render(RenderOptions::default())),
        _ => None,
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn tests_load_jobs_have_cases_and_are_skipped() {
    let repo = Repo::with(&[
        ("web/config.tw", SPEC),
        (
            "web/config_test.py",
            "from tw import MiB\nfrom tw.testing import cases, load, raises, skip\n\njobs = load(\"config.tw\")\n\n\ndef test_memory():\n    assert jobs[\"web\"].resources.memory == 256 * MiB\n    assert jobs[\"web\"].command == (\"sleep\", \"60\")\n    assert \"web\" in jobs and len(jobs) == 1\n\n\n@cases(1, 2)\ndef test_number(n):\n    assert n < 3\n\n\n@cases((\"a\", 1), (\"b\", 2))\ndef test_pair(text, number):\n    assert text * number in (\"a\", \"bb\")\n\n\ndef test_later():\n    skip(\"not yet\")\n\n\nclass TestJobs:\n    def test_missing(self):\n        with raises(LookupError, match=\"did you mean 'web'\"):\n            jobs[\"wep\"]\n",
        ),
    ]);
    insta::assert_snapshot!(summary(&run(&repo)), @r#"
    test_memory passed
    test_number[1] passed
    test_number[2] passed
    test_pair['a', 1] passed
    test_pair['b', 2] passed
    test_later skipped: not yet
    TestJobs.test_missing passed
    "#);
}

#[test]
fn a_failed_assertion_shows_both_sides() {
    let repo = Repo::with(&[
        ("config.tw", SPEC),
        (
            "test_web.py",
            "from tw import MiB\nfrom tw.testing import load\n\nweb = load(\"config.tw\")[\"web\"]\n\n\ndef test_memory():\n    assert web.resources.memory <= 128 * MiB, \"web is too big\"\n\n\ndef test_env():\n    assert dict(web.env) == {\"A\": \"1\", \"B\": \"3\", \"C\": \"a long value that makes the printer use one line for each\"}\n\n\ndef test_call():\n    assert web.name.startswith(web.namespace)\n\n\ndef test_first_of_two():\n    assert web.name == \"api\" or not web.command\n\n\ndef test_error():\n    return web.nmae\n",
        ),
    ]);
    insta::assert_snapshot!(failures(&run(&repo)));
}

#[test]
fn tests_do_not_see_each_other() {
    let repo = Repo::with(&[
        ("shared.py", "seen = []\n"),
        (
            "test_order.py",
            "import shared\nimport tw\n\n\ndef test_one():\n    shared.seen.append(1)\n    assert shared.seen == [1]\n\n\ndef test_two():\n    shared.seen.append(2)\n    assert shared.seen == [2]\n",
        ),
    ]);
    insta::assert_snapshot!(summary(&run(&repo)), @r"
    test_one passed
    test_two passed
    ");
}

#[test]
fn a_test_is_as_sealed_as_a_spec() {
    let repo = Repo::with(&[(
        "test_seal.py",
        "import tw\n\n\ndef test_files():\n    try:\n        open(\"/etc/passwd\")\n    except BaseException:\n        pass\n\n\ndef test_leaves():\n    import sys\n    sys.exit(0)\n\n\ndef test_clock():\n    import time\n    time.time()\n",
    )]);
    insta::assert_snapshot!(summary(&run(&repo)), @r"
    test_files test_seal.py:6:9: `open` is not available in a spec [spec.denied]
    test_leaves test_seal.py:13:5: the test left by sys.exit(0) [spec.exit]
    test_clock test_seal.py:18:5: `time.time` is not available in a spec [spec.nondeterministic]
    ");
}

#[test]
fn a_test_that_hangs_ends_at_its_deadline() {
    let repo = Repo::with(&[(
        "test_loop.py",
        "import tw\n\n\ndef test_loop():\n    while True:\n        pass\n\n\ndef test_after():\n    pass\n",
    )]);
    let config = EvalConfig {
        deadline: Duration::from_millis(700),
        ..config()
    };
    let results = run_with(&repo, config);
    let text = summary(&results);
    assert!(
        text.contains(
            "test_loop test_loop.py: the test was killed after 0.7 seconds [spec.timeout]"
        ),
        "{text}"
    );
    assert!(text.contains("test_after passed"), "{text}");
}

#[test]
fn what_cannot_be_run_is_said() {
    let repo = Repo::with(&[
        ("test_a.py", "from tw import Jop\n"),
        (
            "test_b.py",
            "import tw\n\n\ndef test_fixture(tmp_path):\n    pass\n\n\nasync def test_async():\n    pass\n",
        ),
        (
            "test_c.py",
            "from tw.testing import load\n\n\ndef test_missing():\n    load(\"nothing.tw\")\n\n\ndef test_broken():\n    load(\"broken.tw\")\n",
        ),
        (
            "broken.tw",
            "from tw import Job, export\nexport(Job(name=\"web\"))\n",
        ),
        (
            "test_flask.py",
            "import flask\n\ndef test_app():\n    pass\n",
        ),
    ]);
    insta::assert_snapshot!(failures(&run(&repo)));
    let found = repo
        .work_tree()
        .find_tests(&[String::new()])
        .expect("tests");
    assert_eq!(found.passed_over, ["test_flask.py"]);
}

#[test]
fn what_a_failed_test_printed_is_kept() {
    let repo = Repo::with(&[(
        "test_print.py",
        "import tw\n\n\ndef test_print():\n    print(\"looking\")\n    assert 1 == 2\n",
    )]);
    assert_eq!(run(&repo)[0].output, "looking\n");
}
