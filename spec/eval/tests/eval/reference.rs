//! Every example of the spec reference is a spec that evaluates.

use std::fmt::Write;

use tw_model::{FieldInfo, JobSpec, StructInfo};

use crate::support::{Repo, rendered};

/// What a job needs so that each example may name it.
const AROUND: [&str; 5] = [
    r#"name="example""#,
    r#"command="sleep 1""#,
    r#"ports=["http", "control"]"#,
    r#"packages=[Package.folder("app")]"#,
    r#"volumes=[Volume(name="data", path="/data")]"#,
];

fn keyword(argument: &str) -> &str {
    argument.split('=').next().unwrap_or(argument)
}

/// `ClassName(required=…, example)`.
fn construct(table: &StructInfo, example: &str) -> String {
    let required = table
        .fields
        .iter()
        .filter(|field| field.default.is_none() && field.name != keyword(example))
        .map(|field| field.example.as_str());
    let mut arguments: Vec<&str> = required.collect();
    if keyword(example) == "whole_cores" {
        arguments.push("cpu=1");
    }
    if table.name == "MetricCheck" {
        // A metric is read from one of two places and has a bound.
        if !["port", "file"].contains(&keyword(example)) {
            arguments.push(r#"port="http""#);
        }
        if !["above", "below"].contains(&keyword(example)) {
            arguments.push("above=100");
        }
    }
    arguments.push(example);
    format!("{}({})", table.name, arguments.join(", "))
}

/// The argument of some holder that puts `value`, of class `class`, into it.
fn holder<'a>(tables: &'a [StructInfo], class: &str, value: &str) -> (&'a StructInfo, String) {
    let names_it = |field: &&FieldInfo| {
        field
            .python_type
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| word == class)
    };
    let found = tables
        .iter()
        .filter(|table| table.name != class)
        .find_map(|table| Some((table, table.fields.iter().find(names_it)?)));
    let (table, field) = found.unwrap_or_else(|| panic!("nothing holds a {class}"));
    let value = match field.python_type.starts_with("Sequence[") {
        true => format!("[{value}]"),
        false => value.to_owned(),
    };
    (table, format!("{}={value}", field.name))
}

/// A job with the example in its place; fields that only a batch job may have make it one.
fn job(tables: &[StructInfo], table: &StructInfo, example: &str) -> String {
    let (mut table, mut example) = (table, example.to_owned());
    while table.name != "Job" {
        let value = construct(table, &example);
        (table, example) = holder(tables, table.name, &value);
    }
    let stands_against = |around: &str| {
        keyword(around) == keyword(&example)
            || keyword(around) == "volumes" && example.contains("max_surge")
    };
    let mut arguments: Vec<&str> = AROUND
        .into_iter()
        .filter(|around| !stands_against(around))
        .collect();
    match keyword(&example) {
        "schedule" | "parallelism" | "timeout" => arguments.push(r#"kind="batch""#),
        "failover" => arguments.push("at_most_one=True"),
        "autoscale" if example.contains("metric=") => arguments
            .push(r#"health=[MetricCheck(metric="requests_total", port="http", above=1000)]"#),
        _ => {}
    }
    arguments.push(&example);
    format!("Job({})", arguments.join(", "))
}

#[test]
fn every_example_evaluates() {
    let tables = JobSpec::tables();
    let mut spec = "from tw import *\nfrom tw import export\n".to_owned();
    let mut count = 0;
    for table in &tables {
        for field in table.fields.iter().filter(|field| !field.resolved) {
            count += 1;
            let made = job(&tables, table, &field.example);
            let _ = writeln!(
                spec,
                "export({made}.replace(name=\"example-{count}\"))  # {}.{}",
                table.name, field.name
            );
        }
    }
    let repo = Repo::with(&[("config.tw", &spec), ("app/run", "#!/bin/sh\n")]);
    let outcome = repo.evaluate();
    assert_eq!(outcome.errors, [], "{}", rendered(&outcome));
    assert_eq!(outcome.jobs.len(), count);
}
