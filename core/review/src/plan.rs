//! What a submission would do to what runs, for a reviewer.

use std::collections::BTreeMap;

use tw_model::{
    Bytes, Change, ChangeKind, Cores, DEFAULT_NAMESPACE, Effect, JobId, Millis, PolicyFinding,
    PolicyReport,
};
use tw_scheduler::{
    CapacityDelta, Caveat, Destruction, Drift, JobPlan, Plan, TaskCounts, TaskPlan, Verdict,
};

use crate::card::{folded, modules, owners};
use crate::review::{Card, CardJob, Line, Mark, Review, Row, Tone};
use crate::words::{count, some_of};

/// Moves and machines in one sentence.
const NAMES_MAX: usize = 6;

/// What is known beside the plan itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanShown {
    /// What the capacity delta costs a month.
    pub cost_month: Option<f64>,
}

/// The review of a plan.
pub fn of_plan(plan: &Plan, shown: PlanShown) -> Review {
    let (refusals, warnings) = policy_lines(&plan.policy);
    let mut alarms: Vec<Line> = plan
        .destructive
        .iter()
        .map(|(job, what)| destruction(plan, job, *what))
        .collect();
    alarms.extend(plan.confirmation.as_ref().map(|confirmation| {
        Line::new(Tone::Danger).words(format!(
            "This {confirmation}, and has to be confirmed by its digest"
        ))
    }));
    alarms.extend(plan.jobs.iter().filter_map(does_not_fit));
    alarms.extend(plan.jobs.iter().filter_map(preempts));
    let (over, within): (Vec<_>, Vec<_>) = plan.allowances.iter().partition(|one| one.over);
    let over = over.into_iter();
    alarms.extend(over.map(|one| Line::new(Tone::Danger).words(one.to_string())));
    alarms.extend(refusals);
    let mut notes: Vec<Line> = plan.drift.iter().map(drift).collect();
    notes.extend(plan.jobs.iter().filter_map(scales));
    notes.extend(caveats(&plan.jobs));
    notes.extend(warnings);
    let mut totals = modules(&plan.modules);
    totals.extend(duration(&plan.jobs));
    totals.extend(capacity(&plan.capacity, shown.cost_month));
    let within = within.into_iter();
    totals.extend(within.map(|one| Line::plain().words(one.to_string())));
    totals.extend(owners(plan.jobs.iter().map(|job| job.owner.as_str())));
    Review {
        headline: headline(plan),
        errors: Vec::new(),
        alarms,
        notes,
        cards: folded(plan.jobs.iter().map(card).collect()),
        totals,
        digest: (!plan.jobs.is_empty()).then(|| plan.digest.clone()),
    }
}

fn headline(plan: &Plan) -> String {
    match plan.jobs.len() {
        0 => match plan.unchanged.len() {
            0 => "Nothing to do".to_owned(),
            1 => "Nothing to do: 1 job is as specified".to_owned(),
            jobs => format!("Nothing to do: {jobs} jobs are as specified"),
        },
        jobs => {
            let unchanged = match plan.unchanged.len() {
                0 => String::new(),
                unchanged => format!("; {unchanged} unchanged"),
            };
            format!(
                "{}: {}{unchanged}",
                count(jobs, "job"),
                counts(&plan.counts)
            )
        }
    }
}

/// What happens to tasks, in words.
fn counts(counts: &TaskCounts) -> String {
    let parts = [
        (counts.started, "started"),
        (counts.in_place, "changed in place"),
        (counts.restarted, "restarted"),
        (counts.moved, "moved"),
        (counts.stopped, "stopped"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(tasks, _)| *tasks > 0)
        .map(|(tasks, what)| format!("{tasks} {what}"))
        .collect();
    match parts.is_empty() {
        true => "no task notices".to_owned(),
        false => format!("tasks {}", parts.join(", ")),
    }
}

/// A job as people name it.
fn name(job: &JobId) -> String {
    match job.namespace.as_str() {
        DEFAULT_NAMESPACE => job.name.to_string(),
        _ => job.to_string(),
    }
}

fn destruction(plan: &Plan, job: &JobId, what: Destruction) -> Line {
    let found = plan.jobs.iter().find(|one| one.job == *job);
    let stopped = found.map_or(0, |one| one.counts.stopped as usize);
    let line = Line::new(Tone::Danger).quoted(name(job));
    let line = match what {
        Destruction::Removed => line.words(format!(
            " is removed, and {} with it",
            count(stopped, "task")
        )),
        Destruction::Recreated => line.words(" is removed and made anew: all tasks end at once"),
        Destruction::ScaledToZero => line.words(format!(
            " is left with no task: {} before",
            count(stopped, "task")
        )),
    };
    match found.map(|one| one.volumes.as_slice()) {
        Some(volumes @ [_, ..]) => {
            let names: Vec<String> = volumes.iter().map(ToString::to_string).collect();
            line.words(", and nothing finds what is in ")
                .quoted(names.join(", "))
        }
        _ => line,
    }
}

fn does_not_fit(job: &JobPlan) -> Option<Line> {
    let Verdict::DoesNotFit { tasks, why, .. } = &job.verdict else {
        return None;
    };
    let why = match tasks {
        1 => why.to_string(),
        _ => format!("{why:#}"),
    };
    Some(
        Line::new(Tone::Danger)
            .quoted(name(&job.job))
            .words(format!(
                " does not fit: {} would wait: ",
                count(*tasks as usize, "task")
            ))
            .quoted(why),
    )
}

/// Whose tasks end to make room, job by job.
fn preempts(job: &JobPlan) -> Option<Line> {
    let mut others: BTreeMap<&JobId, Vec<String>> = BTreeMap::new();
    for task in job.verdict.preempts() {
        let indexes = others.entry(&task.job).or_default();
        indexes.push(task.index.to_string());
    }
    let others = others.into_iter().map(|(other, indexes)| {
        let tasks = count(indexes.len(), "task");
        format!(
            "{tasks} of {} ({})",
            name(other),
            some_of(&indexes, NAMES_MAX)
        )
    });
    let others: Vec<String> = others.collect();
    if others.is_empty() {
        return None;
    }
    let line = Line::new(Tone::Warning)
        .quoted(name(&job.job))
        .words(" has more priority and takes the room of ")
        .quoted(some_of(&others, NAMES_MAX))
        .words(": they end, and start again where there is room");
    Some(line)
}

fn drift(drift: &Drift) -> Line {
    Line::new(Tone::Warning)
        .quoted(name(&drift.job))
        .words(": ")
        .quoted(drift.found.to_string())
}

/// That the counts are those of now.
fn scales(job: &JobPlan) -> Option<Line> {
    let (min, max) = job.scales?;
    let words = format!(": its load moves the number of tasks between {min} and {max}");
    Some(Line::plain().quoted(name(&job.job)).words(&words))
}

/// What to know of the machines: each thing once, whichever jobs and machines it is true of.
fn caveats(jobs: &[JobPlan]) -> Vec<Line> {
    let mut found: Vec<(Caveat, Vec<String>)> = Vec::new();
    for job in jobs {
        for caveat in &job.caveats {
            let is_known =
                |known: &Caveat| known.field == caveat.field && known.what == caveat.what;
            match found.iter_mut().find(|(known, _)| is_known(known)) {
                Some((known, names)) => {
                    known.machines.extend(caveat.machines.iter().cloned());
                    names.push(name(&job.job));
                }
                None => found.push((caveat.clone(), vec![name(&job.job)])),
            }
        }
    }
    let lines = found.into_iter().map(|(mut caveat, jobs)| {
        caveat.machines.sort();
        caveat.machines.dedup();
        let machines: Vec<String> = caveat.machines.iter().map(ToString::to_string).collect();
        let line = Line::new(Tone::Warning)
            .quoted(some_of(&jobs, NAMES_MAX))
            .words(": ")
            .quoted(caveat.what)
            .words(" on ")
            .quoted(some_of(&machines, NAMES_MAX));
        match caveat.field.is_empty() {
            true => line,
            false => line.words(" (").quoted(caveat.field).words(")"),
        }
    });
    lines.collect()
}

/// (what refuses, what warns).
pub(crate) fn policy_lines(policy: &PolicyReport) -> (Vec<Line>, Vec<Line>) {
    let (refusing, warning): (Vec<&PolicyFinding>, Vec<&PolicyFinding>) = policy
        .findings
        .iter()
        .partition(|finding| finding.refuses());
    let line = |tone: Tone, verb: &str, finding: &PolicyFinding| {
        let line = Line::new(tone)
            .words(format!("policy {verb} "))
            .quoted(name(&finding.job));
        let line = match &finding.field {
            Some(field) => line.words(" at ").quoted(field),
            None => line,
        };
        line.words(": ")
            .quoted(&finding.message)
            .words(", says ")
            .quoted(finding.policy.to_string())
    };
    (
        refusing
            .into_iter()
            .map(|one| line(Tone::Danger, "refuses", one))
            .collect(),
        warning
            .into_iter()
            .map(|one| line(Tone::Warning, "warns of", one))
            .collect(),
    )
}

/// How long the longest update takes: updates of different jobs go on side by side.
fn duration(jobs: &[JobPlan]) -> Option<Line> {
    let updates = jobs.iter().filter(|job| !job.stage_durations_ms.is_empty());
    let (longest, job) = updates
        .map(|job| (total(job), job))
        .max_by_key(|(time, _)| *time)?;
    if jobs.len() == 1 || longest == Millis::ZERO {
        return None;
    }
    Some(
        Line::plain()
            .words(format!("about {} until all is updated, ", about(longest)))
            .quoted(name(&job.job))
            .words(" last"),
    )
}

fn total(job: &JobPlan) -> Millis {
    let durations = job.stage_durations_ms.iter();
    durations.fold(Millis::ZERO, |sum, stage| sum + *stage)
}

/// A forecast, which is not known to the millisecond.
fn about(time: Millis) -> String {
    const SECOND: u64 = 1000;
    match time.0 < SECOND {
        true => time.to_string(),
        false => Millis((time.0 + SECOND / 2) / SECOND * SECOND).to_string(),
    }
}

fn capacity(delta: &CapacityDelta, cost: Option<f64>) -> Option<Line> {
    if *delta == CapacityDelta::default() {
        return None;
    }
    let sign = |amount: i64| if amount < 0 { '-' } else { '+' };
    let bytes = |amount: i64, what: &str| {
        format!("{}{} {what}", sign(amount), Bytes(amount.unsigned_abs()))
    };
    let parts = [
        (delta.cpu_millicores, {
            let cores = Cores(delta.cpu_millicores.unsigned_abs());
            format!("{}{cores} cores", sign(delta.cpu_millicores))
        }),
        (delta.memory_bytes, bytes(delta.memory_bytes, "of memory")),
        (delta.disk_bytes, bytes(delta.disk_bytes, "of disk")),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(amount, _)| *amount != 0)
        .map(|(_, words)| words)
        .collect();
    let cost = cost
        .map(|cost| format!("; {cost:+.2} a month"))
        .unwrap_or_default();
    Some(Line::plain().words(format!("capacity: {}{cost}", parts.join(", "))))
}

fn card(job: &JobPlan) -> Card {
    let kind = job.change.as_ref().map(|change| change.change);
    let changes = job.change.iter().flat_map(|change| &change.changes);
    let rows = changes.map(|change| {
        let Change {
            path,
            old,
            new,
            effect,
            cause,
        } = change.clone().masked();
        Row::of(&path, &old, &new, effect).caused_by(cause.as_ref(), &job.file)
    });
    let mut lines = Vec::new();
    lines.extend(stages(job));
    lines.extend(moves(job));
    Card {
        mark: kind.map_or(Mark::Again, Mark::from),
        jobs: vec![CardJob {
            name: name(&job.job),
            file: job.file.clone(),
            owner: job.owner.clone(),
        }],
        effect: match kind {
            Some(ChangeKind::Added | ChangeKind::Removed) => None,
            _ => Some(job.effect),
        },
        summary: counts(&job.counts),
        rows: rows.collect(),
        lines,
    }
}

/// `stages: 1, then 5, then 10 tasks; about 12s, 40s and 50s`.
fn stages(job: &JobPlan) -> Option<Line> {
    if job.stages.is_empty() {
        return None;
    }
    let part = |stage: usize| job.stage_parts.get(stage).copied().flatten();
    let stages = job.stages.iter().enumerate();
    let stages = stages.map(|(stage, tasks)| match part(stage) {
        Some(part) => format!("{tasks} in one {}", part.as_str()),
        None => tasks.to_string(),
    });
    let stages: Vec<String> = stages.collect();
    let of = job.stages.last().copied().unwrap_or(0) as usize;
    let about = match total(job) {
        Millis::ZERO => String::new(),
        all if job.stages.len() == 1 => format!("; about {}", about(all)),
        all => {
            let each: Vec<String> = job
                .stage_durations_ms
                .iter()
                .map(|stage| about(*stage))
                .collect();
            format!("; about {} = {}", each.join(" + "), about(all))
        }
    };
    let stages = stages.join(", then ");
    let noun = if of == 1 { "task" } else { "tasks" };
    let more = match job.surge {
        0 => String::new(),
        1 => "; 1 more runs meanwhile".to_owned(),
        more => format!("; {more} more run meanwhile"),
    };
    Some(Line::plain().words(format!("stages: {stages} {noun}{more}{about}")))
}

/// Which tasks leave their machine, and where they are expected to go.
fn moves(job: &JobPlan) -> Option<Line> {
    let moved = |task: &&TaskPlan| task.effect == Effect::Move;
    let moves: Vec<String> = job.tasks.iter().filter(moved).map(one_move).collect();
    match moves.is_empty() {
        true => None,
        false => Some(
            Line::plain()
                .words("expected to move: ")
                .quoted(some_of(&moves, NAMES_MAX)),
        ),
    }
}

fn one_move(task: &TaskPlan) -> String {
    let machine = |machine: &Option<tw_model::MachineId>| {
        machine
            .as_ref()
            .map_or("nowhere yet".to_owned(), ToString::to_string)
    };
    format!(
        "{} from {} to {}",
        task.index,
        machine(&task.from),
        machine(&task.to)
    )
}
