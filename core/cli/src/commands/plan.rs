//! `tw plan`

use std::path::PathBuf;
use std::process::ExitCode;

use tw_api::{Client, PlanRequest, SubmittedJob};
use tw_controller::plan::{Destruction, JobPlan, Plan, TaskCounts, Verdict};
use tw_model::ChangeKind;
use tw_spec::{EvaluatedJob, Evaluator, PolicyReview, Source};

use super::diff;
use crate::cache;
use crate::context::Context;
use crate::spec::{self, Specs};
use crate::text::{BOLD, DIM, GREEN, RED, YELLOW, count, painted};

/// Show what applying specs would do to what runs, and change nothing
///
/// Exit code: 0 nothing changes, 2 something does, 3 something destructive does or a policy refuses it, 1 an error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Spec files, or folders with *.tw files below them
    #[arg(default_value = ".", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Plan this git revision instead of the work tree
    #[arg(long, value_name = "REV")]
    rev: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let Some(planned) = Planned::make(&client, &args.paths, args.rev.as_deref()).await? else {
        return Ok(ExitCode::FAILURE);
    };
    match args.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&planned.plan)?),
        false => planned.print(),
    }
    Ok(ExitCode::from(match () {
        () if planned.plan.policy.refuses() || !planned.plan.destructive.is_empty() => 3,
        () if !planned.plan.jobs.is_empty() => 2,
        () => 0,
    }))
}

/// A plan, and what it is a plan of.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) jobs: Vec<EvaluatedJob>,
    pub(crate) source: Source,
    /// What policies say of the jobs.
    pub(crate) review: PolicyReview,
}

impl Planned {
    /// Evaluates and asks the controller. None when there are mistakes in the specs; they are shown then.
    pub(crate) async fn make(
        client: &Client,
        paths: &[PathBuf],
        rev: Option<&str>,
    ) -> anyhow::Result<Option<Planned>> {
        let specs = Specs::find(paths, rev)?;
        let evaluator = Evaluator::start(cache::eval_config())?;
        let outcome = specs.evaluate_with(&evaluator)?;
        let (source, jobs) = (specs.source, outcome.jobs);
        let review = tw_spec::review(&evaluator, &source, &jobs)?;
        if !outcome.errors.is_empty() || !review.errors.is_empty() {
            spec::print_errors(&outcome.errors);
            spec::print_errors(&review.errors);
            return Ok(None);
        }
        let request = PlanRequest {
            jobs: jobs
                .iter()
                .map(|job| spec::submitted(job, &source))
                .collect(),
            policy: review.report.clone(),
            ..PlanRequest::default()
        };
        let plan = client.post("/v1/plan", &request).await?;
        Ok(Some(Planned {
            plan,
            jobs,
            source,
            review,
        }))
    }

    pub(crate) fn submitted(&self) -> Vec<SubmittedJob> {
        self.jobs
            .iter()
            .map(|job| spec::submitted(job, &self.source))
            .collect()
    }

    pub(crate) fn print(&self) {
        self.print_plan();
        spec::print_policy(&self.review, &self.source);
    }

    fn print_plan(&self) {
        let plan = &self.plan;
        if plan.jobs.is_empty() {
            anstream::println!(
                "Nothing to do: {} as specified.",
                count(plan.unchanged.len(), "job")
            );
            return;
        }
        for (job, destruction) in &plan.destructive {
            let what = match destruction {
                Destruction::Removed => "is removed",
                Destruction::Recreated => "is removed and made anew",
                Destruction::ScaledToZero => "keeps no task",
            };
            anstream::println!("{RED}destructive{RED:#}: {job} {what}");
        }
        anstream::println!(
            "{BOLD}{}{BOLD:#}: {}",
            count(plan.jobs.len(), "job"),
            counts(&plan.counts)
        );
        plan.jobs.iter().for_each(print_job);
        anstream::println!("\n{}", capacity(plan));
        anstream::println!("{DIM}plan {}{DIM:#}", plan.digest);
    }
}

fn print_job(job: &JobPlan) {
    let kind = job.change.as_ref().map(|change| change.change);
    let mark = match kind {
        Some(ChangeKind::Added) => painted(GREEN, "+"),
        Some(ChangeKind::Removed) => painted(RED, "-"),
        Some(ChangeKind::Modified) | None => painted(YELLOW, "~"),
    };
    anstream::println!(
        "\n{mark} {BOLD}{}{BOLD:#}: {}",
        job.job,
        counts(&job.counts)
    );
    for change in job.change.iter().flat_map(|change| &change.changes) {
        anstream::println!(
            "    {}",
            diff::change_line(&change.path, &change.old, &change.new, change.effect, "")
        );
    }
    if !job.stages.is_empty() {
        let stages: Vec<String> = job.stages.iter().map(u32::to_string).collect();
        anstream::println!(
            "    stages: {} of {} tasks",
            stages.join(", then "),
            job.tasks.len()
        );
    }
    match &job.verdict {
        Verdict::Fits => {}
        Verdict::Moves => {
            anstream::println!("    {YELLOW}moves{YELLOW:#}: some tasks need another machine")
        }
        Verdict::DoesNotFit { tasks, why } => {
            anstream::println!(
                "    {RED}does not fit{RED:#}: {} would wait: {why}",
                count(*tasks as usize, "task")
            );
        }
    }
    print_caveats(job);
}

fn print_caveats(job: &JobPlan) {
    for caveat in &job.caveats {
        anstream::println!("    {YELLOW}note{YELLOW:#}: {caveat}");
    }
}

fn counts(counts: &TaskCounts) -> String {
    let parts = [
        (counts.started, "started"),
        (counts.in_place, "changed in place"),
        (counts.restarted, "restarted"),
        (counts.moved, "moved"),
        (counts.stopped, "stopped"),
        (counts.untouched, "untouched"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    match parts.is_empty() {
        true => "no task notices".to_owned(),
        false => format!("tasks {}", parts.join(", ")),
    }
}

fn capacity(plan: &Plan) -> String {
    let delta = &plan.capacity;
    let signed =
        |amount: i64, shown: String| format!("{}{shown}", if amount < 0 { "-" } else { "+" });
    format!(
        "capacity: cpu {}, memory {}, disk {}",
        signed(
            delta.cpu_millicores,
            tw_model::Cores(delta.cpu_millicores.unsigned_abs()).to_string()
        ),
        signed(
            delta.memory_bytes,
            tw_model::Bytes(delta.memory_bytes.unsigned_abs()).to_string()
        ),
        signed(
            delta.disk_bytes,
            tw_model::Bytes(delta.disk_bytes.unsigned_abs()).to_string()
        ),
    )
}
