//! What has run of a job: `tw history JOB --applied`

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use tw_api::{PlansReply, SpecReply, VersionSummary};
use tw_model::{JobId, PlanRecord};
use tw_spec::visible;

use crate::context::{Context, job_path};
use crate::text::{BOLD, DIM, YELLOW, painted};

/// Prints the versions that the controller keeps, newest first: who let which plan of which commit through.
pub(crate) async fn run(
    job: &JobId,
    most: usize,
    is_json: bool,
    context: &Context,
) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let spec: SpecReply = client.get(&format!("{}/spec", job_path(job))).await?;
    let mut versions = spec.versions;
    versions.reverse();
    versions.truncate(most);
    if is_json {
        let answer = json!({"version": 1, "job": job, "versions": versions});
        anstream::println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(ExitCode::SUCCESS);
    }
    let plans: PlansReply = client.get("/v1/plans").await?;
    let plans: BTreeMap<&str, &PlanRecord> = plans
        .plans
        .iter()
        .map(|plan| (plan.digest.as_str(), plan))
        .collect();
    for version in &versions {
        print(version, plans.get(version.plan.as_str()).copied());
    }
    Ok(ExitCode::SUCCESS)
}

fn print(version: &VersionSummary, plan: Option<&PlanRecord>) {
    let source = &version.source;
    let commit = match source.revision.get(..10) {
        Some(commit) => painted(YELLOW, commit),
        None => painted(YELLOW, "not committed"),
    };
    let subject = plan.map_or_else(String::new, |plan| {
        format!("  {}", visible(&plan.commit.subject))
    });
    anstream::println!(
        "{BOLD}version {}{BOLD:#} {}  {commit}{subject}",
        version.version,
        version.at
    );
    let digest = version.plan.get(..12).unwrap_or(&version.plan);
    anstream::println!(
        "    by {}, {} {DIM}plan {digest}  {}:{}{DIM:#}",
        visible(&version.by),
        version.approval,
        source.file,
        source.line
    );
    let reason = plan.and_then(|plan| plan.decided.as_ref());
    if let Some(decided) = reason.filter(|decided| !decided.reason.is_empty()) {
        anstream::println!("    {}", visible(&decided.reason));
    }
}
