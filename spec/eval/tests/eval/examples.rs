//! The examples evaluate, each in a repository of its own.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Repo, rendered};

fn copy(from: &Path, inside: &str, repo: &Repo) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let name = format!("{inside}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            copy(&entry.path(), &format!("{name}/"), repo);
        } else {
            repo.write(&name, &fs::read_to_string(entry.path()).expect("text"));
        }
    }
}

/// The jobs of an example as `tw eval` shows them, but for the digests of its packages.
fn jobs_of(example: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/specs")
        .join(example);
    let repo = Repo::new();
    copy(&folder, "", &repo);
    let outcome = repo.evaluate();
    assert_eq!(outcome.errors, [], "{}", rendered(&outcome));
    let shown = outcome.jobs.iter().map(|job| {
        let mut spec = serde_json::to_value(&job.spec).expect("json");
        for package in spec["packages"].as_array_mut().into_iter().flatten() {
            package["digest"] = json!("…");
        }
        json!({ "source": job.source.to_string(), "spec": spec })
    });
    serde_json::to_string_pretty(&shown.collect::<Value>()).expect("json")
}

macro_rules! example {
    ($($name:ident),+) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!(concat!("example_", stringify!($name)), jobs_of(stringify!($name)));
            }
        )+
    };
}

example!(hello, web, shop, nightly);
