//! Values written into specs, in their author's words: what is edited, what is asked, what is refused.

use std::fmt::Write as _;

use tw_model::{Bytes, Cores};
use tw_spec::{Place, RewriteError, Rewriter, Source, Wanted, Wish, evaluate};

use crate::scenario::{Scenario, scenarios};
use crate::support::{Repo, evaluate_all, evaluator};

/// Reads `web memory 512 MiB, web cpu 0.25`.
fn wishes(text: &str) -> Vec<Wish> {
    let wish = |text: &str| {
        let words: Vec<&str> = text.split_whitespace().collect();
        let number: f64 = words[2].parse().expect("a number");
        let wanted = match words[1] {
            "memory" => Wanted::Memory(Bytes::mib(number as u64)),
            _ => Wanted::Cpu(Cores((number * 1000.0) as u64)),
        };
        Wish {
            job: words[0].parse().expect("a job"),
            wanted,
        }
    };
    text.split(", ").map(wish).collect()
}

fn repo_of(scenario: &Scenario<'_>) -> Repo {
    let is_windows = scenario.name.contains("Windows");
    let repo = Repo::new();
    for (path, text) in &scenario.files {
        match is_windows {
            true => repo.write(path, &text.replace('\n', "\r\n")),
            false => repo.write(path, text),
        }
    }
    repo
}

/// What becomes of the wishes: the patch, or what is asked, or why not.
fn rewritten(scenario: &Scenario<'_>) -> String {
    let repo = repo_of(scenario);
    let source = repo.work_tree();
    let evaluator = evaluator();
    let outcome = evaluate_all(evaluator, &source);
    assert!(
        outcome.errors.is_empty(),
        "{}: {:?}",
        scenario.name,
        outcome.errors
    );
    let mut rewriter = Rewriter::new(evaluator, &source, &outcome);
    let wishes = wishes(scenario.flag);
    for wish in &wishes {
        if rewriter.is_met(wish) {
            continue;
        }
        let places = match rewriter.places(wish, &wishes) {
            Ok(Ok(places)) => places,
            Ok(Err(refusal)) => {
                return format!(
                    "refused: {}\nby hand:\n{}",
                    refusal.reason,
                    refusal.by_hand.unwrap_or_default()
                );
            }
            Err(error) => return format!("error: {error}\n"),
        };
        match Place::only_choice(&places) {
            Some(place) => rewriter.accept(place).expect("evaluates"),
            None => return asked(wish, &places),
        }
    }
    let rewritten = rewriter.finish().expect("does what was accepted");
    rewritten.write(&source).expect("writes");
    let after = evaluate_all(evaluator, &repo.work_tree());
    for wish in &wishes {
        let job = after.jobs.iter().find(|job| job.spec.id() == wish.job);
        let value = wish.wanted.of(&job.expect("still there").spec);
        assert_eq!(value, wish.wanted, "{}", scenario.name);
    }
    rewritten.patch()
}

fn asked(wish: &Wish, places: &[Place]) -> String {
    let mut text = String::new();
    for place in places {
        let changed: Vec<String> = place
            .changes
            .iter()
            .map(|change| format!("{} {} → {}", change.job.name, change.path, change.new))
            .collect();
        let _ = writeln!(
            text,
            "{}{}\n  - {}\n  + {}\n  changes {}",
            place.at,
            match place.is_exact {
                true => ", nothing else",
                false => "",
            },
            place.before.join("\n  - "),
            place.after.join("\n  + "),
            changed.join(", "),
        );
        if let Some(caution) = &place.caution {
            let _ = writeln!(text, "  but {caution}");
        }
    }
    format!(
        "asked where to write the {} of {}:\n{text}",
        wish.wanted.keyword(),
        wish.job.name
    )
}

fn all(text: &str) -> String {
    let scenarios = scenarios(text, "config.tw");
    let shown = scenarios.iter().map(|scenario| {
        let result = rewritten(scenario);
        format!(
            "=== {} [{}]\n{}\n",
            scenario.name,
            scenario.flag,
            result.replace('\r', "␍")
        )
    });
    shown.collect()
}

#[test]
fn each_form_is_edited_where_its_author_wrote_it() {
    insta::assert_snapshot!(all(include_str!("rewrites/forms.txt")));
}

#[test]
fn what_is_not_certain_is_asked_or_refused() {
    insta::assert_snapshot!(all(include_str!("rewrites/questions.txt")));
}

const SPEC: &str = r#"from tw import Job, MiB, Resources, export

export(Job(name="web", command="sleep 60", resources=Resources(memory=256 * MiB)))
"#;

fn wish() -> Wish {
    wishes("web memory 512 MiB").remove(0)
}

/// Edits the one spec of `source` as wished.
fn edit(source: &Source) -> Result<tw_spec::Rewritten, RewriteError> {
    let evaluator = evaluator();
    let outcome = evaluate_all(evaluator, source);
    let mut rewriter = Rewriter::new(evaluator, source, &outcome);
    let places = rewriter.places(&wish(), &[])?.expect("a place");
    rewriter.accept(&places[0])?;
    rewriter.finish()
}

#[test]
fn a_file_that_changed_meanwhile_is_not_overwritten() {
    let repo = Repo::with(&[("config.tw", SPEC)]);
    let source = repo.work_tree();
    let rewritten = edit(&source).expect("edits");
    let newer = SPEC.replace("sleep 60", "sleep 70");
    repo.write("config.tw", &newer);
    let error = rewritten.write(&source).expect_err("refused");
    assert!(matches!(error, RewriteError::Moved { .. }), "{error}");
    let now = std::fs::read_to_string(repo.path().join("config.tw")).expect("there");
    assert_eq!(now, newer);
    let names = std::fs::read_dir(repo.path()).expect("there").count();
    assert_eq!(names, 2, "nothing but the spec and .git");
}

#[test]
fn a_branch_has_the_edit_and_the_work_tree_does_not() {
    let repo = Repo::with(&[("config.tw", SPEC)]);
    repo.commit("base");
    let head = repo.revision("HEAD");
    let rewritten = edit(&head).expect("edits");
    let commit = match rewritten.commit(&head, "limits", "web: less memory") {
        Ok(commit) => commit,
        Err(RewriteError::Git(cause)) => panic!("git knows no author here: {cause}"),
        Err(error) => panic!("{error}"),
    };
    let on_disk = std::fs::read_to_string(repo.path().join("config.tw")).expect("there");
    assert_eq!(on_disk, SPEC);
    let branch = repo.revision("limits");
    assert_eq!(branch.commit(), Some(commit));
    let specs = branch.find_specs(&[String::new()]).expect("specs");
    let outcome = evaluate(evaluator(), &branch, &specs).expect("evaluates");
    assert_eq!(outcome.jobs[0].spec.resources.memory, Bytes::mib(512));
    let again = rewritten
        .commit(&head, "limits", "again")
        .expect_err("refused");
    assert!(
        matches!(again, RewriteError::BranchExists { .. }),
        "{again}"
    );
}
