//! `tw recommend --write`: suggestions go into the specs.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use tw_model::JobId;
use tw_scheduler::recommend::{Advice, Suggestion};
use tw_spec::{
    Evaluator, FieldChange, Outcome, Place, Refusal, Rewriter, Rewritten, Source, Wanted, Wish,
};

use crate::cache;
use crate::failure::advice;
use crate::spec::{self, Specs};
use crate::text::{BOLD, CYAN, DIM, GREEN, RED, YELLOW, count, painted};

/// What becomes of suggestions.
#[derive(Debug, clap::Args)]
pub(super) struct WriteArgs {
    /// Write the suggestions into the specs
    #[arg(long, conflicts_with_all = ["patch", "branch"])]
    write: bool,
    /// Print what would be written as a patch, or put it into FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "branch")]
    patch: Option<Option<PathBuf>>,
    /// Commit it on a new branch from HEAD; the work tree stays as it is
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Where to write if several places would do; may be repeated
    #[arg(long, value_name = "FILE:LINE")]
    at: Vec<String>,
    /// The folder of the specs [default: here]
    #[arg(long, value_name = "PATH")]
    specs: Option<PathBuf>,
}

impl WriteArgs {
    pub(super) fn is_wanted(&self) -> bool {
        self.write || self.patch.is_some() || self.branch.is_some()
    }
}

/// What was found out about a job.
pub(super) struct Found {
    pub(super) job: JobId,
    pub(super) suggestion: Option<Suggestion>,
    pub(super) evidence: String,
}

/// What could not be written, and why.
#[derive(Serialize)]
struct Unwritten {
    #[serde(flatten)]
    wish: Wish,
    /// Where it could be; empty if nowhere.
    places: Vec<Place>,
    refusal: Option<Refusal>,
    /// A person saw the places and took none.
    #[serde(skip)]
    is_left: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    version: u32,
    changes: &'a [FieldChange],
    files: Vec<&'a str>,
    patch: String,
    commit: Option<String>,
    unwritten: &'a [Unwritten],
}

pub(super) fn run(args: &WriteArgs, found: &[Found], json: bool) -> anyhow::Result<ExitCode> {
    let revision = args.branch.as_ref().map(|_| "HEAD");
    let folder: Vec<PathBuf> = args.specs.iter().cloned().collect();
    let source = spec::open(&folder, revision)?;
    let specs = Specs {
        files: source.find_specs(&[String::new()])?,
        is_whole: true,
        source,
    };
    let evaluator = Evaluator::start(cache::eval_config())?;
    let outcome = specs.evaluate_with(&evaluator)?;
    let mut rewriter = Rewriter::new(&evaluator, &specs.source, &outcome);
    let wishes = wishes(found, &rewriter, json)?;
    let unwritten = settle(args, &mut rewriter, &wishes, json)?;
    let rewritten = rewriter.finish()?;
    let commit = match rewritten.changes.is_empty() {
        true => None,
        false => put(args, &rewritten, &specs, &evaluator, &outcome, found)?,
    };
    match json {
        true => print_json(&rewritten, commit, &unwritten)?,
        false => print(args, &rewritten, commit.as_deref(), &unwritten),
    }
    Ok(match unwritten.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What is to be written: all that is suggested and that the specs do not say yet.
fn wishes(found: &[Found], rewriter: &Rewriter<'_>, json: bool) -> anyhow::Result<Vec<Wish>> {
    let mut wishes = Vec::new();
    for Found {
        job, suggestion, ..
    } in found
    {
        let Some(suggestion) = suggestion else {
            note(json, &format!("{job}: nothing is suggested yet"));
            continue;
        };
        let Some(spec) = rewriter.job(job) else {
            if found.len() == 1 {
                return Err(advice(
                    format!("there is no job '{job}' in these specs, or its spec has mistakes"),
                    "name the folder of its repository with --specs; `tw check` shows mistakes",
                ));
            }
            note(json, &format!("{job}: not in these specs"));
            continue;
        };
        let cpu = (spec.resources.cpu, suggestion.cpu);
        let memory = (spec.resources.memory, suggestion.memory);
        let wanted = [
            still_wanted(cpu).map(Wanted::Cpu),
            still_wanted(memory).map(Wanted::Memory),
        ];
        let wanted = wanted.into_iter().flatten().map(|wanted| Wish {
            job: job.clone(),
            wanted,
        });
        wishes.extend(wanted.filter(|wish| !rewriter.is_met(wish)));
    }
    Ok(wishes)
}

/// What is suggested, unless the specs have gone there, or further, meanwhile.
fn still_wanted<T: PartialOrd + Copy>((has, advice): (T, Advice<T>)) -> Option<T> {
    match advice {
        Advice::More(value) => (has < value).then_some(value),
        Advice::Less(value) => (has > value).then_some(value),
        Advice::Keep => None,
    }
}

fn note(json: bool, text: &str) {
    if !json {
        anstream::eprintln!("{DIM}{text}{DIM:#}");
    }
}

/// Finds a place for each wish and accepts it: the only one, the one named, or the one that a person chooses.
fn settle(
    args: &WriteArgs,
    rewriter: &mut Rewriter<'_>,
    wishes: &[Wish],
    json: bool,
) -> anyhow::Result<Vec<Unwritten>> {
    let mut unwritten = Vec::new();
    for wish in wishes {
        // A place that was chosen for an earlier wish may have met this one.
        if rewriter.is_met(wish) {
            continue;
        }
        let places = match rewriter.places(wish, wishes)? {
            Ok(places) => places,
            Err(refusal) => {
                unwritten.push(Unwritten {
                    wish: wish.clone(),
                    places: Vec::new(),
                    refusal: Some(refusal),
                    is_left: false,
                });
                continue;
            }
        };
        let named = places.iter().find(|place| is_named(args, place));
        let known = named.or(Place::only_choice(&places));
        let is_asked = known.is_none() && !json && is_a_person_there();
        let chosen = match is_asked {
            true => choose(rewriter, wish, &places)?,
            false => known,
        };
        match chosen {
            Some(place) => rewriter.accept(place)?,
            None => unwritten.push(Unwritten {
                wish: wish.clone(),
                places,
                refusal: None,
                is_left: is_asked,
            }),
        }
    }
    Ok(unwritten)
}

fn is_named(args: &WriteArgs, place: &Place) -> bool {
    let line = format!("{}:{}", place.at.file, place.at.line);
    let column = place.at.to_string();
    args.at
        .iter()
        .any(|named| *named == line || *named == column)
}

fn is_a_person_there() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn choose<'p>(
    rewriter: &Rewriter<'_>,
    wish: &Wish,
    places: &'p [Place],
) -> anyhow::Result<Option<&'p Place>> {
    let has = rewriter.job(&wish.job).map(|spec| wish.wanted.of(spec));
    let has = has.map_or_else(String::new, |has| format!("{has} → "));
    anstream::eprintln!(
        "{BOLD}{}{BOLD:#}: where shall {} {has}{BOLD}{}{BOLD:#} be written?",
        wish.job,
        wish.wanted.keyword(),
        wish.wanted
    );
    for (number, place) in (1..).zip(places) {
        anstream::eprintln!("{}", described(&format!("{number}. "), wish, place));
    }
    loop {
        anstream::eprint!("a number, or nothing to leave it: ");
        let mut answer = String::new();
        if std::io::stdin().lock().read_line(&mut answer)? == 0 {
            anstream::eprintln!();
        }
        match chosen(&answer, places.len()) {
            Ok(index) => return Ok(index.and_then(|index| places.get(index))),
            Err(wrong) => anstream::eprintln!("{YELLOW}{wrong}{YELLOW:#}"),
        }
    }
}

/// The index that an answer names, none for an empty one; or what is wrong with it.
fn chosen(answer: &str, places: usize) -> Result<Option<usize>, String> {
    match answer.trim() {
        "" => Ok(None),
        answer => match answer.parse() {
            Ok(number) if (1..=places).contains(&number) => Ok(Some(number - 1)),
            _ if places == 1 => Err(format!("'{answer}' is not 1, the only place")),
            _ => Err(format!("'{answer}' is no number from 1 to {places}")),
        },
    }
}

/// A place, its lines, and what else it changes.
fn described(bullet: &str, wish: &Wish, place: &Place) -> String {
    let mut lines = vec![format!("  {bullet}{CYAN}{}{CYAN:#}", place.at)];
    let shown = |lines: &[String], sign: &str, style| {
        let line = |line: &String| painted(style, format!("     {sign} {}", line.trim()));
        lines.iter().map(line).collect::<Vec<_>>()
    };
    lines.extend(shown(&place.before, "-", RED));
    lines.extend(shown(&place.after, "+", GREEN));
    lines.push(format!("     {}", consequences(wish, place)));
    if let Some(caution) = &place.caution {
        lines.push(painted(YELLOW, format!("     note that {caution}")));
    }
    lines.join("\n")
}

fn consequences(wish: &Wish, place: &Place) -> String {
    let is_meant =
        |change: &&FieldChange| change.job == wish.job && change.path == wish.wanted.path();
    let also: Vec<String> = place
        .changes
        .iter()
        .filter(|change| !is_meant(change))
        .map(|change| format!("{} ({})", change.job, change_text(change)))
        .collect();
    match also.is_empty() {
        true => "changes this job alone".to_owned(),
        false if place.is_exact => format!("changes also {}, as suggested", also.join(", ")),
        false => painted(YELLOW, format!("changes also {}", also.join(", "))),
    }
}

/// Writes, prints or commits; returns the commit.
fn put(
    args: &WriteArgs,
    rewritten: &Rewritten,
    specs: &Specs,
    evaluator: &Evaluator,
    before: &Outcome,
    found: &[Found],
) -> anyhow::Result<Option<String>> {
    match (&args.branch, &args.patch) {
        (Some(branch), _) => {
            let message = message(rewritten, found);
            let commit = rewritten.commit(&specs.source, branch, &message)?;
            Ok(Some(commit))
        }
        (None, Some(Some(file))) => {
            let writing = || format!("writing the patch to {}", file.display());
            std::fs::write(file, rewritten.patch()).with_context(writing)?;
            Ok(None)
        }
        (None, Some(None)) => Ok(None),
        (None, None) => {
            rewritten.write(&specs.source)?;
            if let Err(error) = check_on_disk(rewritten, specs, evaluator, before) {
                rewritten.restore(&specs.source);
                return Err(error.context("the specs are as they were"));
            }
            Ok(None)
        }
    }
}

/// Evaluates what is on disk now, all of it: a file may be reached in ways that its path does not tell.
fn check_on_disk(
    rewritten: &Rewritten,
    specs: &Specs,
    evaluator: &Evaluator,
    before: &Outcome,
) -> anyhow::Result<()> {
    let source = Source::work_tree(specs.source.root())?;
    let after = tw_spec::evaluate(evaluator, &source, &specs.files)?;
    rewritten.check(before, &after)?;
    Ok(())
}

/// The message of the commit: what changes, and why one should believe it.
fn message(rewritten: &Rewritten, found: &[Found]) -> String {
    let mut jobs: Vec<&JobId> = rewritten.changes.iter().map(|change| &change.job).collect();
    jobs.dedup();
    let title = match jobs[..] {
        [job] => format!("limits: fit {job} to its use"),
        _ => format!("limits: fit {} to their use", count(jobs.len(), "job")),
    };
    let mut lines = vec![title, String::new()];
    for job in jobs {
        let changes = rewritten.changes.iter().filter(|change| change.job == *job);
        let changes: Vec<String> = changes.map(change_text).collect();
        lines.push(format!("{job}: {}", changes.join(", ")));
        if let Some(found) = found.iter().find(|found| found.job == *job) {
            lines.push(format!("  {}", found.evidence));
        }
    }
    lines.join("\n") + "\n"
}

fn change_text(change: &FieldChange) -> String {
    format!(
        "{} {} → {}",
        change.path,
        tw_review::value(&change.path, &change.old),
        tw_review::value(&change.path, &change.new)
    )
}

fn print_json(
    rewritten: &Rewritten,
    commit: Option<String>,
    unwritten: &[Unwritten],
) -> anyhow::Result<()> {
    let report = Report {
        version: 1,
        changes: &rewritten.changes,
        files: rewritten.files().collect(),
        patch: rewritten.patch(),
        commit,
        unwritten,
    };
    anstream::println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn print(args: &WriteArgs, rewritten: &Rewritten, commit: Option<&str>, unwritten: &[Unwritten]) {
    if let Some(None) = args.patch {
        anstream::print!("{}", rewritten.patch());
    } else {
        for change in &rewritten.changes {
            anstream::println!("{BOLD}{}{BOLD:#}: {}", change.job, change_text(change));
        }
        let files: Vec<&str> = rewritten.files().collect();
        match (commit, &args.branch, files.is_empty()) {
            (_, _, true) => anstream::println!("nothing is written"),
            (Some(commit), Some(branch), _) => {
                anstream::println!("committed to branch {branch} as {}", &commit[..12]);
            }
            _ => anstream::println!("{DIM}in {}{DIM:#}", files.join(", ")),
        }
    }
    unwritten.iter().for_each(print_unwritten);
}

fn print_unwritten(left: &Unwritten) {
    let wish = &left.wish;
    let as_wished = if left.is_left { ", as you chose" } else { "" };
    anstream::eprintln!(
        "{YELLOW}{BOLD}{}{BOLD:#}{YELLOW:#}: {} {BOLD}{}{BOLD:#} is not written{as_wished}",
        wish.job,
        wish.wanted.keyword(),
        wish.wanted
    );
    if left.is_left {
        return;
    }
    if let Some(refusal) = &left.refusal {
        anstream::eprintln!("  {}", refusal.reason);
        if let Some(patch) = &refusal.by_hand {
            anstream::eprintln!("  by hand, if the number may stand there:");
            patch
                .lines()
                .for_each(|line| anstream::eprintln!("    {line}"));
        }
        return;
    }
    anstream::eprintln!("  there is more than one way, or a doubt; name one with --at FILE:LINE:");
    for place in &left.places {
        anstream::eprintln!("{}", described("", wish, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_a_place_or_is_asked_again() {
        assert_eq!(chosen("2\n", 3), Ok(Some(1)));
        assert_eq!(chosen(" \n", 3), Ok(None));
        assert_eq!(chosen("", 3), Ok(None), "the input ended");
        for answer in ["0", "4", "-1", "one", "99999999999999999999"] {
            let wrong = format!("'{answer}' is no number from 1 to 3");
            assert_eq!(chosen(answer, 3), Err(wrong));
        }
        assert_eq!(
            chosen("2", 1),
            Err("'2' is not 1, the only place".to_owned())
        );
    }
}
