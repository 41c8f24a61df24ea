//! `tw plans`, and what it shares with the commands that decide on a plan.

use std::process::ExitCode;

use tw_api::{Client, PlanReply, PlansReply};
use tw_controller::plan::Plan;
use tw_model::{PlanRecord, PlanState};
use tw_review::PlanShown;
use tw_spec::visible;

use crate::context::Context;
use crate::failure::advice;
use crate::table::Table;
use crate::text::{BOLD, DIM, GREEN, RED, YELLOW, painted};

/// The fewest digits that name a plan.
const DIGITS_MIN: usize = 8;

/// Show the plans of commits, those that wait first, or one of them in full
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plan, by its digest or the first digits of it; without it all are listed
    plan: Option<String>,
    /// Also list plans that are decided
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match &args.plan {
        None => {
            let mut reply: PlansReply = client.get("/v1/plans").await?;
            if !args.all {
                reply.plans.retain(|plan| plan.state == PlanState::Waiting);
            }
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
                false => print_all(&reply.plans),
            }
        }
        Some(plan) => {
            let digest = find(&client, plan).await?;
            let reply: PlanReply = client.get(&format!("/v1/plans/{digest}")).await?;
            match args.json {
                true => anstream::println!("{}", serde_json::to_string_pretty(&reply)?),
                false => print(&reply)?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole digest of a plan that is named by its first digits.
pub(crate) async fn find(client: &Client, plan: &str) -> anyhow::Result<String> {
    let hint = "`tw plans` lists those that wait";
    if plan.len() < DIGITS_MIN {
        return Err(advice(
            format!("'{plan}' is too short for a digest: {DIGITS_MIN} digits are the least"),
            hint,
        ));
    }
    let reply: PlansReply = client.get("/v1/plans").await?;
    let digests = reply.plans.iter().map(|plan| &plan.digest);
    let found: Vec<&String> = digests.filter(|digest| digest.starts_with(plan)).collect();
    match &found[..] {
        [one] => Ok((*one).clone()),
        [] => Err(advice(format!("no plan has the digest {plan}"), hint)),
        several => Err(advice(
            format!(
                "{} plans have digests that begin with {plan}",
                several.len()
            ),
            "name more of the digits",
        )),
    }
}

/// Shows a plan of a commit, and what it would do.
pub(crate) fn print(reply: &PlanReply) -> anyhow::Result<()> {
    let record = &reply.record;
    anstream::println!(
        "{BOLD}{}{BOLD:#} of {} {} {} ({})",
        state(record.state),
        record.repository,
        record.commit.short(),
        visible(&record.commit.subject),
        visible(&record.commit.author)
    );
    if let Some(job) = &record.rollback {
        anstream::println!("brings {job} back to this commit");
    }
    match &record.decided {
        Some(decided) => {
            let reason = match decided.reason.is_empty() {
                true => String::new(),
                false => format!(": {}", visible(&decided.reason)),
            };
            anstream::println!(
                "{} by {} at {}{reason}",
                record.state,
                visible(&decided.by),
                decided.at
            );
        }
        None => anstream::println!("{DIM}{}{DIM:#}", record.waits_for),
    }
    let plan: Option<Plan> = reply.plan.clone().map(serde_json::from_value).transpose()?;
    match plan {
        Some(plan) => {
            let review = tw_review::of_plan(&plan, PlanShown::default());
            anstream::print!("\n{}", tw_review::terminal(&review));
        }
        None => anstream::println!("{DIM}plan {}{DIM:#}", record.digest),
    }
    Ok(())
}

fn print_all(plans: &[PlanRecord]) {
    if plans.is_empty() {
        anstream::println!("No plan waits. `tw plans --all` lists those that are decided.");
        return;
    }
    let mut table = Table::new(&["PLAN", "STATE", "REPOSITORY", "COMMIT", "MADE", "BECAUSE"]);
    for plan in plans {
        let because = match (&plan.decided, plan.state) {
            (Some(decided), _) => format!("by {}", visible(&decided.by)),
            (None, PlanState::Waiting | PlanState::Approved) => plan.waits_for.clone(),
            (None, _) => String::new(),
        };
        table.row(vec![
            plan.digest[..12].to_owned(),
            state(plan.state),
            plan.repository.to_string(),
            format!("{} {}", plan.commit.short(), visible(&plan.commit.subject)),
            plan.made_at.to_string(),
            because,
        ]);
    }
    table.print();
}

fn state(state: PlanState) -> String {
    let style = match state {
        PlanState::Waiting | PlanState::Approved => YELLOW,
        PlanState::Applied => GREEN,
        PlanState::Rejected | PlanState::Refused => RED,
        PlanState::Superseded => DIM,
    };
    painted(style, state)
}
