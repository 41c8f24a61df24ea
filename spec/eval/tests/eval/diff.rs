//! What a change does, and where it comes from.

use serde_json::{Value, json};
use tw_spec::{Side, SpecDiff, compare};

use crate::support::{Repo, evaluate_all, evaluator};

const BASE: &str = r#"from tw import Job, MiB, Resources

from . import sizes

DEFAULT_REPLICAS = 2


def service(name, replicas=DEFAULT_REPLICAS, env=None, **more):
    return Job(
        name=name,
        command="sleep 60",
        replicas=replicas,
        env=env or {},
        resources=Resources(
            cpu=0.5,
            memory=sizes.memory_of(name),
        ),
        **more,
    )
"#;

const SIZES: &str = r#"from tw import MiB

SMALL = 64 * MiB


def memory_of(name):
    return SMALL
"#;

const WEB: &str = r#"from shared.base import service
from tw import export

export(
    service(
        "web",
        env={
            "A": "1",
            "B": "2",
        },
        owner="web-team",
    )
)
"#;

const API: &str = r#"from shared.base import service
from tw import export

export(service("api", replicas=3))
"#;

/// A repository with two specs that share a module, committed.
fn team() -> Repo {
    let repo = Repo::with(&[
        ("shared/base.py", BASE),
        ("shared/sizes.py", SIZES),
        ("web/config.tw", WEB),
        ("api/config.tw", API),
    ]);
    repo.commit("base");
    repo
}

/// Compares two revisions; an empty one is the work tree.
fn diff(repo: &Repo, base: &str, head: &str) -> SpecDiff {
    let source = |revision: &str| match revision {
        "" => repo.work_tree(),
        revision => repo.revision(revision),
    };
    let (base, head) = (source(base), source(head));
    let evaluator = evaluator();
    let old = evaluate_all(evaluator, &base);
    let new = evaluate_all(evaluator, &head);
    let base = Side {
        source: &base,
        outcome: &old,
    };
    let head = Side {
        source: &head,
        outcome: &new,
    };
    compare(evaluator, base, head).expect("a comparison")
}

/// Job, path, effect, and `file:line` of the cause of each change.
fn causes(diff: &SpecDiff) -> Vec<String> {
    let shown = |job: &tw_spec::DiffJob| {
        job.changes
            .iter()
            .map(|change| {
                let cause = change
                    .cause
                    .as_ref()
                    .map_or("nothing".to_owned(), |cause| match cause.line {
                        Some(line) => format!("{}:{line}", cause.file),
                        None => cause.file.clone(),
                    });
                format!("{} {} {} by {cause}", job.name, change.path, change.effect)
            })
            .collect::<Vec<_>>()
    };
    diff.jobs.iter().flat_map(shown).collect()
}

#[test]
fn nothing_changes_between_equal_trees() {
    let repo = team();
    let found = diff(&repo, "HEAD", "");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!((found.summary.unchanged, found.modules.len()), (2, 0));
}

#[test]
fn an_argument_of_a_helper_leads_to_the_line_in_the_spec() {
    let repo = team();
    repo.write(
        "web/config.tw",
        &WEB.replace("\"B\": \"2\"", "\"B\": \"3\""),
    );
    let commit = repo.commit("env");
    let found = diff(&repo, "HEAD~1", "HEAD");
    assert_eq!(causes(&found), ["web env.B restart by web/config.tw:9"]);
    assert_eq!(
        found.jobs[0].changes[0]
            .cause
            .as_ref()
            .and_then(|cause| cause.commit.clone()),
        Some(commit)
    );
    assert!(found.modules.is_empty());
}

#[test]
fn a_keyword_that_is_passed_on_leads_to_the_line_in_the_spec() {
    let repo = team();
    repo.write(
        "web/config.tw",
        &WEB.replace("owner=\"web-team\"", "owner=\"edge\""),
    );
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        ["web owner none by web/config.tw:11"]
    );
}

#[test]
fn a_value_in_a_helper_leads_to_the_line_in_the_module() {
    let repo = team();
    repo.write("shared/base.py", &BASE.replace("cpu=0.5", "cpu=0.75"));
    let commit = repo.commit("more cpu");
    repo.write("readme", "unrelated");
    repo.commit("unrelated");
    let found = diff(&repo, "HEAD~2", "HEAD");
    assert_eq!(
        causes(&found),
        [
            "api resources.cpu_millicores in_place by shared/base.py:15",
            "web resources.cpu_millicores in_place by shared/base.py:15",
        ]
    );
    let shown = serde_json::to_value(&found).expect("json");
    assert_eq!(
        shown["jobs"][0]["changes"][0]["cause"]["commit"],
        Value::from(commit)
    );
    assert_eq!(
        shown["modules"],
        json!([{ "file": "shared/base.py", "importers": 2, "changed_jobs": 2 }])
    );
    assert_eq!(shown["summary"]["effects"], json!({ "in_place": 2 }));
}

#[test]
fn a_constant_of_another_module_leads_to_its_definition() {
    let repo = team();
    repo.write("shared/sizes.py", &SIZES.replace("64 * MiB", "96 * MiB"));
    repo.write("web/config.tw", &format!("# A comment only.\n{WEB}"));
    let found = diff(&repo, "HEAD", "");
    assert_eq!(
        causes(&found),
        [
            "api resources.memory_bytes in_place by shared/sizes.py:3",
            "web resources.memory_bytes in_place by shared/sizes.py:3",
        ]
    );
    assert_eq!(
        found.jobs[0].changes[0]
            .cause
            .as_ref()
            .map(|cause| cause.commit.is_none()),
        Some(true),
        "not committed"
    );
}

#[test]
fn the_default_of_a_helper_leads_to_the_constant_behind_it() {
    let repo = team();
    repo.write(
        "shared/base.py",
        &BASE.replace("DEFAULT_REPLICAS = 2", "DEFAULT_REPLICAS = 4"),
    );
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        ["web replicas scale by shared/base.py:5"]
    );
}

#[test]
fn the_nearest_of_several_changed_files_is_the_cause() {
    let repo = team();
    repo.write("shared/base.py", &BASE.replace("cpu=0.5", "cpu=0.75"));
    repo.write("api/config.tw", &API.replace("replicas=3", "replicas=0"));
    let found = diff(&repo, "HEAD", "");
    assert_eq!(
        causes(&found),
        [
            "api replicas scale by api/config.tw:4",
            "api resources.cpu_millicores in_place by shared/base.py:15",
            "web resources.cpu_millicores in_place by shared/base.py:15",
        ]
    );
    assert!(found.summary.destructive, "no replicas are left");
    assert_eq!(found.modules[0].changed_jobs, 2);
}

#[test]
fn data_that_a_spec_reads_is_a_cause() {
    let repo = Repo::with(&[
        (
            "config.tw",
            "from tw import Job, export, repo\nexport(Job(name=\"web\", command=\"x\", replicas=int(repo.read(\"replicas.txt\"))))\n",
        ),
        ("replicas.txt", "2"),
    ]);
    repo.commit("base");
    repo.write("replicas.txt", "3");
    let found = diff(&repo, "HEAD", "");
    assert_eq!(causes(&found), ["web replicas scale by replicas.txt"]);
}

#[test]
fn a_file_of_a_package_is_a_cause() {
    let repo = Repo::with(&[
        (
            "config.tw",
            "from tw import Job, Package, export\nexport(Job(name=\"web\", command=\"x\", packages=[Package.folder(\"app\")]))\n",
        ),
        ("app/a.py", "1"),
        ("app/lib/b.py", "1"),
    ]);
    repo.commit("base");
    repo.write("app/lib/b.py", "2");
    repo.commit("change");
    assert_eq!(
        causes(&diff(&repo, "HEAD~1", "HEAD")),
        ["web packages[app].digest restart by app/lib/b.py"]
    );
}

#[test]
fn jobs_are_added_and_removed() {
    let repo = team();
    repo.remove("api/config.tw");
    repo.write("new/config.tw", &API.replace("api", "new"));
    let found = diff(&repo, "HEAD", "");
    let changes: Vec<(String, Value)> = found
        .jobs
        .iter()
        .map(|job| (job.name.clone(), json!(job.change)))
        .collect();
    assert_eq!(
        changes,
        [
            ("api".to_owned(), json!("removed")),
            ("new".to_owned(), json!("added"))
        ]
    );
    assert!(found.summary.destructive);
}

#[test]
fn jobs_of_a_broken_spec_are_not_removed() {
    let repo = team();
    repo.write("api/config.tw", "export(\n");
    let found = diff(&repo, "HEAD", "");
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(found.errors.len(), 1);
}

#[test]
fn a_module_beside_the_spec_leads_to_its_definition() {
    let repo = Repo::with(&[
        (
            "team/lib/base.py",
            "from . import sizes\n\nREPLICAS = sizes.REPLICAS\n",
        ),
        ("team/lib/sizes.py", "# Sizes.\nREPLICAS = 2\n"),
        (
            "team/config.tw",
            "from lib import base\nfrom tw import Job, export\nexport(Job(name=\"a\", command=\"x\", replicas=base.REPLICAS))\n",
        ),
    ]);
    repo.commit("base");
    repo.write("team/lib/sizes.py", "# Sizes.\nREPLICAS = 3\n");
    let found = diff(&repo, "HEAD", "");
    assert_eq!(causes(&found), ["a replicas scale by team/lib/sizes.py:2"]);
}

#[test]
fn a_mixin_of_another_module_leads_to_its_line() {
    let mixin = |level: &str, cpu: &str| {
        format!(
            "from tw import Mixin, Resources\n\nOBSERVED = Mixin(\n    env={{\n        \"LOG\": \"{level}\",\n    }},\n    resources=Resources(\n        cpu={cpu},\n    ),\n)\n"
        )
    };
    let repo = Repo::with(&[
        ("shared/mixins.py", &mixin("info", "1")),
        (
            "web/config.tw",
            "from shared.mixins import OBSERVED\nfrom tw import Job, MiB, Resources, export\n\nexport(Job(name=\"web\", command=\"sleep 60\", resources=Resources(memory=128 * MiB), env={\"A\": \"1\"}).mix(OBSERVED))\n",
        ),
    ]);
    repo.commit("base");
    repo.write("shared/mixins.py", &mixin("debug", "2"));
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        [
            "web env.LOG restart by shared/mixins.py:5",
            "web resources.cpu_millicores in_place by shared/mixins.py:8",
        ]
    );
}

/// A job derived with `replace` from one that a helper makes, with values from constants of several kinds.
fn derived(constant: &str) -> Repo {
    Repo::with(&[
        (
            "shared/base.py",
            "from tw import Job\n\n\ndef service(name, **more):\n    return Job(name=name, command=\"sleep 60\", env={\"A\": \"1\"}, **more)\n",
        ),
        ("shared/versions.py", constant),
        (
            "config.tw",
            "from shared import versions\nfrom shared.base import service\nfrom tw import export\n\nLOCAL = \"1\"\n\nexport(\n    service(\n        \"web\",\n    ).replace(\n        env={\n            \"PATHS\": \"/packages\",\n            \"VERSION\": versions.VERSION,\n            \"LOCAL\": LOCAL,\n            \"BOTH\": f\"{LOCAL}-{versions.VERSION}\",\n        },\n    )\n)\n",
        ),
    ])
}

#[test]
fn a_constant_in_a_dict_leads_to_its_definition() {
    let repo = derived("# Versions.\nVERSION = \"1\"\nOTHER = \"1\"\n");
    repo.commit("base");
    repo.write(
        "shared/versions.py",
        "# Versions.\nVERSION = \"2\"\nOTHER = \"2\"\n",
    );
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        [
            "web env.BOTH restart by shared/versions.py:2",
            "web env.VERSION restart by shared/versions.py:2"
        ]
    );
}

#[test]
fn each_value_of_a_dict_has_its_own_cause() {
    let repo = derived("VERSION = \"1\"\n");
    repo.commit("base");
    let text = std::fs::read_to_string(repo.path().join("config.tw")).expect("a spec");
    repo.write(
        "config.tw",
        &text
            .replace("LOCAL = \"1\"", "LOCAL = \"2\"")
            .replace("/packages", "/opt"),
    );
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        [
            "web env.BOTH restart by config.tw:5",
            "web env.LOCAL restart by config.tw:5",
            "web env.PATHS restart by config.tw:12"
        ]
    );
}

#[test]
fn entries_of_one_dict_are_not_mixed_up() {
    let repo = derived("VERSION = \"1\"\n");
    repo.commit("base");
    repo.write("shared/versions.py", "VERSION = \"2\"\n");
    let text = std::fs::read_to_string(repo.path().join("config.tw")).expect("a spec");
    repo.write("config.tw", &text.replace("LOCAL = \"1\"", "LOCAL = \"2\""));
    assert_eq!(
        causes(&diff(&repo, "HEAD", "")),
        [
            "web env.BOTH restart by config.tw:5",
            "web env.LOCAL restart by config.tw:5",
            "web env.VERSION restart by shared/versions.py:1",
        ]
    );
}
