//! What several jobs repeat is written once.

use std::collections::BTreeMap;

use crate::draft::Draft;
use crate::python::{Element, Expr, Key};

use super::{Constant, constant_name, free_name};

/// Variables that this many jobs have in common, and so many of them, are a constant.
const ENV_JOBS_MIN: usize = 2;
const ENV_ENTRIES_MIN: usize = 3;

/// Takes repeated values out of the jobs; gives the constants that stand for them.
pub(super) fn take_out(drafts: &[Draft], jobs: &mut [Expr]) -> Vec<Constant> {
    let mut constants = Vec::new();
    while let Some(constant) = common_env(drafts, jobs, &constants) {
        constants.push(constant);
    }
    repeated_fields(drafts, jobs, &mut constants);
    constants
}

fn argument<'a>(job: &'a Expr, name: &str) -> Option<&'a Expr> {
    job.elements()
        .iter()
        .find(|element| element.key == Key::Name(name.to_owned()))
        .map(|element| &element.value)
}

fn argument_mut<'a>(job: &'a mut Expr, name: &str) -> Option<&'a mut Expr> {
    let elements = job.elements_mut()?;
    elements
        .iter_mut()
        .find(|element| element.key == Key::Name(name.to_owned()))
        .map(|element| &mut element.value)
}

/// The entries that the most jobs have in common become one dict, which their own are added to.
fn common_env(drafts: &[Draft], jobs: &mut [Expr], constants: &[Constant]) -> Option<Constant> {
    let mut owners: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (index, job) in jobs.iter().enumerate() {
        for entry in argument(job, "env").map(Expr::elements).unwrap_or_default() {
            if let Key::Text(key) = &entry.key {
                owners
                    .entry((key.clone(), entry.value.flat()))
                    .or_default()
                    .push(index);
            }
        }
    }
    let mut groups: BTreeMap<Vec<usize>, Vec<(String, String)>> = BTreeMap::new();
    for (entry, jobs) in owners {
        groups.entry(jobs).or_default().push(entry);
    }
    let (members, entries) = groups
        .into_iter()
        .filter(|(jobs, entries)| jobs.len() >= ENV_JOBS_MIN && entries.len() >= ENV_ENTRIES_MIN)
        .max_by_key(|(jobs, entries)| jobs.len() * entries.len())?;
    let is_common = |entry: &Element| match &entry.key {
        Key::Text(key) => entries.contains(&(key.clone(), entry.value.flat())),
        _ => false,
    };
    let name = match members.len() == jobs.len() || constants.is_empty() {
        true => free_name("COMMON_ENV", constants),
        false => free_name(
            &format!(
                "{}_ENV",
                constant_name(drafts[members[0]].spec.name.as_str())
            ),
            constants,
        ),
    };
    let mut shared = Vec::new();
    for index in members {
        let env = argument_mut(&mut jobs[index], "env")?;
        let entries = env.elements_mut()?;
        let (common, own): (Vec<Element>, Vec<Element>) = entries.drain(..).partition(&is_common);
        shared = common;
        *env = match own.is_empty() {
            true => Expr::Atom(name.clone()),
            false => {
                let spread = Element::new(Key::Spread, Expr::Atom(name.clone()));
                Expr::Group {
                    open: "{".to_owned(),
                    close: "}",
                    elements: std::iter::once(spread).chain(own).collect(),
                    trailing: Vec::new(),
                }
            }
        };
    }
    let value = Expr::Group {
        open: "{".to_owned(),
        close: "}",
        elements: shared,
        trailing: Vec::new(),
    };
    Some(Constant {
        name,
        comments: Vec::new(),
        value,
    })
}

/// Fields whose values are equal in several jobs; short ones are clearer where they are.
fn repeated_fields(drafts: &[Draft], jobs: &mut [Expr], constants: &mut Vec<Constant>) {
    let mut owners: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (index, job) in jobs.iter().enumerate() {
        for element in job.elements() {
            if let (Key::Name(field), Expr::Group { .. }) = (&element.key, &element.value) {
                owners
                    .entry((field.clone(), element.value.flat()))
                    .or_default()
                    .push(index);
            }
        }
    }
    let mut repeated: Vec<_> = owners
        .into_iter()
        .filter(|((field, text), jobs)| {
            let length = text.chars().count();
            let many = (jobs.len() >= 3 && length >= 28) || (jobs.len() >= 2 && length >= 70);
            many && !["command", "packages", "image", "env", "ports"].contains(&field.as_str())
        })
        .collect();
    repeated
        .sort_by_key(|((field, _), jobs)| (jobs[0], field.clone(), std::cmp::Reverse(jobs.len())));
    for ((field, _), members) in repeated {
        let base = constant_name(&field);
        let name = match constants.iter().any(|constant| constant.name == base) {
            false => base,
            true => free_name(
                &format!(
                    "{}_{base}",
                    constant_name(drafts[members[0]].spec.name.as_str())
                ),
                constants,
            ),
        };
        let Some(value) = argument(&jobs[members[0]], &field).cloned() else {
            continue;
        };
        for index in members {
            if let Some(place) = argument_mut(&mut jobs[index], &field) {
                *place = Expr::Atom(name.clone());
            }
        }
        constants.push(Constant {
            name,
            comments: Vec::new(),
            value,
        });
    }
}
