//! What must stay true of the layout: who depends on whom, and that documents name what exists.

use std::collections::BTreeMap;
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The arrows of `docs/architecture.md`.
const ARROWS: &[(&str, &[&str])] = &[
    ("tw-model", &[]),
    ("tw-allocator", &[]),
    ("tw-archive", &[]),
    ("tw-api", &["tw-model"]),
    ("tw-scheduler", &["tw-model"]),
    ("tw-store", &["tw-model"]),
    ("tw-spec", &["tw-model"]),
    ("tw-review", &["tw-model", "tw-scheduler", "tw-spec"]),
    ("tw-eval", &[]),
    ("tw-import", &["tw-model"]),
    (
        "tw-controller",
        &[
            "tw-api",
            "tw-model",
            "tw-review",
            "tw-scheduler",
            "tw-spec",
            "tw-store",
        ],
    ),
    (
        "tw-agent",
        &[
            "tw-api",
            "tw-archive",
            "tw-model",
            "tw-scheduler",
            "tw-store",
        ],
    ),
    (
        "tw",
        &[
            "tw-allocator",
            "tw-api",
            "tw-archive",
            "tw-controller",
            "tw-import",
            "tw-model",
            "tw-review",
            "tw-scheduler",
            "tw-spec",
        ],
    ),
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(format!("{ROOT}/Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata runs");
    metadata
        .packages
        .iter()
        .map(|package| {
            let normal = package
                .dependencies
                .iter()
                .filter(|dependency| dependency.kind == DependencyKind::Normal);
            (
                package.name.to_string(),
                normal.map(|dependency| dependency.name.clone()).collect(),
            )
        })
        .collect()
}

#[test]
fn packages_depend_only_along_the_arrows() {
    let dependencies = dependencies();
    for (package, allowed) in ARROWS {
        let ours = dependencies[*package]
            .iter()
            .filter(|name| *name == "tw" || name.starts_with("tw-"));
        for dependency in ours {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} must not depend on {dependency}"
            );
        }
    }
    assert_eq!(
        dependencies.len(),
        ARROWS.len(),
        "a new package needs its arrows here and in docs/architecture.md"
    );
}

#[test]
fn only_the_evaluator_embeds_python_and_decisions_touch_nothing() {
    for (package, dependencies) in dependencies() {
        let has = |name: &str| dependencies.iter().any(|dependency| dependency == name);
        assert_eq!(has("pyo3"), package == "tw-eval", "{package}");
        if ["tw-model", "tw-scheduler"].contains(&package.as_str()) {
            for outside in ["tokio", "rusqlite", "nix", "libc", "rustix", "hyper"] {
                assert!(!has(outside), "{package} must not depend on {outside}");
            }
        }
    }
}

#[test]
fn decisions_read_no_clock_file_or_randomness() {
    let forbidden = [
        "SystemTime",
        "Instant::now",
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
    ];
    for file in rust_files(&Path::new(ROOT).join("core/scheduler/src")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for word in forbidden {
            assert!(!text.contains(word), "{} names {word}", file.display());
        }
        // A table whose hasher is seeded at random has another order in each process.
        let seeded = text.lines().find(|line| {
            (line.contains("HashMap") || line.contains("HashSet"))
                && !line.contains("BuildHasherDefault")
        });
        assert_eq!(seeded, None, "{}", file.display());
    }
}

fn rust_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(rust_files(&path)),
            false => files.extend(
                path.extension()
                    .is_some_and(|end| end == "rs")
                    .then_some(path),
            ),
        }
    }
    files
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/specs.md",
    ] {
        let text = std::fs::read_to_string(format!("{ROOT}/{document}")).unwrap();
        let folder = Path::new(ROOT).join(document).parent().unwrap().to_owned();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            let target = link.split('#').next().unwrap();
            assert!(folder.join(target).exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn every_test_that_stands_for_a_fault_is_there() {
    let faults = format!("{ROOT}/docs/design/agent-faults.md");
    let text = std::fs::read_to_string(faults).expect("it can be read");
    let code: String = ["agent/src", "agent/tests", "core/cli/tests/e2e"]
        .iter()
        .flat_map(|folder| rust_files(&Path::new(ROOT).join(folder)))
        .map(|path| std::fs::read_to_string(path).expect("it can be read"))
        .collect();
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let named: Vec<&str> = rows
        .filter_map(|row| row.rsplit('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter(|word| word.contains('_'))
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let missing = named
        .into_iter()
        .filter(|name| !code.contains(&format!("fn {name}(")));
    assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_example_is_named_in_the_readme() {
    let readme = std::fs::read_to_string(format!("{ROOT}/README.md")).unwrap();
    for entry in std::fs::read_dir(format!("{ROOT}/examples/specs")).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        assert!(
            readme.contains(&format!("`{name}`")),
            "README.md does not name the example {name}"
        );
    }
}
