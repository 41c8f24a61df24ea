//! `tw plan`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tw_api::{Client, PlanRequest};
use tw_controller::plan::{DriftKind, Plan};
use tw_model::{ChangeKind, JobId, PolicyReport, Prices};
use tw_review::{PlanShown, Review};
use tw_spec::{Evaluator, PolicyReview, Source, Tree};

use crate::cache;
use crate::context::Context;
use crate::plan_file;
use crate::prices;
use crate::review::{self, Format};
use crate::running;
use crate::spec::{self, Specs};

/// Show what applying specs would do to what runs, and change nothing
///
/// Exit code: 0 nothing changes, 2 something does, 3 something destructive does, or a policy or an allowance stands against it, 1 an error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    what: What,
    /// Write the plan to FILE, for review and for `tw apply FILE`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// What is planned, and how it is priced.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct What {
    /// Spec files, or folders with *.tw files below them
    #[arg(default_value = ".", value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Take this git revision instead of the work tree
    #[arg(long, value_name = "REV")]
    pub(super) rev: Option<String>,
    /// Also end this job, which no spec may export
    #[arg(long, value_name = "JOB")]
    pub(super) remove: Vec<JobId>,
    /// Also end the jobs that these specs exported before and export no more
    #[arg(long)]
    pub(super) prune: bool,
    /// Show what the change costs: a TOML file with `[prices]`, `cpu_core_month`, `memory_gib_month`, `disk_gib_month`
    #[arg(long, value_name = "FILE")]
    pub(super) prices: Option<PathBuf>,
}

impl What {
    pub(super) fn of(paths: &[PathBuf], rev: Option<String>) -> What {
        What {
            paths: paths.to_vec(),
            rev,
            remove: Vec::new(),
            prune: false,
            prices: None,
        }
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let Some(planned) = Planned::make(&client, &args.what).await? else {
        return Ok(ExitCode::FAILURE);
    };
    let review = planned.review(args.format.markdown)?;
    if let Some(path) = &args.out {
        plan_file::write(path, &planned.plan, &planned.request)?;
    }
    match args.format.json {
        true => anstream::println!("{}", serde_json::to_string_pretty(&planned.json()?)?),
        false => planned.show(&review, args.format),
    }
    if let Some(path) = args.out.as_ref().filter(|_| review::is_read()) {
        anstream::println!(
            "\nReviewed? `tw apply {}` does this and nothing else.",
            path.display()
        );
    }
    Ok(ExitCode::from(match () {
        () if planned.plan.is_refused() || !planned.plan.destructive.is_empty() => 3,
        () if !planned.plan.jobs.is_empty() => 2,
        () => 0,
    }))
}

/// A plan, and what it is a plan of.
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    pub(crate) request: PlanRequest,
    pub(crate) source: Source,
    /// What policies say of the jobs, with the author's lines; none of a plan from a file.
    rich: Option<PolicyReview>,
    prices: Option<Prices>,
}

impl Planned {
    /// Evaluates and asks the controller. None when there are mistakes in the specs; they are shown then.
    pub(crate) async fn make(client: &Client, what: &What) -> anyhow::Result<Option<Planned>> {
        let prices = what.prices.as_deref().map(prices::read).transpose()?;
        let specs = match what.prune || !what.remove.is_empty() {
            // The last spec may be gone.
            true => Specs::find_any(&what.paths, what.rev.as_deref())?,
            false => Specs::find(&what.paths, what.rev.as_deref())?,
        };
        let evaluator = Evaluator::start(cache::eval_config())?;
        let outcome = specs.evaluate_with(&evaluator)?;
        let rich = specs.review(&evaluator, &outcome.jobs)?;
        let (source, files, jobs) = (specs.source, specs.files, outcome.jobs);
        if !outcome.errors.is_empty() || !rich.errors.is_empty() {
            spec::print_errors(&outcome.errors);
            spec::print_errors(&rich.errors);
            return Ok(None);
        }
        let revision = source.unchanged_commit().unwrap_or_default();
        let submitted = jobs.iter().map(|job| spec::submitted(job, &revision));
        let mut request = PlanRequest {
            jobs: submitted.collect(),
            remove: what.remove.clone(),
            policy: rich.report.clone(),
        };
        let mut plan: Plan = client.post("/v1/plan", &request).await?;
        let gone = not_exported(&plan);
        if what.prune && !gone.is_empty() {
            request.remove.extend(gone);
            plan = client.post("/v1/plan", &request).await?;
        }
        explain(&mut plan, client, &evaluator, (&source, &files)).await?;
        Ok(Some(Planned {
            plan,
            request,
            source,
            rich: Some(rich),
            prices,
        }))
    }

    /// Takes a plan from a file. Its packages come from the repository around the current folder.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Planned> {
        let (plan, request) = plan_file::read(path)?;
        let revision = request.jobs.iter().map(|job| job.source.revision.as_str());
        let revision = revision.into_iter().find(|revision| !revision.is_empty());
        let has_packages = request.jobs.iter().any(|job| !job.spec.packages.is_empty());
        Ok(Planned {
            source: spec::open(&[], revision.filter(|_| has_packages))?,
            plan,
            request,
            rich: None,
            prices: None,
        })
    }

    /// The plan as a reviewer reads it. `whole` has the policies' words, too, which a terminal gets in full.
    fn review(&self, whole: bool) -> anyhow::Result<Review> {
        let delta = &self.plan.capacity;
        let cost = self
            .prices
            .map(|prices| prices.month(delta.cpu_millicores, delta.memory_bytes, delta.disk_bytes));
        let shown = PlanShown {
            cost_month: cost.transpose()?,
        };
        let mut plan = self.plan.clone();
        if !whole && self.rich.is_some() {
            plan.policy = PolicyReport::default();
        }
        Ok(tw_review::of_plan(&plan, shown))
    }

    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let format = Format {
            json: false,
            markdown: false,
        };
        self.show(&self.review(false)?, format);
        Ok(())
    }

    fn show(&self, review: &Review, format: Format) {
        review::print(review, format, "tw plan");
        if let Some(rich) = self.rich.as_ref().filter(|_| !format.markdown) {
            spec::print_policy(rich, &self.source);
        }
    }

    /// The plan as JSON, with its version and without what looks like a credential.
    fn json(&self) -> anyhow::Result<serde_json::Value> {
        let plan = self.plan.clone().masked();
        let mut answer = serde_json::json!({ "version": 1 });
        if let (Some(answer), serde_json::Value::Object(fields)) =
            (answer.as_object_mut(), serde_json::to_value(&plan)?)
        {
            answer.extend(fields);
        }
        Ok(answer)
    }
}

/// Adds where the changes come from: each job is held against the revision that it was applied from.
async fn explain(
    plan: &mut Plan,
    client: &Client,
    evaluator: &Evaluator,
    (source, specs): (&Source, &[String]),
) -> anyhow::Result<()> {
    let changes = plan.jobs.iter().filter(|job| {
        let change = job.change.as_ref().map(|change| change.change);
        change == Some(ChangeKind::Modified)
    });
    let modified: Vec<JobId> = changes.map(|job| job.job.clone()).collect();
    if modified.is_empty() {
        return Ok(());
    }
    let mut running = Vec::with_capacity(modified.len());
    for job in &modified {
        running.push(running::job(client, job).await?);
    }
    let diff = tw_spec::diff_with_running(evaluator, &running, Tree { source, specs })?.diff;
    let cause = |job: &JobId, path: &str| {
        let (namespace, name) = (job.namespace.as_str(), job.name.as_str());
        diff.cause_of(namespace, name, path).cloned()
    };
    plan.explain(cause, diff.modules.clone());
    Ok(())
}

/// The jobs that run and came from these specs, which do not export them any more.
fn not_exported(plan: &Plan) -> Vec<JobId> {
    let gone = plan
        .drift
        .iter()
        .filter(|drift| matches!(drift.found, DriftKind::NotExported { .. }));
    gone.map(|drift| drift.job.clone()).collect()
}
