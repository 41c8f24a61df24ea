//! The CI recipes that `tw init` writes: their scripts are taken out and run as the CI would.

use std::process::Command;

use crate::ran::Ran;
use crate::repository::{Repository, path_with_tw};

/// A clone with a branch `more` on top of `origin/main`, as CI checks it out.
fn checked_out() -> Repository {
    let mut repository = Repository::new();
    repository.tw(&["init", "--ci", "both", "."]).exits(0);
    repository.commit("begin");
    repository.git(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
    repository.git(&["checkout", "--quiet", "-b", "more"]);
    repository.replace(
        "hello/config.tw",
        "; done\"]))",
        "; done\"]).replace(replicas=3))",
    );
    repository.commit("more");
    repository
}

/// Runs a script of a recipe with the variables that its CI sets.
fn run(repository: &Repository, script: &str, variables: &[(&str, &str)]) -> Ran {
    let mut command = Command::new("bash");
    command
        .args(["-eo", "pipefail", "-c", script])
        .current_dir(repository.root())
        .env("PATH", path_with_tw())
        .env("TW_CACHE", repository.cache());
    variables.iter().for_each(|(name, value)| {
        command.env(name, value);
    });
    Ran::of(command.output().unwrap())
}

/// The scripts in a recipe: what follows `run:` at GitHub, the items of `script:` at GitLab.
fn scripts(text: &str, key: &str) -> Vec<String> {
    let mut scripts = Vec::new();
    let mut lines = text.lines().peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix(key) else {
            continue;
        };
        if rest.trim() != "|" {
            scripts.push(rest.trim().to_owned());
            continue;
        }
        let mut script = String::new();
        while let Some(next) =
            lines.next_if(|next| next.trim().is_empty() || indent(next) > indent(line))
        {
            script.push_str(next.trim_start());
            script.push('\n');
        }
        scripts.push(script);
    }
    scripts
}

#[test]
fn github() {
    let repository = checked_out();
    let recipe = repository.read(".github/workflows/specs.yml");
    let summary = repository.root().join("summary.md");
    let variables = [
        ("GITHUB_BASE_REF", "main"),
        ("GITHUB_STEP_SUMMARY", summary.to_str().unwrap()),
    ];
    // Types and style need packages of the network, and a comment needs GitHub.
    let here = |script: &&String| !script.contains("pip install") && !script.contains("gh pr");
    let scripts = scripts(&recipe, "run:");
    assert_eq!(scripts.len(), 6, "{scripts:?}");
    for script in scripts.iter().filter(here) {
        run(&repository, script, &variables).exits(0);
    }
    let comment = repository.read("summary.md");
    assert!(comment.starts_with("### 1 modified"), "{comment}");
    assert!(comment.contains("replicas  1 → 3"), "{comment}");

    repository.write("hello/config.tw", "export(\n");
    repository.git(&["commit", "--quiet", "--all", "-m", "broken"]);
    let changes = scripts
        .iter()
        .find(|script| script.contains("tw diff"))
        .unwrap();
    let ran = run(&repository, changes, &variables);
    assert_eq!(
        ran.code, 1,
        "a spec that does not evaluate fails the job: {ran:?}"
    );
}

#[test]
fn gitlab() {
    let repository = checked_out();
    let recipe = repository.read(".gitlab-ci.yml");
    let base = repository.git(&["rev-parse", "origin/main"]);
    let variables = [
        ("CI_MERGE_REQUEST_DIFF_BASE_SHA", base.trim()),
        ("TW_COMMENT_TOKEN", ""),
    ];
    let script = recipe
        .split("script:")
        .nth(1)
        .and_then(|rest| rest.split("artifacts:").next());
    let scripts = scripts(script.unwrap(), "- ");
    assert_eq!(scripts.len(), 7, "{scripts:?}");
    // Types and style need packages of the network.
    let here = |script: &&String| !script.contains("/tmp/checkers");
    let shown: Vec<Ran> = scripts
        .iter()
        .filter(here)
        .map(|script| run(&repository, script, &variables).exits(0))
        .collect();
    assert!(shown[3].stdout.contains("replicas  1 → 3"), "{shown:?}");
    assert!(repository.read("changes.md").starts_with("### 1 modified"));
}
