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
fn imported_specs_evaluate_to_the_jobs_that_were_read() {
    for (name, text) in FIXTURES {
        let imported = spec_of(name, text);
        let repo = Repo::with(&[("config.tw", &imported.spec)]);
        let outcome = repo.evaluate();
        let lines: Vec<&str> = imported.spec.lines().collect();
        for error in &outcome.errors {
            let line = lines[error.line.expect("a place") as usize - 1];
            assert!(
                error.message.contains("command") && line.contains("# to decide"),
                "{name}: {}",
                rendered(&outcome)
            );
        }
        // Jobs whose program is still to be decided are the only ones that are not there.
        let decided: Vec<_> = imported
            .jobs
            .iter()
            .filter(|job| {
                job.command
                    .0
                    .first()
                    .is_some_and(|program| !program.is_empty())
            })
            .cloned()
            .collect();
        let evaluated: Vec<_> = outcome.jobs.iter().map(|job| job.spec.clone()).collect();
        assert_eq!(evaluated, decided, "{name}");
        assert_eq!(
            outcome.errors.len(),
            imported.jobs.len() - decided.len(),
            "{name}"
        );
    }
}
