//! What is wrong before anything can be compared: what people are told, and with which exit code.

use crate::ran::Ran;
use crate::repository::Repository;

const WEB: &str = "from tw import Job, export\n\nexport(Job(name=\"web\", command=\"sleep 60\"))\n";
const API: &str =
    "from tw import Job, export\n\nexport(Job(name=\"api\", command=\"sleep 60\", replicas=2))\n";

/// Two jobs, committed twice: the second commit has more tasks of `api`.
fn two_jobs() -> Repository {
    let mut repository = Repository::new();
    repository.write("web/config.tw", WEB);
    repository.write("api/config.tw", API);
    repository.commit("two jobs");
    repository.replace("api/config.tw", "replicas=2", "replicas=3");
    repository.commit("more");
    repository
}

/// Exit code and what was said, errors first.
fn said(ran: &Ran) -> String {
    let text = format!("exit code {}\n{}{}", ran.code, ran.stderr, ran.stdout);
    text.trim_end().to_owned()
}

fn assert_said(name: &str, said: String) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, said);
    });
}

fn diff(repository: &Repository) -> String {
    said(&repository.tw(&["diff", "HEAD~1", "HEAD"]))
}

#[test]
fn revisions_that_are_unknown_or_ambiguous() {
    let repository = two_jobs();
    assert_said(
        "bad_unknown_revision",
        said(&repository.tw(&["diff", "no-such"])),
    );
    repository.git(&["tag", "v1", "HEAD"]);
    repository.git(&["branch", "v1", "HEAD~1"]);
    assert_said(
        "bad_ambiguous_revision",
        said(&repository.tw(&["diff", "v1"])),
    );
    assert_eq!(repository.tw(&["diff", "refs/heads/v1", "HEAD"]).code, 2);
}

#[test]
fn a_shallow_clone() {
    let repository = two_jobs();
    let clone = Repository::new();
    let from = format!("file://{}", repository.root().display());
    clone.git(&["fetch", "--quiet", "--depth", "1", &from, "main"]);
    clone.git(&["checkout", "--quiet", "FETCH_HEAD"]);
    assert_said("bad_shallow_clone", diff(&clone));
}

#[test]
fn no_commits() {
    let repository = Repository::new();
    repository.write("web/config.tw", WEB);
    assert_said("bad_no_commits", said(&repository.tw(&["diff"])));
}

#[test]
fn a_submodule_holds_no_specs_of_ours() {
    let mut repository = two_jobs();
    let other = two_jobs();
    let from = other.root().display().to_string();
    repository.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        &from,
        "vendor",
    ]);
    repository.commit("a submodule");
    assert_said("bad_submodule", diff(&repository));
}

#[test]
fn symbolic_links_in_a_circle() {
    let mut repository = two_jobs();
    for (name, target) in [("a", "b"), ("b", "a"), ("loop", ".")] {
        std::os::unix::fs::symlink(target, repository.root().join(name)).unwrap();
    }
    repository.commit("links");
    repository.replace("api/config.tw", "replicas=3", "replicas=4");
    assert_said("bad_links", said(&repository.tw(&["diff"])));
}

#[test]
fn specs_that_are_no_text_or_far_too_long() {
    let mut repository = two_jobs();
    repository.write("web/config.tw", [0_u8, 159, 146, 150, 255, 0]);
    let long = format!("{WEB}# {}\n", "x".repeat(10 << 20));
    repository.write("long/config.tw", long);
    repository.replace("api/config.tw", "replicas=3", "replicas=4");
    repository.commit("not for people");
    assert_said("bad_binary_and_long", diff(&repository));
}

#[test]
fn a_side_that_does_not_evaluate_and_one_with_merge_conflicts() {
    let repository = two_jobs();
    repository.replace("api/config.tw", "replicas=3", "replicas=4");
    repository.write(
        "web/config.tw",
        format!("<<<<<<< HEAD\n{WEB}=======\n>>>>>>> other\n"),
    );
    assert_said("bad_side", said(&repository.tw(&["diff"])));
}

#[test]
fn a_plan_file_that_is_none() {
    let repository = two_jobs();
    repository.write("plan.json", "{\"twill_plan\": 1}");
    assert_said(
        "bad_plan_file",
        said(&repository.tw(&["apply", "plan.json"])),
    );
}
