//! `tw import` as a person calls it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const WEB: &str =
    "services:\n  web:\n    image: app\n    command: [\"./web\"]\n    privileged: true\n";
const PLAIN: &str = "services:\n  web:\n    command: [\"./web\"]\n    build: .\n";

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("write");
    }
    folder
}

fn tw(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tw"))
        .arg("import")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tw starts");
    // A command that reads no input may be gone already.
    let _ = child
        .stdin
        .take()
        .expect("its input")
        .write_all(input.as_bytes());
    child.wait_with_output().expect("tw ends")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_spec_is_printed_and_what_is_lost_is_told_by_line() {
    let folder = folder(&[("compose.yaml", WEB)]);
    let output = tw(folder.path(), &["compose.yaml"], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(
        out(&output).contains("export(\n    Job(\n        name=\"web\","),
        "{}",
        out(&output)
    );
    assert!(
        out(&output).contains("# not carried over: privileged (line 5)"),
        "{}",
        out(&output)
    );
    let line = "compose.yaml:5: services.web.privileged: not carried over: ";
    assert!(
        err(&output).lines().any(|found| found.starts_with(line)),
        "{}",
        err(&output)
    );
    assert_eq!(
        tw(folder.path(), &["--strict", "compose.yaml"], "")
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let folder = folder(&[]);
    let output = tw(folder.path(), &["-"], WEB);
    assert_eq!(output.status.code(), Some(0));
    assert!(err(&output).contains("<stdin>:5: "), "{}", err(&output));
    assert!(
        out(&output).starts_with("# Imported by `tw import` from standard input"),
        "{}",
        out(&output)
    );
}

#[test]
fn a_spec_that_is_there_is_not_overwritten_unless_forced() {
    let folder = folder(&[("compose.yaml", WEB), ("config.tw", "mine\n")]);
    let written = || std::fs::read_to_string(folder.path().join("config.tw")).expect("it is there");
    let output = tw(folder.path(), &["compose.yaml", "-o", "."], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("is there already") && err(&output).contains("--force"),
        "{}",
        err(&output)
    );
    assert_eq!(written(), "mine\n");
    let output = tw(folder.path(), &["compose.yaml", "-o", ".", "--force"], "");
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(written().contains("Job("));
    assert_eq!(
        tw(folder.path(), &["compose.yaml", "-o", "no/such/x.tw"], "")
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn json_has_the_spec_its_jobs_and_every_note() {
    let folder = folder(&[("compose.yaml", WEB), ("broken.yaml", "services: [\n")]);
    let output = tw(folder.path(), &["compose.yaml", "--json"], "");
    let answer: serde_json::Value = serde_json::from_str(&out(&output)).expect("json");
    assert_eq!(answer["version"], 1);
    assert_eq!(answer["format"], "compose");
    assert_eq!(answer["jobs"], serde_json::json!(["web"]));
    let notes = answer["notes"].as_array().expect("notes");
    let lost = notes
        .iter()
        .find(|note| note["path"] == "services.web.privileged")
        .expect("the note");
    assert_eq!(
        (&lost["kind"], &lost["line"], &lost["job"]),
        (&"not_carried".into(), &5.into(), &"web".into())
    );
    let output = tw(folder.path(), &["broken.yaml", "--json"], "");
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_str(&out(&output)).expect("json");
    assert!(
        answer["errors"][0]["message"]
            .as_str()
            .expect("a message")
            .starts_with("broken.yaml:2:1: ")
    );
}

#[test]
fn folders_and_what_is_no_text_are_refused_with_advice() {
    let folder = folder(&[("compose.yaml", WEB)]);
    std::fs::write(folder.path().join("picture.png"), [0x89, b'P', 0xff, 0xfe]).expect("write");
    for (file, expected) in [
        (".", "is a folder"),
        ("picture.png", "is no UTF-8 text"),
        ("missing.yaml", "cannot be read"),
    ] {
        let output = tw(folder.path(), &[file], "");
        assert_eq!(output.status.code(), Some(1), "{file}");
        assert!(err(&output).contains(expected), "{file}: {}", err(&output));
    }
    let hint = err(&tw(folder.path(), &["."], ""));
    assert!(hint.contains("name the files"), "{hint}");
}

#[test]
fn a_format_that_nobody_knows_is_a_usage_error() {
    let folder = folder(&[("compose.yaml", PLAIN)]);
    let output = tw(folder.path(), &["compose.yaml", "--format", "helm"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("compose, kubernetes or nomad"),
        "{}",
        err(&output)
    );
}
