//! Whatever a sealed child sends, the parent makes an outcome of it: a bounded run of what `spec/fuzz` does.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tw_model::Code;
use tw_spec::{Outcome, RenderOptions, Source, SpecError, render_errors, replay};

/// A tree with a spec, a module, and a file that nobody asks for.
static TREE: LazyLock<(TempDir, Source)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["config.tw", "base.py", "secret.py"] {
        let text = format!("# {name}\nfrom tw import Job\n\nJob(\n)\n");
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    let source = Source::work_tree(folder.path()).expect("a tree");
    (folder, source)
});

fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 1).expect("a short frame");
    [&length.to_be_bytes()[..], &[kind], content].concat()
}

/// What an evaluation asks first.
fn questions() -> Vec<u8> {
    frame(
        b'Q',
        json!({"ask": "module", "path": "base"})
            .to_string()
            .as_bytes(),
    )
}

/// Replays a conversation and checks what must hold whatever was said.
fn heard(said: &[u8]) -> Outcome {
    let outcome = replay(&TREE.1, "config.tw", said);
    let shown = render_errors(&outcome.errors, RenderOptions::default());
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!shown.contains(steers), "{shown:?}");
    assert!(!shown.contains("# secret.py"), "{shown}");
    for error in &outcome.errors {
        let files = error
            .trace
            .iter()
            .map(|call| &call.file)
            .chain([&error.file]);
        for file in files {
            assert!(
                ["config.tw", "base.py"].contains(&file.as_str()),
                "{error:?}"
            );
        }
    }
    for job in &outcome.jobs {
        for place in job.provenance.trail("resources.memory_bytes") {
            assert!(
                ["config.tw", "base.py"].contains(&place.file.as_str()),
                "{place:?}"
            );
        }
    }
    // Of two jobs with one name the first is kept; any other mistake leaves none.
    let duplicates = |error: &SpecError| error.code == Code::SpecDuplicateJob;
    assert!(outcome.jobs.is_empty() || outcome.errors.iter().all(duplicates));
    outcome
}

fn heard_last(kind: u8, content: &Value) -> Outcome {
    heard(&[questions(), frame(kind, content.to_string().as_bytes())].concat())
}

/// A job as `tw-eval` sends it.
fn job() -> Value {
    json!({
        "__type__": "Job",
        "fields": {
            "name": "web", "command": ["./server", "{port:http}"], "ports": ["http"], "env": {"A": "1"},
            "resources": {
                "__type__": "Resources", "fields": {"cpu": 0.5, "memory": 67108864},
                "at": ["base.py", 4, 1, 5, 2], "calls": [["base.py", 4, 1, "service"], ["config.tw", 4, 1, "<module>"]],
                "spans": {"cpu": ["base.py", 4, 1, 4, 3], "memory": ["base.py", 4, 1, 4, 4]},
            },
        },
        "at": ["config.tw", 4, 1, 5, 2],
        "calls": [["config.tw", 4, 1, "<module>"]],
        "spans": {"name": ["config.tw", 4, 1, 4, 4], "env.A": ["config.tw", 4, 2, 4, 3]},
        "refs": {"name": [["base.py", 2, 1, 2, 5]]},
    })
}

fn jobs(jobs: &[Value]) -> Value {
    json!({"jobs": jobs, "output": ""})
}

fn error() -> Value {
    json!({
        "error": {
            "code": "spec.exception", "message": "ValueError: no", "hint": null, "file": "base.py", "line": 4,
            "column": 1, "end_line": 5, "end_column": 2, "source_line": "Job(",
            "trace": [{"file": "config.tw", "line": 4, "column": 1, "function": "<module>", "source_line": null}],
        },
        "output": "said",
    })
}

#[test]
fn an_honest_child_is_believed() {
    let outcome = heard_last(b'J', &jobs(&[job()]));
    assert_eq!(outcome.errors, []);
    assert_eq!(outcome.jobs[0].spec.name.as_str(), "web");
    let failed = heard_last(b'E', &error());
    assert_eq!(failed.errors[0].source_line.as_deref(), Some("Job("));
}

#[test]
fn places_in_files_that_were_not_read_are_dropped() {
    let forged = job().to_string().replace("base.py", "secret.py");
    let outcome = heard_last(b'J', &jobs(&[serde_json::from_str(&forged).expect("json")]));
    assert_eq!(outcome.jobs.len(), 1, "{:?}", outcome.errors);
    let forged = error().to_string().replace("base.py", "secret.py");
    let outcome = heard_last(b'E', &serde_json::from_str(&forged).expect("json"));
    assert_eq!(
        (outcome.errors[0].file.as_str(), outcome.errors[0].line),
        ("config.tw", None)
    );
}

/// Any JSON, not very deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop_oneof![
            "__type__",
            "Job",
            "secret.py",
            "../../etc/passwd",
            "/",
            "spec.crash"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `with` in the place of the `number`-th value inside `json`, or takes that away.
fn changed(json: &Value, number: &mut usize, with: &Option<Value>) -> Option<Value> {
    if *number == 0 {
        *number = usize::MAX;
        return with.clone();
    }
    *number -= 1;
    let changed = match json {
        Value::Array(items) => {
            let items = items.iter().filter_map(|item| changed(item, number, with));
            Value::Array(items.collect())
        }
        Value::Object(entries) => {
            let entries = entries
                .iter()
                .filter_map(|(key, item)| Some((key.clone(), changed(item, number, with)?)));
            Value::Object(entries.collect())
        }
        leaf => leaf.clone(),
    };
    Some(changed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_end_as_an_outcome(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(heard(&bytes).jobs.is_empty());
    }

    #[test]
    fn any_content_of_any_frame_ends_as_an_outcome(
        kind in prop_oneof![Just(b'J'), Just(b'E'), Just(b'F'), Just(b'Q'), Just(b'U'), Just(b'B'), any::<u8>()],
        content in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert!(heard(&[questions(), frame(kind, &content)].concat()).jobs.is_empty());
    }

    #[test]
    fn any_json_ends_as_an_outcome(kind in prop_oneof![Just(b'J'), Just(b'E'), Just(b'Q')], json in value()) {
        heard_last(kind, &json);
        heard_last(kind, &jobs(std::slice::from_ref(&json)));
        heard_last(kind, &json!({"error": json}));
    }

    #[test]
    fn a_job_with_anything_changed_ends_as_an_outcome(number in 0usize..60, with in proptest::option::of(value())) {
        let mut number = number;
        if let Some(changed) = changed(&job(), &mut number, &with) {
            heard_last(b'J', &jobs(&[changed, job()]));
        }
    }

    #[test]
    fn an_error_with_anything_changed_ends_as_an_outcome(number in 0usize..24, with in proptest::option::of(value())) {
        let mut number = number;
        if let Some(changed) = changed(&error(), &mut number, &with) {
            heard_last(b'E', &changed);
        }
    }

    #[test]
    fn the_interpreters_account_may_say_anything(text in any::<String>(), signal in any::<u8>(), clock in any::<u8>()) {
        let content = [&[signal, clock][..], text.as_bytes()].concat();
        let outcome = heard(&[questions(), frame(b'F', &content)].concat());
        prop_assert_eq!(outcome.errors.len(), 1);
    }
}
