//! Imports as an author sees them: whole fixtures as goldens, and one mistake each.

use std::collections::BTreeMap;

use tw_import::{
    Alone, EntryKind, Format, ImportError, Imported, Input, NoteKind, Surroundings, import,
};

const COMPOSE: &str = include_str!("fixtures/compose.yaml");
const KUBERNETES: &str = include_str!("fixtures/kubernetes.yaml");
const NOMAD: &str = include_str!("fixtures/nomad.json");

/// Files beside the imported one.
#[derive(Default)]
struct Folder {
    files: BTreeMap<&'static str, &'static str>,
    folders: Vec<&'static str>,
}

impl Surroundings for Folder {
    fn kind(&self, path: &str) -> Option<EntryKind> {
        match self.folders.contains(&path) {
            true => Some(EntryKind::Folder),
            false => self.files.contains_key(path).then_some(EntryKind::File),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        self.files.get(path).map(|text| (*text).to_owned())
    }
}

fn input(name: &str, text: &str) -> Input {
    Input {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn imported(name: &str, text: &str) -> Imported {
    import(&[input(name, text)], None, &Alone).unwrap_or_else(|cause| panic!("{name}: {cause}"))
}

fn refused(text: &str) -> ImportError {
    import(&[input("file.yaml", text)], None, &Alone).expect_err("it is refused")
}

/// The spec without its head, which changes with what Twill can do, and below it every note but those about what
/// means nothing.
fn golden(imported: &Imported) -> String {
    let notes = imported
        .notes
        .iter()
        .filter(|note| note.kind != NoteKind::Ignored);
    let notes: Vec<String> = notes.map(|note| note.to_string()).collect();
    let (head, spec) = imported.spec.split_once("\n\n").expect("a head");
    assert!(
        head.starts_with("# Imported by `tw import` from "),
        "{head}"
    );
    format!("{spec}\n=====\n{}", notes.join("\n"))
}

#[test]
fn a_compose_file() {
    insta::assert_snapshot!(golden(&imported("compose.yaml", COMPOSE)));
}

#[test]
fn kubernetes_manifests() {
    insta::assert_snapshot!(golden(&imported("kubernetes.yaml", KUBERNETES)));
}

#[test]
fn a_nomad_job() {
    insta::assert_snapshot!(golden(&imported("nomad.json", NOMAD)));
}

#[test]
fn values_of_secrets_are_nowhere() {
    for (name, text) in [
        ("compose.yaml", COMPOSE),
        ("kubernetes.yaml", KUBERNETES),
        ("nomad.json", NOMAD),
    ] {
        assert!(text.contains("hunter2"), "{name} has a secret");
        let imported = imported(name, text);
        assert!(!imported.spec.contains("hunter2"), "{name}");
        let notes = serde_json::to_string(&imported.notes).unwrap();
        assert!(!notes.contains("hunter2"), "{name}");
    }
}

#[test]
fn an_address_with_a_password_is_a_secret() {
    let file = "services:\n  web:\n    image: acme/web:1\n    command: ./web\n    environment:\n      DATABASE_URL: postgres://app:hunter2@db.example.com:5432/app\n      FRONT: http://example.com/\n";
    let imported = imported("compose.yaml", file);
    assert!(!imported.spec.contains("hunter2"), "{}", imported.spec);
    assert!(
        imported.spec.contains(r#"Secret(name="database-url")"#)
            && imported.spec.contains("http://example.com/"),
        "{}",
        imported.spec
    );
    let said = imported.notes.iter().any(|note| {
        note.kind == NoteKind::ToDecide
            && note.message.contains("there is a password in it")
            && note.message.contains("/secrets/database-url")
    });
    assert!(said, "{:?}", imported.notes);
}

#[test]
fn exactly_what_is_used_is_imported() {
    for (name, text) in [
        ("compose.yaml", COMPOSE),
        ("kubernetes.yaml", KUBERNETES),
        ("nomad.json", NOMAD),
    ] {
        let spec = imported(name, text).spec;
        let (_, rest) = spec.split_once("from tw import (").expect("the import");
        let (names, body) = rest.split_once(')').expect("its end");
        for used in names
            .split(',')
            .map(str::trim)
            .filter(|used| !used.is_empty())
        {
            let is_used = body.contains(&format!("{used}(")) || body.contains(&format!("* {used}"));
            assert!(is_used, "{name} imports {used} for nothing");
        }
    }
}

#[test]
fn defaults_are_not_written() {
    let text = "services:\n  a:\n    image: redis\n    stop_signal: SIGTERM\n    stop_grace_period: 10s\n    scale: 1\n";
    let spec = imported("compose.yaml", text).spec;
    assert!(
        !spec.contains("stop=") && !spec.contains("replicas="),
        "{spec}"
    );
}

#[test]
fn an_import_is_the_same_each_time() {
    assert_eq!(
        golden(&imported("k.yaml", KUBERNETES)),
        golden(&imported("k.yaml", KUBERNETES))
    );
}

#[test]
fn addresses_become_templates_only_where_it_is_certain() {
    let text = r#"
services:
  db: { image: postgres }
  web:
    image: app
    command: ["./web"]
    environment:
      A: db:5432
      B: postgres://db@db:5432/db?host=db
      C: http://db.example.com:5432
      D: mydb:5432
      E: /var/lib/db:5432
      F: db:5432,db:5433
      G: db
"#;
    let spec = imported("compose.yaml", text).spec;
    for line in [
        r#""A": "{service:db:p5432}","#,
        r#""B": "postgres://db@{service:db:p5432}/db?host=db","#,
        r#""C": "http://db.example.com:5432","#,
        r#""D": "mydb:5432","#,
        r#""E": "/var/lib/db:5432","#,
        r#""F": "{service:db:p5432},{service:db:p5433}","#,
        r#""G": "db","#,
    ] {
        assert!(spec.contains(line), "{line} in\n{spec}");
    }
}

#[test]
fn a_dockerfile_says_what_an_image_that_is_built_starts() {
    let text = r#"
services:
  api:
    build: { context: ./api, target: builder }
  own:
    build: ./api
    entrypoint: ["./own"]
  given:
    build: { context: api }
    command: ["given.py"]
  proxy:
    build: { context: ., dockerfile: proxy/Dockerfile }
    depends_on: [api]
    environment: { UPSTREAM: "http://api:8000" }
  inline:
    build: { dockerfile_inline: "FROM debian\nCMD ./inline --fast" }
  unknown:
    build: ../elsewhere
"#;
    let api = "FROM python:3 AS builder\nEXPOSE 8000\nENTRYPOINT [\"python3\"]\nCMD [\"app.py\"]\nFROM builder\nCMD [\"dev.py\"]\n";
    let folder = Folder {
        files: BTreeMap::from([
            ("api/Dockerfile", api),
            (
                "proxy/Dockerfile",
                "FROM nginx:1.27\nCOPY conf /etc/nginx\n",
            ),
        ]),
        folders: vec!["api", "proxy"],
    };
    let imported = import(&[input("compose.yaml", text)], None, &folder).unwrap();
    let command = |name: &str| {
        let job = imported.jobs.iter().find(|job| job.name.as_str() == name);
        job.expect("the service is a job").command.0.clone()
    };
    assert_eq!(command("api"), ["python3", "app.py"]);
    assert_eq!(command("own"), ["./own"]);
    assert_eq!(command("given"), ["python3", "given.py"]);
    assert_eq!(
        command("proxy"),
        ["/docker-entrypoint.sh", "nginx", "-g", "daemon off;"]
    );
    assert_eq!(command("inline"), ["./inline", "--fast"]);
    assert!(command("unknown").is_empty());
    assert!(
        imported.spec.contains("http://{service:api:http}"),
        "the exposed port has a name:\n{}",
        imported.spec
    );
}

#[test]
fn folders_and_files_beside_the_file_are_used() {
    let text = r#"
services:
  web:
    image: app
    command: ["./web", "--config", "/etc/web/web.toml"]
    env_file: [web.env, other.env]
    volumes: ["./config:/etc/web:ro", "./site/index.html:/srv/index.html"]
  more:
    extends: { file: base.yaml, service: base }
    command: ["./more"]
"#;
    let folder = Folder {
        files: BTreeMap::from([
            ("web.env", "LEVEL=info\n"),
            ("site/index.html", ""),
            (
                "base.yaml",
                "services:\n  base:\n    image: base:1\n    user: app\n",
            ),
        ]),
        folders: vec!["config", "site"],
    };
    let imported = import(&[input("compose.yaml", text)], None, &folder).unwrap();
    for part in [
        r#"command=["./web", "--config", "/packages/config/web.toml"]"#,
        r#"packages=[Package.folder("config"), Package.folder("site")]"#,
        r#"env={"LEVEL": "info"}"#,
        r#"user="app""#,
    ] {
        assert!(imported.spec.contains(part), "{part} in\n{}", imported.spec);
    }
    let told = |path: &str| {
        imported
            .notes
            .iter()
            .any(|note| note.path.ends_with(path) && note.kind == NoteKind::ToDecide)
    };
    assert!(
        told("env_file[1]") && told("volumes[1]"),
        "{:?}",
        imported.notes
    );
}

#[test]
fn later_compose_files_are_laid_over_earlier_ones() {
    let first = "services:\n  web:\n    image: app:1\n    command: [\"./web\"]\n    environment: [\"A=1\", \"B=1\"]\n";
    let second = "services:\n  web:\n    image: app:2\n    environment: { B: \"2\" }\n";
    let imported = import(
        &[input("a.yaml", first), input("b.yaml", second)],
        None,
        &Alone,
    )
    .unwrap();
    assert!(
        imported.spec.contains(r#"env={"A": "1", "B": "2"}"#),
        "{}",
        imported.spec
    );
    assert!(
        imported.spec.contains("app:2") && !imported.spec.contains("app:1"),
        "{}",
        imported.spec
    );
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let item = format!("*a{}", level - 1);
        text.push_str(&format!(
            "b{level}: &a{level} [{}]\n",
            [item.as_str(); 10].join(", ")
        ));
    }
    assert!(matches!(refused(&text), ImportError::TooMany { .. }));
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let text = format!("{}1{}", open.repeat(5000), close.repeat(5000));
        let cause = refused(&text);
        assert!(
            matches!(
                cause,
                ImportError::TooDeep { .. } | ImportError::Syntax { .. }
            ),
            "{cause}"
        );
    }
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let text = format!("services:\n  a:\n    image: {}\n", "x".repeat(50 << 20));
    assert!(matches!(refused(&text), ImportError::TooLarge { .. }));
}

#[test]
fn mistakes_are_told_with_their_place_and_what_would_help() {
    let cases = [
        ("", "file.yaml holds nothing"),
        ("# only a comment\n---\n", "file.yaml holds nothing"),
        (
            "services:\n  web: [\n",
            "file.yaml:3:1: while parsing a node",
        ),
        ("services:\n\tweb: {}\n", "file.yaml:2:2: tabs"),
        ("{--- ", "file.yaml:1:"),
        (
            "services:\n  a: { image: x }\n  a: { image: y }\n",
            "file.yaml:3:3: 'a' stands here twice; the first is on line 2",
        ),
        (
            "{\"Job\": {\"ID\": \"a\", \"ID\": \"b\"}}",
            "file.yaml:1:21: 'ID' stands here twice",
        ),
        ("kind: {{ .Values.kind }}\n", "file.yaml:1: a template"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: \"{{ .Release.Name }}\"\n",
            "file.yaml:4: a template",
        ),
        (
            "# a job\njob \"web\" {\n  type = \"service\"\n}\n",
            "file.yaml:2: a job in HCL",
        ),
        ("web:\n  image: nginx\n", "first version"),
        ("name: x\nother: y\n", "it has the keys 'name', 'other'"),
        ("just words\n", "'just words'"),
        ("a: *nobody\n", "file.yaml:1:4: "),
        (
            "apiVersion: v1\nkind: Service\nmetadata: { name: a }\n",
            "describes nothing that runs",
        ),
        ("kind: Pod\nspec: {}\n", "a Pod has a name"),
        ("{\"TaskGroups\": []}", "a job has an ID"),
        ("services: {}\n", "describes nothing that runs"),
        ("{\"Job\": {\"ID\" \"a\"}}", "file.yaml:1:"),
    ];
    for (text, expected) in cases {
        let cause = refused(text).to_string();
        assert!(cause.contains(expected), "{text:?} gave: {cause}");
    }
}

#[test]
fn every_refusal_but_a_plain_mistake_says_what_would_help() {
    for text in [
        "",
        "kind: {{ x }}\n",
        "job \"a\" {\n",
        "name: x\n",
        "a: 1\na: 2\n",
    ] {
        let cause = refused(text);
        assert!(cause.hint().is_some(), "{cause}");
    }
}

#[test]
fn families_are_not_mixed() {
    let files = [
        input("a.yaml", "services:\n  a: { image: x }\n"),
        input("b.json", NOMAD),
    ];
    let cause = import(&files, None, &Alone)
        .expect_err("two families")
        .to_string();
    assert_eq!(
        cause,
        "b.json is a Nomad job, but a.yaml is a docker-compose file"
    );
}

#[test]
fn the_format_can_be_said() {
    let text = "services:\n  web: { image: app, command: [\"./web\"] }\nkind: x\n";
    let imported = import(&[input("a.yaml", text)], Some(Format::Compose), &Alone).unwrap();
    assert_eq!(imported.jobs.len(), 1);
}

#[test]
fn odd_values_are_noted_and_break_nothing() {
    let text = r#"
services:
  "Web_1": { image: app, command: "./web 'open", ports: [http, 99999, {target: x}], environment: {A: [1], B: null, C: yes, "": x} }
  web-1: { image: [app], command: 3, healthcheck: 5, deploy: [], depends_on: [nobody, web-1], user: "" , labels: [a=b, "=c"] }
  third: ~
"#;
    let imported = imported("compose.yaml", text);
    let names: Vec<String> = imported
        .jobs
        .iter()
        .map(|job| job.name.to_string())
        .collect();
    assert_eq!(names, ["web-1", "web-1-2", "third"]);
    for path in [
        "ports[0]",
        "ports[1]",
        "ports[2].target",
        "environment.A",
        "services.web-1.image",
        "healthcheck",
        "deploy",
    ] {
        assert!(
            imported.notes.iter().any(|note| note.path.ends_with(path)),
            "{path}: {:#?}",
            imported.notes
        );
    }
}

#[test]
fn an_empty_mapping_inside_one_is_something_that_was_set() {
    let service = r#"{"Name": "web", "Connect": {"SidecarService": {}}}"#;
    let task = r#"{"Name": "web", "Driver": "exec", "Config": {"command": "/bin/web"}}"#;
    let job = format!(
        r#"{{"Job": {{"ID": "web", "TaskGroups": [{{"Name": "web", "Services": [{service}], "Tasks": [{task}]}}]}}}}"#
    );
    let imported = imported("job.json", &job);
    let note = imported
        .notes
        .iter()
        .find(|note| note.to_string().contains("Connect"))
        .expect("a note");
    assert_eq!(note.kind, NoteKind::NotCarried, "{note}");
}
