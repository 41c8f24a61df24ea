//! git itself shows what a changed spec changes.

use insta::assert_snapshot;

use crate::repository::Repository;

fn set_up() -> Repository {
    let mut repository = Repository::new();
    repository.tw(&["init", "--ci", "none", "."]).exits(0);
    repository.commit("begin");
    repository
}

#[test]
fn a_diff_of_specs_says_what_changes() {
    let mut repository = set_up();
    repository.replace(
        "hello/config.tw",
        "; done\"]))",
        "; done\"]).replace(replicas=3))",
    );
    repository.replace("hello/config.tw", "export(", "export(  # a comment\n");
    let shown = repository.git(&["diff"]);
    assert!(
        shown.contains("+") && shown.contains("replicas=3"),
        "{shown}"
    );
    assert!(shown.contains("replicas  1 → 3  scale"), "{shown}");

    // The same, seen from the commit that made it, from a folder within.
    repository.commit("three");
    let mut within = repository.git_command(&["diff", "HEAD~1", "HEAD"]);
    let ran = within
        .current_dir(repository.root().join("hello"))
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(shown.contains("replicas  1 → 3  scale"), "{shown}");
    assert!(
        repository
            .git(&["show", "--ext-diff"])
            .contains("replicas  1 → 3")
    );
}

#[test]
fn a_change_without_effect_and_a_broken_spec_show_their_lines() {
    let repository = set_up();
    let text = repository.read("hello/config.tw");
    repository.write("hello/config.tw", format!("# A comment.\n{text}"));
    let shown = repository.git(&["diff"]);
    assert!(shown.contains("+# A comment."), "{shown}");
    assert!(!shown.contains("evaluated"), "{shown}");
    repository.write("hello/config.tw", "export(\n");
    let shown = repository.git(&["diff"]);
    assert!(shown.contains("+export("), "{shown}");
    assert!(shown.contains("does not evaluate"), "{shown}");
    // A new spec is shown, too, once git is told of it.
    repository.write("hello/config.tw", &text);
    repository.write("other/config.tw", text.replace("hello", "other"));
    repository.git(&["add", "--intent-to-add", "other/config.tw"]);
    let shown = repository.git(&["diff"]);
    assert!(shown.contains("+ other"), "{shown}");
}

#[test]
fn init_says_what_it_set_up_and_leaves_other_drivers_alone() {
    let repository = Repository::new();
    repository.git(&["config", "diff.twill.command", "ours"]);
    let ran = repository.tw(&["init", "--ci", "none", "."]).exits(0);
    assert!(
        ran.stdout.contains("kept     .git/config"),
        "{}",
        ran.stdout
    );
    assert_snapshot!(repository.git(&["config", "diff.twill.command"]).trim(), @"ours");
}
