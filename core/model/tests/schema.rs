//! The spec language through its schema: reading, refusing, comparing, storing, generating.

use serde_json::{Value, json};
use tw_model::{
    Bytes, Code, Decoder, Effect, FIELDS_WITHOUT_SUPPORT, JobSpec, Problem, diff_jobs,
    without_support,
};

fn object(class: &str, fields: Value) -> Value {
    json!({"__type__": class, "fields": fields, "spans": {}, "at": ["config.tw", 3, 1]})
}

fn job(fields: Value) -> JobSpec {
    let mut decoder = Decoder::default();
    let read = JobSpec::from_author(&object("Job", fields), &mut decoder);
    read.unwrap_or_else(|| panic!("refused: {:?}", decoder.problems))
}

fn problems(fields: Value) -> Vec<Problem> {
    let mut decoder = Decoder::default();
    let read = JobSpec::from_author(&object("Job", fields), &mut decoder);
    assert!(
        read.is_none() || !decoder.problems.is_empty(),
        "accepted: {read:?}"
    );
    decoder.problems
}

fn hello() -> Value {
    json!({"name": "hello", "command": "echo hello"})
}

fn with(extra: Value) -> Value {
    let mut fields = hello();
    fields
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    fields
}

#[test]
fn two_fields_are_a_whole_spec() {
    let hello = job(hello());
    assert_eq!(hello.command.0, ["echo", "hello"]);
    assert_eq!(hello.replicas, 1);
    assert_eq!(hello.resources.memory, Bytes::mib(64));
    assert_eq!(hello.namespace.as_str(), "default");
}

#[test]
fn a_stored_spec_is_complete_and_reads_back_equal() {
    let health = object("HttpCheck", json!({"port": "http"}));
    let spec = job(with(
        json!({"ports": ["http"], "health": [health], "env": {"A": "1"}}),
    ));
    let stored = serde_json::to_value(&spec).unwrap();
    assert_eq!(stored["resources"]["cpu_millicores"], 100);
    assert_eq!(stored["health"][0]["type"], "http");
    assert_eq!(serde_json::from_value::<JobSpec>(stored).unwrap(), spec);
}

#[test]
fn an_unknown_field_in_a_stored_spec_is_refused() {
    let mut stored = serde_json::to_value(job(hello())).unwrap();
    stored["resources"]["gpu"] = json!(1);
    let refusal = serde_json::from_value::<JobSpec>(stored)
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("'gpu'"), "{refusal}");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = problems(with(
        json!({"replica": 2, "replicas": "three", "ports": ["HTTP"]}),
    ));
    let codes: Vec<Code> = found.iter().map(|problem| problem.code).collect();
    assert_eq!(
        codes,
        [
            Code::SpecUnknownField,
            Code::SpecWrongType,
            Code::SpecBadValue
        ]
    );
    assert_eq!(found[0].hint.as_deref(), Some("did you mean 'replicas'?"));
    assert_eq!(
        found[1].message,
        "expected a whole number, found the text \"three\""
    );
    assert_eq!(found[2].hint.as_deref(), Some("for example \"http\""));
    assert_eq!(found[1].at.as_ref().unwrap().line, 3);
}

#[test]
fn a_command_that_needs_a_shell_is_refused_with_the_way_out() {
    let found = problems(json!({"name": "a", "command": "echo $HOME"}));
    assert_eq!(
        found[0].hint.as_deref(),
        Some("quote it, or write command=[\"sh\", \"-c\", \"echo $HOME\"]")
    );
    let quoted = job(json!({"name": "a", "command": "echo 'a  b' \"c\\\"d\" e\\ f"}));
    assert_eq!(quoted.command.0, ["echo", "a  b", "c\"d", "e f"]);
}

#[test]
fn a_template_must_name_a_port_of_the_job() {
    let found = problems(json!({"name": "a", "command": "serve {port:htp}", "ports": ["http"]}));
    assert_eq!(found[0].hint.as_deref(), Some("did you mean 'http'?"));
}

#[test]
fn two_packages_of_one_name_are_refused() {
    let package = |path: &str| object("Package", json!({ "path": path }));
    let found = problems(with(
        json!({"packages": [package("a/app"), package("//b/app")]}),
    ));
    assert_eq!(
        found[0].message,
        "two packages would both be at /packages/app"
    );
}

#[test]
fn sizes_below_what_can_start_are_refused() {
    let found = problems(with(
        json!({"resources": object("Resources", json!({"memory": 256}))}),
    ));
    assert_eq!(found[0].path, "resources.memory_bytes");
    assert!(
        found[0].message.starts_with("256 B is too little"),
        "{}",
        found[0].message
    );
}

#[test]
fn changes_carry_path_values_and_effect() {
    let old = job(with(json!({"env": {"A": "1", "B": "2"}})));
    let resources = object("Resources", json!({"memory": 1 << 27}));
    let new = job(with(
        json!({"env": {"A": "2"}, "replicas": 3, "resources": resources}),
    ));
    let change = diff_jobs(Some(&old), Some(&new)).unwrap();
    let seen: Vec<(&str, Effect)> = change
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.effect))
        .collect();
    let expected = [
        ("env.A", Effect::Restart),
        ("env.B", Effect::Restart),
        ("replicas", Effect::Scale),
        ("resources.memory_bytes", Effect::InPlace),
    ];
    assert_eq!(seen, expected);
    assert_eq!(change.effect(), Effect::Restart);
    assert_eq!(diff_jobs(Some(&old), Some(&old)), None);
}

#[test]
fn list_elements_are_compared_by_key_not_position() {
    let check = |port: &str, every: u64| object("HttpCheck", json!({"port": port, "every": every}));
    let fields = |checks: Value| with(json!({"ports": ["a", "b"], "health": checks}));
    let old = job(fields(json!([check("a", 5), check("b", 5)])));
    let new = job(fields(json!([check("b", 5), check("a", 9)])));
    let change = diff_jobs(Some(&old), Some(&new)).unwrap();
    let paths: Vec<&str> = change.changes.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, ["health[http:a/].every_ms"]);
}

#[test]
fn less_disk_restarts_and_more_does_not() {
    let sized = |bytes: u64| {
        job(with(
            json!({"resources": object("Resources", json!({"disk": bytes}))}),
        ))
    };
    let effect = |old, new| {
        diff_jobs(Some(&sized(old)), Some(&sized(new)))
            .unwrap()
            .effect()
    };
    assert_eq!(effect(1 << 30, 1 << 31), Effect::InPlace);
    assert_eq!(effect(1 << 31, 1 << 30), Effect::Restart);
}

#[test]
fn generated_files_are_current() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap_or_default();
    let written = [
        ("stdlib_py/tw/_schema.py", tw_model::python_module()),
        ("docs/spec-reference.md", tw_model::spec_reference()),
    ];
    for (path, current) in written {
        assert!(
            read(path) == current,
            "{path} is not current: run `make docs`"
        );
    }
}

#[test]
fn every_field_has_an_example_of_itself() {
    for table in JobSpec::tables() {
        for field in table.fields.iter().filter(|field| !field.resolved) {
            let keyword = format!("{}=", field.name);
            assert!(
                field.example.starts_with(&keyword),
                "{}.{}: {:?}",
                table.name,
                field.name,
                field.example
            );
        }
    }
}

#[test]
fn fields_without_support_are_fields_and_are_noticed_where_they_are_set() {
    let complete = serde_json::to_value(job(hello())).unwrap();
    for path in FIELDS_WITHOUT_SUPPORT {
        let found = path
            .split('.')
            .try_fold(&complete, |value, name| value.get(name));
        assert!(found.is_some(), "{path} is no field");
    }
    assert!(without_support(&job(hello())).is_empty());
    let set = job(with(json!({"allowance": "team"})));
    assert!(without_support(&set).is_empty());
}

#[test]
fn a_stage_is_a_number_a_share_or_a_part_of_the_fleet() {
    let rollout = |stages: Value| json!({"rollout": object("Rollout", json!({"stages": stages}))});
    let stages = json!([1, "machine", "25%", "cluster", "datacenter", "100%"]);
    let read = job(with(rollout(stages.clone())));
    assert_eq!(serde_json::to_value(&read.rollout.stages).unwrap(), stages);
    for wrong in [
        json!(0),
        json!("0%"),
        json!("101%"),
        json!("continent"),
        json!("1"),
    ] {
        let found = problems(with(rollout(json!([wrong]))));
        assert_eq!(found[0].code, Code::SpecWrongType, "{wrong}: {found:?}");
        assert!(
            found[0]
                .message
                .contains("or a part of the fleet such as \"cluster\""),
            "{found:?}"
        );
    }
}

#[test]
fn tasks_that_must_not_have_doubles_have_none_during_an_update() {
    let surge = object("Rollout", json!({"max_surge": 1}));
    let volume = object("Volume", json!({"name": "data", "path": "/data"}));
    let cases = [
        (json!({"at_most_one": true}), "have no doubles"),
        (json!({"volumes": [volume]}), "would not find the volumes"),
        (json!({"kind": "batch"}), "only services"),
        (json!({"kind": "daemon"}), "only services"),
    ];
    for (mut fields, words) in cases {
        fields["rollout"] = surge.clone();
        let found = problems(with(fields.clone()));
        assert_eq!(found[0].code, Code::SpecBadValue, "{found:?}");
        assert!(found[0].message.contains(words), "{fields}: {found:?}");
    }
    assert_eq!(job(with(json!({"rollout": surge}))).rollout.max_surge, 1);
}

#[test]
fn a_change_within_an_optional_struct_names_the_field() {
    let scaled = |max: u32| {
        job(with(
            json!({"autoscale": object("Autoscale", json!({"max": max}))}),
        ))
    };
    let changed = |old: &JobSpec, new: &JobSpec| -> Vec<(String, Effect)> {
        let change = diff_jobs(Some(old), Some(new)).unwrap();
        change
            .changes
            .into_iter()
            .map(|c| (c.path, c.effect))
            .collect()
    };
    let inside = changed(&scaled(3), &scaled(5));
    assert_eq!(inside, [("autoscale.max".to_owned(), Effect::None)]);
    let whole = changed(&job(hello()), &scaled(5));
    assert_eq!(whole, [("autoscale".to_owned(), Effect::None)]);
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let cases = [
        (json!({"env": {"A": "{image:command}"}}), "env.A"),
        (json!({"parallelism": 2}), "parallelism"),
        (json!({"kind": "daemon", "replicas": 2}), "replicas"),
        (
            json!({"kind": "batch", "autoscale": object("Autoscale", json!({"max": 2}))}),
            "autoscale",
        ),
        (
            json!({"failover": object("Failover", json!({"within": 30}))}),
            "failover",
        ),
        (json!({"priority": 101}), "priority"),
        (
            json!({"resources": object("Resources", json!({"cpu": 1.5, "whole_cores": true}))}),
            "resources.cpu_millicores",
        ),
        (json!({"workdir": "srv"}), "workdir"),
        (
            json!({"requires": object("Requires", json!({"kernel": "6.x"}))}),
            "requires.kernel",
        ),
        (
            json!({"requires": object("Requires", json!({"os_version": ">=12, <11"}))}),
            "requires.os_version",
        ),
        (
            json!({
                "replicas": 2,
                "requires": object("Requires", json!({"region": "north"})),
                "spread": [object("Spread", json!({"over": "region"}))],
            }),
            "spread[region]",
        ),
        (
            json!({"kind": "batch", "schedule": object("Schedule", json!({"cron": "daily"}))}),
            "schedule.cron",
        ),
        (
            json!({"sidecars": [object("Sidecar", json!({"name": "a", "command": "a", "volumes": ["data"]}))]}),
            "sidecars[a].volumes",
        ),
        (
            json!({"hooks": object("Hooks", json!({"pre_stop": object("Hook", json!({"command": "x {port:http}"}))}))}),
            "hooks.pre_stop.command",
        ),
        (
            json!({"volumes": [
                object("Volume", json!({"name": "a", "path": "/data"})),
                object("Volume", json!({"name": "b", "path": "/data/b"})),
            ]}),
            "volumes[b].path",
        ),
        (
            json!({"volumes": [object("Volume", json!({"name": "a", "path": "/proc/x"}))]}),
            "volumes[0].path",
        ),
    ];
    for (fields, path) in cases {
        let found = problems(with(fields.clone()));
        assert_eq!(found.len(), 1, "{fields}: {found:?}");
        assert_eq!(found[0].path, path, "{fields}");
    }
}
