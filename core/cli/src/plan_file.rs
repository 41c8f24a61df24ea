//! A plan in a file: reviewed in one place, applied in another, and refused if anyone edited it between.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tw_api::PlanRequest;
use tw_controller::plan::Plan;

use crate::failure::advice;

const VERSION: u32 = 1;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The version of the shape.
    twill_plan: u32,
    /// BLAKE3 over the two fields below, as JSON without blanks.
    seal: String,
    plan: Plan,
    /// What was planned.
    request: PlanRequest,
}

/// Writes a plan and what it is a plan of.
pub(crate) fn write(path: &Path, plan: &Plan, request: &PlanRequest) -> anyhow::Result<()> {
    let file = File {
        twill_plan: VERSION,
        seal: seal(plan, request)?,
        plan: plan.clone(),
        request: request.clone(),
    };
    let text = serde_json::to_string_pretty(&file)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Whether a path that a person named is such a file, and no spec.
pub(crate) fn is_plan(path: &Path) -> bool {
    let is_spec = path.extension().is_some_and(|end| end == "tw");
    !is_spec && path.is_file()
}

/// Reads a plan as it was written.
pub(crate) fn read(path: &Path) -> anyhow::Result<(Plan, PlanRequest)> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let edited = |what: String| {
        advice(
            format!(
                "{} is not as `tw plan --out` wrote it: {what}",
                path.display()
            ),
            "plan again, and have that reviewed",
        )
    };
    let file: File = serde_json::from_str(&text).map_err(|cause| edited(cause.to_string()))?;
    if file.twill_plan != VERSION {
        return Err(edited(format!(
            "its shape is {}, not {VERSION}",
            file.twill_plan
        )));
    }
    if file.seal != seal(&file.plan, &file.request)? {
        return Err(edited("someone edited it".to_owned()));
    }
    Ok((file.plan, file.request))
}

fn seal(plan: &Plan, request: &PlanRequest) -> anyhow::Result<String> {
    let bytes = serde_json::to_vec(&(plan, request))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}
