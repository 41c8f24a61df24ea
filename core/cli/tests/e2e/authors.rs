//! What authors of specs do before anything runs: begin a repository, check, test, govern, look back.

use std::path::Path;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::tw_in;
use crate::repository::Repository;

/// A repository as `tw init` makes it.
fn begun() -> (TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("specs");
    tw_in(folder.path(), &["init", "specs"]).exits(0);
    let repository = Repository::new(root);
    repository.commit("set up");
    (folder, repository)
}

fn has(repository: &Repository, path: &str) -> bool {
    repository.root().join(path).exists()
}

#[test]
fn a_new_repository_is_in_order_and_its_tests_pass() {
    let (_folder, repository) = begun();
    let root = repository.root();
    let checked = tw_in(root, &["check", "--json"]).exits(0).json();
    assert_eq!(
        (&checked["specs"], &checked["jobs"], &checked["errors"]),
        (&json!(1), &json!(1), &json!([]))
    );
    assert_eq!(checked["policies"].as_array().unwrap().len(), 2);
    let tested = tw_in(root, &["test", "--json"]).exits(0).json();
    assert_eq!(
        tested["summary"],
        json!({"passed": 2, "failed": 0, "skipped": 0})
    );
    for path in [
        ".github/workflows/specs.yml",
        ".gitlab-ci.yml",
        ".vscode/settings.json",
    ] {
        assert!(has(&repository, path), "{path}");
    }
    // The copy of the package is for editors alone, and git does not see it.
    assert!(has(&repository, ".twill/python/tw/py.typed"));
    let status = Command::new("git")
        .args(["status", "--porcelain"])
        .current_dir(root)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stdout), "");
}

#[test]
fn init_adds_what_is_missing_and_changes_nothing_else() {
    let (_folder, repository) = begun();
    let root = repository.root();
    let again = tw_in(root, &["init"]).exits(0);
    assert!(
        again.stdout.contains("has all that tw init makes"),
        "{again:?}"
    );

    repository.write("POLICY.py", "# ours\n");
    std::fs::remove_file(root.join(".gitattributes")).unwrap();
    repository.write(".gitignore", "*.log");
    repository.write(
        "pyproject.toml",
        "[project]\nname = \"ours\"\n\n[tool.ruff]\nline-length = 80\n",
    );
    let mended = tw_in(root, &["init"]).exits(0);
    assert!(
        mended.stdout.contains("kept     POLICY.py"),
        "{}",
        mended.stdout
    );
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("POLICY.py"), "# ours\n");
    assert_eq!(read(".gitignore"), "*.log\n/.twill/\n__pycache__/\n");
    assert!(has(&repository, ".gitattributes"));
    let project = read("pyproject.toml");
    assert!(
        project.starts_with("[project]\nname = \"ours\"\n"),
        "{project}"
    );
    assert!(
        project.contains("line-length = 80\n\n# mypy takes"),
        "{project}"
    );
    assert_eq!(project.matches("[tool.ruff").count(), 1);

    tw_in(root, &["init", "--force"]).exits(0);
    assert!(read("POLICY.py").contains("has_owner"));
    // A copy of another build is written anew by the next check.
    repository.write(".twill/python/BUILD", "of another build\n");
    tw_in(root, &["check"]).exits(0);
    assert!(!read(".twill/python/BUILD").contains("another"));
}

#[test]
fn init_refuses_what_it_would_spoil() {
    let (_folder, repository) = begun();
    let inside = tw_in(repository.root(), &["init", "hello"]).exits(1);
    assert!(
        inside.stderr.contains("is inside the repository"),
        "{}",
        inside.stderr
    );
    let file = tw_in(repository.root(), &["init", "POLICY.py"]).exits(1);
    assert!(file.stderr.contains("is a file"), "{}", file.stderr);
}

#[test]
fn a_failing_test_shows_what_it_compared() {
    let (_folder, repository) = begun();
    repository.replace("shared/service.py", "64 * MiB", "256 * MiB");
    let ran = tw_in(
        repository.root(),
        &["test", "-k", "modest", "--junit", "out.xml"],
    )
    .exits(1);
    let shown = ran.stdout.replace(last_line(&ran.stdout), "");
    assert_snapshot!(shown.trim_end(), @r#"
    hello/test_hello.py: 1 failed

    FAILED hello/test_hello.py::test_hello_is_modest
    error[test.failed]: the assertion does not hold
      --> hello/test_hello.py:10:12
       |
    10 |     assert jobs["hello"].resources.memory <= 128 * MiB
       |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       = jobs["hello"].resources.memory: 268435456 (256 MiB)
       = 128 * MiB: 134217728 (128 MiB)
    "#);
    let junit = std::fs::read_to_string(repository.root().join("out.xml")).unwrap();
    assert!(
        junit.contains(
            r#"<testsuites name="tw test" tests="1" skipped="0" failures="1" errors="0""#
        ),
        "{junit}"
    );
    assert!(
        junit.contains(r#"classname="hello/test_hello.py""#),
        "{junit}"
    );
    let none = tw_in(repository.root(), &["test", "-k", "nothing"]).exits(1);
    assert!(
        none.stderr
            .contains("no test of 1 file is called like 'nothing'"),
        "{}",
        none.stderr
    );
    let empty = tempfile::tempdir().unwrap();
    let without = tw_in(empty.path(), &["test"]).exits(0);
    assert!(
        without.stdout.starts_with("There are no tests here."),
        "{without:?}"
    );
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn policy_stands_against_a_job_in_check_diff_and_junit() {
    let (_folder, repository) = begun();
    repository.replace("shared/service.py", "owner=\"platform\"", "owner=\"\"");
    let root = repository.root();
    let checked = tw_in(root, &["check", "--junit", "check.xml"]).exits(1);
    assert_snapshot!(checked.stderr.trim_end(), @r#"
    error[policy.refused]: every job names its owner
      --> shared/service.py:13:15
       |
    13 |         owner="",
       |               ^
       = job: hello, owner
       = policy: has_owner of platform (POLICY.py:11)
    "#);
    assert!(
        checked.stdout.contains("1 refusal by policy"),
        "{}",
        checked.stdout
    );
    let junit = std::fs::read_to_string(root.join("check.xml")).unwrap();
    assert!(
        junit.contains(r#"<testcase name="has_owner" classname="POLICY.py">"#),
        "{junit}"
    );
    let diff = tw_in(root, &["diff", "--json"]).exits(3).json();
    assert_eq!(diff["policy"]["findings"][0]["level"], "require");
    assert_eq!(diff["policy"]["findings"][0]["policy"]["owner"], "platform");
    assert_eq!(diff["policy"]["findings"][0]["field"], "owner");
    // A policy that fails is no pass.
    repository.write("hello/POLICY.py", "from tw.policy import policy\n\n\n@policy(owner=\"hello\")\ndef oops(job):\n    return job.nothing\n");
    let broken = tw_in(root, &["check", "--json"]).exits(1).json();
    let levels: Vec<&serde_json::Value> = broken["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| &found["level"])
        .collect();
    assert_eq!(levels, ["require", "broken"]);
}

#[test]
fn names_of_jobs_are_checked_against_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
    write(
        "a.tw",
        "from tw import Job, export\nexport(Job(name=\"a\", command=\"sleep 1\", depends_on=[\"b\"], env={\"B\": \"{service:b:htp}\"}))\n",
    );
    write(
        "b.tw",
        "from tw import Job, export\nexport(Job(name=\"b\", command=\"sleep 1\", ports=[\"http\"], depends_on=[\"a\", \"cc\"]))\n",
    );
    let all = tw_in(folder.path(), &["check"]).exits(1);
    assert_snapshot!(all.stderr.trim_end(), @r#"
    error[job.dependency_cycle]: these jobs would wait for each other: a -> b -> a
     --> a.tw:2:52
      |
    2 | export(Job(name="a", command="sleep 1", depends_on=["b"], env={"B": "{service:b:htp}"}))
      |                                                    ^
      = help: remove one of these names from a depends_on

    error[spec.bad_value]: job 'b' has no port 'htp'
     --> a.tw:2:69
      |
    2 | export(Job(name="a", command="sleep 1", depends_on=["b"], env={"B": "{service:b:htp}"}))
      |                                                                     ^
      = help: did you mean 'http'?

    warning[job.not_found]: job 'b' needs 'cc', which no spec here exports
     --> b.tw:2:68
      |
    2 | export(Job(name="b", command="sleep 1", ports=["http"], depends_on=["a", "cc"]))
      |                                                                    ^
      = help: it has to run already, or come from elsewhere
    "#);
    // Of a part nobody can say that a name is unknown.
    let part = tw_in(folder.path(), &["check", "b.tw", "--json"]);
    let _ = part.json();
}

#[test]
fn the_history_of_a_job_follows_modules_renames_and_mistakes() {
    let (_folder, repository) = begun();
    let root = repository.root();
    repository.replace("shared/service.py", "cpu=0.1", "cpu=0.2");
    repository.commit("more cpu for all");
    repository.replace("hello/config.tw", "export(service", "export(servic");
    repository.commit("a slip");
    repository.replace("hello/config.tw", "export(servic", "export(service");
    repository.replace("hello/config.tw", "sleep 5", "sleep 6");
    repository.commit("mended");
    move_folder(root, "hello", "greeting");
    repository.commit("another folder");
    repository.write("README", "nothing that a spec reads\n");
    repository.commit("a note");
    repository.replace("shared/service.py", "cpu=0.2", "cpu=0.3");
    let told = tw_in(root, &["history", "hello"]).exits(0);
    assert_snapshot!(without_dates(&told.stdout), @r#"
    not committed
        modified: in_place greeting/config.tw
        resources.cpu_millicores     0.2 → 0.3                    in_place

    COMMIT DATE  e2e  another folder
        moved to another file greeting/config.tw, before in hello/config.tw

    COMMIT DATE  e2e  mended
        evaluates again restart hello/config.tw
        command                      ["sh", "-c", "while :; do echo hello; sleep 5; done"] → ["sh", "-c", "while :; do echo hello; sleep 6; done"] restart

    COMMIT DATE  e2e  a slip
        does not evaluate hello/config.tw
        error[spec.exception]: NameError: name 'servic' is not defined
         --> hello/config.tw:7:8
          |
        7 | export(servic("hello", ["sh", "-c", "while :; do echo hello; sleep 5; done"]))
          |        ^^^^^^
          = help: did you mean `service`?

    COMMIT DATE  e2e  more cpu for all
        modified: in_place hello/config.tw
        resources.cpu_millicores     0.1 → 0.2                    in_place

    COMMIT DATE  e2e  set up
        added hello/config.tw
    "#);
    let json = tw_in(root, &["history", "hello", "--json", "-n", "3"])
        .exits(0)
        .json();
    let changes: Vec<&serde_json::Value> = json["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["change"])
        .collect();
    assert_eq!(changes, ["modified", "moved", "repaired"]);
    assert_eq!(json["entries"][2]["changes"][0]["path"], "command");
    let misspelt = tw_in(root, &["history", "helo"]).exits(1);
    assert!(
        misspelt.stderr.contains("did you mean 'hello'?"),
        "{}",
        misspelt.stderr
    );
}

fn move_folder(root: &Path, from: &str, to: &str) {
    std::fs::rename(root.join(from), root.join(to)).unwrap();
}

/// A history without what differs from run to run.
fn without_dates(text: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split("  ").collect();
        match line.starts_with(|c: char| c.is_ascii_hexdigit()) && words.len() == 3 {
            true => format!("COMMIT DATE  {}  {}", words[1], words[2]),
            false => line.to_owned(),
        }
    };
    text.lines()
        .map(line)
        .collect::<Vec<_>>()
        .join("\n")
        .trim_end()
        .to_owned()
}
