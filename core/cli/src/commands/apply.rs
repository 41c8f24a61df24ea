//! `tw apply`

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use tw_api::{ApplyReply, ApplyRequest, Client, PackageReply};
use tw_model::{Approval, JobId};

use super::plan::{Planned, What};
use crate::context::Context;
use crate::failure::advice;
use crate::plan_file;
use crate::text::count;

/// Plan specs, ask, and do what the plan says; or do what a plan file says
///
/// A plan file, as `tw plan --out FILE` writes it, is applied without a question: it was reviewed. It is refused if
/// someone edited it, or if by now something else would happen.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) what: What,
    /// Do not ask; the job's history says so
    #[arg(long, conflicts_with = "plan")]
    pub(super) auto_approve: bool,
    /// Apply only if this is still the plan, by its digest; does not ask
    #[arg(long, value_name = "DIGEST")]
    pub(super) plan: Option<String>,
    /// Confirm that many tasks end, by the beginning of the plan's digest
    #[arg(long, value_name = "DIGEST")]
    pub(super) confirm_destructive: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    Ok(match submit(&args, context).await? {
        Submitted::Refused => ExitCode::FAILURE,
        Submitted::Nothing | Submitted::Applied(_) => ExitCode::SUCCESS,
    })
}

/// Applies without asking, as `tw dev SPEC` does.
pub(crate) async fn apply(
    paths: &[PathBuf],
    rev: Option<String>,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    run(
        Args {
            what: What::of(paths, rev),
            auto_approve: true,
            plan: None,
            confirm_destructive: None,
        },
        context,
    )
    .await
}

/// What came of it.
pub(crate) enum Submitted {
    /// By a mistake in the specs, or by the person who was asked.
    Refused,
    Nothing,
    Applied(Vec<JobId>),
}

pub(crate) async fn submit(args: &Args, context: &Context) -> anyhow::Result<Submitted> {
    let client = context.client()?;
    let from_file = match args.what.paths.as_slice() {
        [path] if plan_file::is_plan(path) => Some(path),
        _ => None,
    };
    let planned = match from_file {
        Some(path) => Planned::read(path)?,
        None => match Planned::make(&client, &args.what).await? {
            Some(planned) => planned,
            None => return Ok(Submitted::Refused),
        },
    };
    planned.print()?;
    if planned.plan.jobs.is_empty() {
        return Ok(Submitted::Nothing);
    }
    if planned.plan.policy.refuses() {
        return Err(advice(
            "policy refuses this plan",
            "change the jobs, or ask the owner of the policy",
        ));
    }
    let digest = match &args.plan {
        Some(digest) => digest.clone(),
        None if from_file.is_some() || args.auto_approve || confirmed()? => {
            planned.plan.digest.clone()
        }
        None => {
            anstream::println!("Nothing was applied.");
            return Ok(Submitted::Refused);
        }
    };
    upload_packages(&client, &planned).await?;
    tracing::info!(plan = digest, "applying");
    let request = ApplyRequest {
        jobs: planned.request.jobs.clone(),
        remove: planned.request.remove.clone(),
        policy: planned.request.policy.clone(),
        digest,
        confirm_destructive: args.confirm_destructive.clone(),
        approval: match args.auto_approve && from_file.is_none() {
            true => Approval::Auto,
            false => Approval::Seen,
        },
    };
    let reply: ApplyReply = client.post("/v1/apply", &request).await?;
    let changed: Vec<JobId> = reply
        .jobs
        .into_iter()
        .filter(|job| job.changed)
        .map(|job| job.job)
        .collect();
    anstream::println!("Applied: {}.", count(changed.len(), "job"));
    Ok(Submitted::Applied(changed))
}

pub(crate) fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(advice(
            "there is nobody to ask whether to apply this plan",
            "say --auto-approve, or --plan DIGEST for a plan that was reviewed",
        ));
    }
    anstream::print!("Apply this plan? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Sends the packages that the controller lacks.
async fn upload_packages(client: &Client, planned: &Planned) -> anyhow::Result<()> {
    let packages: BTreeMap<_, _> = planned
        .request
        .jobs
        .iter()
        .flat_map(|job| &job.spec.packages)
        .map(|package| (package.digest.clone(), package.path.clone()))
        .collect();
    for (digest, folder) in packages {
        let path = format!("/v1/packages/{}", digest.0);
        if client.exists(&path).await? {
            continue;
        }
        let package = tw_spec::package::pack(&planned.source, &folder.0)?;
        if package.digest != digest {
            return Err(advice(
                format!(
                    "the folder '{}' changed while it was being applied",
                    folder.0
                ),
                "run the command again",
            ));
        }
        let size = tw_model::Bytes(package.archive.len() as u64);
        let _: PackageReply = client.put_bytes(&path, package.archive.into()).await?;
        anstream::println!(
            "Sent package {} ({}, {size})",
            folder.0,
            count(package.files, "file")
        );
    }
    Ok(())
}
