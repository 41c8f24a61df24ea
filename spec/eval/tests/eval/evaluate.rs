//! From specs to typed jobs.

use crate::support::{Repo, config, evaluate_all, evaluator, rendered};
use tw_model::{Bytes, Cores, JobSpec};
use tw_spec::{Detail, EvalConfig, Evaluator, Outcome, QuestionKind};

fn one(outcome: &Outcome) -> &JobSpec {
    assert_eq!(outcome.errors, [], "{}", rendered(outcome));
    assert_eq!(outcome.jobs.len(), 1);
    &outcome.jobs[0].spec
}

#[test]
fn two_lines_are_a_whole_spec() {
    let repo = Repo::with(&[(
        "config.tw",
        "from tw import Job, export\nexport(Job(name=\"hello\", command=\"echo hello\"))\n",
    )]);
    let outcome = repo.evaluate();
    let job = one(&outcome);
    assert_eq!(job.name.as_str(), "hello");
    assert_eq!(job.command.0, ["echo", "hello"]);
    assert_eq!(outcome.jobs[0].source.to_string(), "config.tw:2:8");
}

#[test]
fn modules_come_from_the_root_of_the_repository() {
    let repo = Repo::with(&[
        (
            "shared/sizes.py",
            "from tw import MiB\n\nSMALL = 32 * MiB\n",
        ),
        (
            "shared/base.py",
            "from . import sizes\nfrom tw import Job, Resources\n\n\ndef service(name, **more):\n    return Job(name=name, command=\"sleep 60\", resources=Resources(cpu=0.5, memory=sizes.SMALL), **more)\n",
        ),
        (
            "team/web/config.tw",
            "import shared.base\nfrom tw import export\n\nexport(shared.base.service(\"web\", replicas=3))\n",
        ),
    ]);
    let outcome = repo.evaluate();
    let job = one(&outcome);
    assert_eq!(
        (job.replicas, job.resources.memory, job.resources.cpu),
        (3, Bytes::mib(32), Cores::milli(500))
    );
    assert_eq!(outcome.jobs[0].source.to_string(), "team/web/config.tw:4:8");
    let provenance = &outcome.jobs[0].provenance;
    let place = |path: &str| provenance.locate(path).map(ToString::to_string);
    assert_eq!(
        place("resources.memory_bytes").as_deref(),
        Some("shared/base.py:6:83")
    );
    assert_eq!(place("name").as_deref(), Some("shared/base.py:6:21"));
}

#[test]
fn the_closure_holds_every_question_and_the_hash_of_its_answer() {
    let repo = Repo::with(&[
        ("shared/base.py", "COMMAND = \"sleep 60\"\n"),
        ("data/replicas", "4"),
        (
            "config.tw",
            "from shared.base import COMMAND\nfrom tw import Job, export, repo\n\nif not repo.exists(\"absent\"):\n    export(Job(name=\"web\", command=COMMAND, replicas=int(repo.read(\"data/replicas\")), env={\"FILES\": \",\".join(repo.list(\"data\"))}))\n",
        ),
    ]);
    let outcome = repo.evaluate();
    let job = one(&outcome);
    assert_eq!(job.replicas, 4);
    let asked: Vec<(QuestionKind, &str, bool)> = outcome.jobs[0]
        .closure
        .iter()
        .map(|question| {
            (
                question.kind,
                question.path.as_str(),
                question.answer_hash.is_some(),
            )
        })
        .collect();
    assert_eq!(
        asked,
        [
            (QuestionKind::Read, "config.tw", true),
            (QuestionKind::Read, "data/replicas", true),
            (QuestionKind::Read, "shared.py", false),
            (QuestionKind::Read, "shared/__init__.py", false),
            (QuestionKind::Read, "shared/base.py", true),
            (QuestionKind::Read, "shared/base/__init__.py", false),
            (QuestionKind::List, "data", true),
            (QuestionKind::Exists, "absent", false),
            (QuestionKind::Exists, "shared", true),
        ]
    );
    repo.write("data/replicas", "5");
    let changed = repo.evaluate();
    let hash = |outcome: &Outcome| {
        outcome.jobs[0]
            .closure
            .iter()
            .find(|q| q.path == "data/replicas")
            .cloned()
    };
    assert_ne!(hash(&outcome), hash(&changed));
}

#[test]
fn a_revision_is_evaluated_without_a_checkout() {
    let repo = Repo::with(&[
        ("shared/base.py", "REPLICAS = 2\n"),
        (
            "config.tw",
            "from shared.base import REPLICAS\nfrom tw import Job, export\nexport(Job(name=\"web\", command=\"x\", replicas=REPLICAS))\n",
        ),
    ]);
    let first = repo.commit("first");
    repo.write("shared/base.py", "REPLICAS = 7\n");
    repo.commit("second");
    repo.remove("shared/base.py");
    repo.remove("config.tw");
    let evaluator = evaluator();
    let replicas =
        |revision: &str| one(&evaluate_all(evaluator, &repo.revision(revision))).replicas;
    assert_eq!(
        (replicas("HEAD"), replicas("HEAD~1"), replicas(&first[..8])),
        (7, 2, 2)
    );
    assert!(!repo.path().join("config.tw").exists());
}

#[test]
fn replace_derives_a_job_and_keeps_what_it_does_not_name() {
    let repo = Repo::with(&[(
        "config.tw",
        "from tw import Job, export\nweb = Job(name=\"web\", command=\"x\", replicas=2)\nexport(web.replace(\n    replicas=5,\n))\n",
    )]);
    let outcome = repo.evaluate();
    assert_eq!(one(&outcome).replicas, 5);
    let provenance = &outcome.jobs[0].provenance;
    assert_eq!(
        provenance
            .locate("replicas")
            .map(ToString::to_string)
            .as_deref(),
        Some("config.tw:4:14")
    );
    assert_eq!(
        provenance
            .locate("command")
            .map(ToString::to_string)
            .as_deref(),
        Some("config.tw:2:31")
    );
}

#[test]
fn columns_count_code_points() {
    let repo = Repo::with(&[(
        "config.tw",
        "from tw import Job, export\nexport(Job(name=\"w\", env={\"ä\": \"→\", \"B\": 7}, command=\"x\"))\n",
    )]);
    let error = &repo.evaluate().errors[0];
    assert_eq!((error.line, error.column), (Some(2), Some(42)), "{error:?}");
}

#[test]
fn packages_get_the_digest_of_their_folder() {
    let repo = Repo::with(&[
        (
            "config.tw",
            "from tw import Job, Package, export\nexport(Job(name=\"web\", command=\"x\", packages=[Package.folder(\"app\")]))\n",
        ),
        ("app/server.py", "print(1)\n"),
    ]);
    let first = one(&repo.evaluate()).packages[0].digest.clone();
    assert_eq!(first.0.len(), 64);
    repo.write("other", "not in the package");
    assert_eq!(one(&repo.evaluate()).packages[0].digest, first);
    repo.write("app/server.py", "print(2)\n");
    assert_ne!(one(&repo.evaluate()).packages[0].digest, first);
}

#[test]
fn good_jobs_stand_beside_the_errors_of_others() {
    let repo = Repo::with(&[
        ("bad.tw", "export(\n"),
        (
            "good.tw",
            "from tw import Job, export\nexport(Job(name=\"good\", command=\"x\"))\n",
        ),
    ]);
    let outcome = repo.evaluate();
    assert_eq!((outcome.jobs.len(), outcome.errors.len()), (1, 1));
}

#[test]
fn the_order_of_results_is_that_of_the_paths() {
    let spec = |index: usize| {
        format!("from tw import Job, export\nexport(Job(name=\"job-{index}\", command=\"x\"))\n")
    };
    let files: Vec<(String, String)> = (0..30)
        .map(|index| (format!("s{index:02}.tw"), spec(index)))
        .collect();
    let repo = Repo::with(
        &files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect::<Vec<_>>(),
    );
    let names: Vec<String> = repo
        .evaluate()
        .jobs
        .iter()
        .map(|job| job.spec.name.to_string())
        .collect();
    assert_eq!(
        names,
        (0..30)
            .map(|index| format!("job-{index}"))
            .collect::<Vec<_>>()
    );
}

#[test]
fn the_standard_library_for_specs_works() {
    let repo = Repo::with(&[(
        "config.tw",
        "import dataclasses, datetime, decimal, enum, hashlib, itertools, json, math, re, statistics, typing\nfrom urllib.parse import urlparse\nfrom dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Point:\n    x: int\n    y: int = 2\n\nclass Color(enum.Enum):\n    RED = \"red\"\n\nprint(json.dumps(dataclasses.asdict(Point(1))), Color.RED.value, math.sqrt(4), statistics.median([1, 2, 9]))\nprint(datetime.date(2026, 1, 31) + datetime.timedelta(days=1), decimal.Decimal('0.1') + 1, urlparse('http://a/b').path)\nprint(hashlib.sha256(b'x').hexdigest()[:8], re.sub('a', 'b', 'aa'), datetime.datetime.strptime('2026', '%Y').year)\n",
    )]);
    let outcome = repo.evaluate();
    assert_eq!(outcome.errors, [], "{}", rendered(&outcome));
    assert_eq!(
        outcome.specs[0].output,
        "{\"x\": 1, \"y\": 2} red 2.0 2\n2026-02-01 1.1 /b\n2d711642 bb 2026\n"
    );
}

#[test]
fn modules_beside_the_spec_come_before_those_of_the_root() {
    let job = |command: &str| format!("COMMAND = \"{command}\"\n");
    let repo = Repo::with(&[
        ("lib/one.py", &job("root one")),
        ("only_root.py", &job("root")),
        (
            "team/lib/one.py",
            "from . import two\n\nCOMMAND = two.COMMAND\n",
        ),
        ("team/lib/two.py", &job("team two")),
        (
            "team/config.tw",
            "from lib.one import COMMAND\nfrom only_root import COMMAND as ROOT\nfrom tw import Job, export\n\nexport(Job(name=\"a\", command=COMMAND, env={\"ROOT\": ROOT}))\n",
        ),
    ]);
    let outcome = repo.evaluate();
    let job = one(&outcome);
    assert_eq!(job.command.0, ["team", "two"]);
    assert_eq!(job.env.values().collect::<Vec<_>>(), ["root"]);
}

#[test]
fn packages_are_named_from_the_folder_of_the_spec_or_from_the_root() {
    let repo = Repo::with(&[
        ("team/app/server.py", "team"),
        ("lib/server.py", "root"),
        (
            "team/config.tw",
            "from tw import Job, Package, export\nexport(Job(name=\"a\", command=\"x\", packages=[Package.folder(\"app\"), Package.folder(\"//lib\")]))\n",
        ),
    ]);
    let outcome = repo.evaluate();
    let packages = &one(&outcome).packages;
    let paths: Vec<&str> = packages
        .iter()
        .map(|package| package.path.0.as_str())
        .collect();
    assert_eq!(paths, ["team/app", "lib"]);
    assert_ne!(packages[0].digest, packages[1].digest);
}

/// Prints the order of sets, once of objects and once of texts.
const ORDERS: &str = "class A:\n    pass\n\nthings = [A() for _ in range(60)]\nindex = {id(thing): number for number, thing in enumerate(things)}\nprint([index[id(thing)] for thing in set(things)])\nprint(list({'web', 'db', 'cache', 'proxy', 'queue'}))\n";

#[test]
fn another_seed_and_heap_show_what_depends_on_them() {
    let repo = Repo::with(&[("a.tw", ORDERS)]);
    let printed = |hash_seed: u32, heap_shift: u32| {
        let config = EvalConfig {
            hash_seed,
            heap_shift,
            ..config()
        };
        let evaluator = Evaluator::start(config).expect("tw-eval starts");
        let evaluation = evaluator
            .evaluate(&repo.work_tree(), "a.tw", Detail::Places)
            .expect("an answer");
        let (objects, texts) = evaluation.output.split_once('\n').expect("two lines");
        (objects.to_owned(), texts.to_owned())
    };
    let (objects, texts) = printed(0, 0);
    assert_eq!(printed(0, 0).1, texts, "texts depend on the seed alone");
    let (other_objects, _) = printed(0, 1009);
    let (_, other_texts) = printed(1, 0);
    assert_ne!(objects, other_objects, "the heap shift moves objects");
    assert_ne!(texts, other_texts, "the seed changes the hashes of texts");
}
