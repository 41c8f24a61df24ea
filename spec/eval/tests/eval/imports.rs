//! What `tw import` writes is a spec: it evaluates, and what is left to the author is told at its line.

use tw_import::{Alone, Input, import};

use crate::support::{Repo, rendered};

const FIXTURES: [(&str, &str); 3] = [
    (
        "compose.yaml",
        include_str!("../../../import/tests/fixtures/compose.yaml"),
    ),
    (
        "kubernetes.yaml",
        include_str!("../../../import/tests/fixtures/kubernetes.yaml"),
    ),
    (
        "nomad.json",
        include_str!("../../../import/tests/fixtures/nomad.json"),
    ),
];

fn spec_of(name: &str, text: &str) -> tw_import::Imported {
    let input = Input {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    import(&[input], None, &Alone).expect("it imports")
}

#[test]
fn what_is_left_to_the_author_is_told_at_its_line() {
    for (name, text) in FIXTURES {
        let imported = spec_of(name, text);
        let undecided = imported.jobs.iter().filter(|job| !is_decided(job)).count();
        let outcome = Repo::with(&[("config.tw", &imported.spec)]).evaluate();
        let lines: Vec<&str> = imported.spec.lines().collect();
        for error in &outcome.errors {
            let line = lines[error.line.expect("a place") as usize - 1];
            let is_told = error.message.contains("command") && line.contains("# to decide");
            assert!(is_told, "{name}: {}", rendered(&outcome));
        }
        assert_eq!(outcome.errors.len(), undecided, "{name}");
    }
}

#[test]
fn imported_specs_evaluate_to_the_jobs_that_were_read() {
    for (name, text) in FIXTURES {
        let mut imported = spec_of(name, text);
        for job in imported.jobs.iter_mut().filter(|job| !is_decided(job)) {
            match job.command.0.first_mut() {
                Some(program) => *program = "decided".to_owned(),
                None => job.command.0.push("decided".to_owned()),
            }
        }
        let before = "# to decide: the program, before these arguments\n            ";
        let spec = imported
            .spec
            .replace("command=[],", "command=[\"decided\"],")
            .replace(&format!("{before}\"\""), &format!("{before}\"decided\""));
        let outcome = Repo::with(&[("config.tw", &spec)]).evaluate();
        assert_eq!(outcome.errors, [], "{name}: {}", rendered(&outcome));
        let jobs: Vec<_> = outcome.jobs.iter().map(|job| job.spec.clone()).collect();
        assert_eq!(jobs, imported.jobs, "{name}");
    }
}

fn is_decided(job: &tw_model::JobSpec) -> bool {
    job.command
        .0
        .first()
        .is_some_and(|program| !program.is_empty())
}
