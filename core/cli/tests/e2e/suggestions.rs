//! Suggestions that go into specs: written, asked about, as a patch, on a branch.

use insta::assert_snapshot;
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::tw_in;
use crate::repository::Repository;

const BASE: &str = r#"from tw import GiB, Job, Resources


def service(name, memory=4 * GiB, **more):
    """All our services."""
    return Job(name=name, command="sleep 60", resources=Resources(cpu=1, memory=memory), **more)
"#;

const SPEC: &str = r#"from shared.base import service
from tw import export

export(
    service("web"),
    service("api"),  # the old one
    service("cron", memory=9_000_000),
)
"#;

/// A repository with a shared module, and what was found out of one job in `found.json` beside it.
fn repository() -> (TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::new(folder.path().join("specs"));
    repository.write("shared/base.py", BASE);
    repository.write("config.tw", SPEC);
    repository.commit("base");
    let found = json!([{
        "version": 1,
        "job": "default/web",
        "cpu_request_millicores": 1000,
        "memory_request_bytes": 4_u64 << 30,
        "history_min_ms": 86_400_000,
        "tasks": [{
            "task": "web.0#1", "cpu": 10, "memory": 1000, "memory_peak": 1000,
            "cpu_limit": 1000, "memory_limit": 4_u64 << 30,
            "cpu_recommended": 900, "memory_recommended": 700_u64 << 20,
            "history_ms": 604_800_000, "samples": 4032, "ooms": 0
        }]
    }]);
    std::fs::write(folder.path().join("found.json"), found.to_string()).unwrap();
    (folder, repository)
}

fn text(repository: &Repository, path: &str) -> String {
    std::fs::read_to_string(repository.root().join(path)).unwrap()
}

#[test]
fn where_several_places_would_do_it_is_asked_and_nothing_written() {
    let (_folder, repository) = repository();
    let args = ["recommend", "--from", "../found.json", "--write"];
    let ran = tw_in(repository.root(), &args).exits(1);
    assert_snapshot!(ran.stderr);
    assert_eq!(text(&repository, "config.tw"), SPEC);
    assert_eq!(text(&repository, "shared/base.py"), BASE);
}

#[test]
fn the_place_that_is_named_is_edited_and_nothing_else() {
    let (_folder, repository) = repository();
    let args = [
        "recommend",
        "--from",
        "../found.json",
        "--write",
        "--at",
        "config.tw:5",
    ];
    let ran = tw_in(repository.root(), &args).exits(0);
    assert_snapshot!(ran.stdout);
    let edited = SPEC
        .replace("import export", "import MiB, export")
        .replace("service(\"web\")", "service(\"web\", memory=704 * MiB)");
    assert_eq!(text(&repository, "config.tw"), edited);
    assert_eq!(text(&repository, "shared/base.py"), BASE);
    let again = tw_in(repository.root(), &args).exits(0);
    assert_eq!(again.stdout, "nothing is written\n");
}

#[test]
fn a_patch_applies_and_a_branch_leaves_the_work_tree_alone() {
    let (_folder, repository) = repository();
    let root = repository.root();
    let at = ["--at", "shared/base.py:4"];
    let from = ["recommend", "--from", "../found.json"];
    let patch = tw_in(root, &[&from[..], &at, &["--patch"]].concat()).exits(0);
    assert_eq!(text(&repository, "shared/base.py"), BASE);
    assert_snapshot!(patch.stdout);

    std::fs::write(root.join("../fit.patch"), &patch.stdout).unwrap();
    let git = |args: &[&str]| {
        let ran = std::process::Command::new("git")
            .args(args)
            .current_dir(root)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    git(&["apply", "--check", "../fit.patch"]);
    git(&["config", "user.name", "e2e"]);
    git(&["config", "user.email", "e2e@localhost"]);
    tw_in(root, &[&from[..], &at, &["--branch", "fit"]].concat()).exits(0);
    assert_eq!(git(&["status", "--porcelain"]), "");
    assert_eq!(
        git(&["diff", "HEAD", "fit"])
            .lines()
            .filter(|line| line.starts_with('+'))
            .count(),
        3
    );
    assert_snapshot!(git(&["log", "-1", "--format=%B", "fit"]));
}
