//! Pages of plans: those that wait with the repositories that they come from, and each in full.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use tw_api::{ErrorBody, RepositoryStatus};
use tw_model::{Code, CommitRef, PlanRecord, PlanState};
use tw_scheduler::Plan;

use super::{Cell, Html, answer, head};
use crate::app::App;
use crate::reply::Refusal;

/// How many digits of a digest are shown in a table.
const SHORT: usize = 12;
/// How many decided plans are listed.
const DECIDED_MAX: usize = 50;

/// `GET /plans`
pub(crate) async fn list(State(app): State<Arc<App>>) -> impl IntoResponse {
    let plans = app.follow.plans();
    let repositories = app.follow.statuses();
    answer(page(&plans, &repositories))
}

fn page(plans: &[PlanRecord], repositories: &[RepositoryStatus]) -> Html {
    let mut html = head("Plans", Some(15));
    let waiting: Vec<&PlanRecord> = plans
        .iter()
        .filter(|plan| !plan.state.is_decided())
        .collect();
    html.raw("<h1>Plans that wait</h1>\n");
    match waiting.is_empty() {
        true => html.raw("<p class=\"dim\">No plan waits.</p>\n"),
        false => html.table(
            &["plan", "state", "repository", "commit", "made", "because"],
            waiting.into_iter().map(plan_row),
        ),
    }
    html.raw("<h2>Repositories</h2>\n");
    match repositories.is_empty() {
        true => html.raw("<p class=\"dim\">No branch is followed: <code>[[repository]]</code> in <code>twill.toml</code> names one.</p>\n"),
        false => html.table(
            &["repository", "branch", "namespace", "mode", "head", "applied", "fetched", "state"],
            repositories.iter().map(repository_row),
        ),
    }
    let decided = plans.iter().filter(|plan| plan.state.is_decided());
    let mut decided = decided.take(DECIDED_MAX).peekable();
    if decided.peek().is_some() {
        html.raw("<h2>Decided</h2>\n");
        html.table(
            &["plan", "state", "repository", "commit", "made", "because"],
            decided.map(plan_row),
        );
    }
    html
}

fn plan_row(plan: &PlanRecord) -> Vec<Cell> {
    let because = match &plan.decided {
        Some(decided) => format!("by {}", decided.by),
        None => plan.waits_for.clone(),
    };
    vec![
        Cell::plan(&plan.digest),
        Cell::text(plan.state.as_str(), class(plan.state)),
        Cell::text(plan.repository.as_str(), ""),
        Cell::text(commit(&plan.commit), ""),
        Cell::text(plan.made_at.to_string(), "dim"),
        Cell::text(because, "dim"),
    ]
}

fn repository_row(repository: &RepositoryStatus) -> Vec<Cell> {
    let (state, class) = match &repository.trouble {
        Some(trouble) => {
            let first = trouble.message.lines().next().unwrap_or_default();
            (
                format!("{} since {}: {first}", trouble.code, trouble.since),
                "bad",
            )
        }
        None if !repository.waiting.is_empty() => ("waits for approval".to_owned(), "wait"),
        None if repository.head != repository.applied => ("not applied".to_owned(), "wait"),
        None => ("applied".to_owned(), "good"),
    };
    let short = |commit: &Option<CommitRef>| {
        let short = commit.as_ref().map(|commit| commit.short().to_owned());
        Cell::text(short.unwrap_or_default(), "")
    };
    let fetched = repository.fetched_at.map(|at| at.to_string());
    vec![
        Cell::text(repository.name.as_str(), ""),
        Cell::text(&repository.branch, ""),
        Cell::text(repository.namespace.as_str(), ""),
        Cell::text(repository.mode.to_string(), ""),
        short(&repository.head),
        short(&repository.applied),
        Cell::text(fetched.unwrap_or_default(), "dim"),
        Cell::text(state, class),
    ]
}

/// `GET /plans/{digest}`
pub(crate) async fn one(
    State(app): State<Arc<App>>,
    Path(digest): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let record = app.follow.record(&digest).ok();
    let plan = app.follow.shelf().find(&digest);
    if record.is_none() && plan.is_none() {
        let missing = ErrorBody::new(
            Code::PlanNotFound,
            format!("no plan has the digest {digest}"),
        );
        return Err(Refusal(
            missing.with_hint("/plans lists those that are known"),
        ));
    }
    Ok(answer(plan_page(&digest, record.as_ref(), plan.as_deref())))
}

fn plan_page(digest: &str, record: Option<&PlanRecord>, plan: Option<&Plan>) -> Html {
    let mut html = head(&format!("Plan {}", short(digest)), None);
    html.raw("<h1>Plan <code>");
    html.text(short(digest));
    html.raw("</code>");
    match record {
        Some(record) => about(&mut html, record),
        None => html.raw("</h1>\n<p class=\"dim\">Made by hand; no branch asks for it.</p>\n"),
    }
    match plan {
        Some(plan) => {
            let review = tw_review::of_plan(plan, tw_review::PlanShown::default());
            html.raw(&tw_review::html(&review));
        }
        None => html.raw("<p class=\"dim\">It was decided long ago, and what it would have done is not kept.</p>\n"),
    }
    if let Some(record) = record.filter(|record| record.state == PlanState::Waiting) {
        html.raw("<h2>To decide</h2>\n<pre>tw approve ");
        html.text(short(&record.digest));
        html.raw("\ntw reject ");
        html.text(short(&record.digest));
        html.raw("</pre>\n<p class=\"dim\">An approval holds for this digest: what would be another plan by then is not applied.</p>\n");
    }
    html
}

/// Where a plan comes from, and what became of it.
fn about(html: &mut Html, record: &PlanRecord) {
    html.raw(&format!(" <span class=\"{}\">", class(record.state)));
    html.text(record.state.as_str());
    html.raw("</span></h1>\n<p>");
    if let Some(job) = &record.rollback {
        html.text(&format!("brings {job} back: "));
    }
    html.text(&format!("repository {}, commit ", record.repository));
    html.raw("<code>");
    html.text(record.commit.short());
    html.raw("</code> ");
    html.text(&record.commit.subject);
    html.raw(" <span class=\"dim\">");
    html.text(&format!(
        "{} · committed {} · planned {}",
        record.commit.author, record.commit.committed_at, record.made_at
    ));
    html.raw("</span></p>\n<p class=\"dim\">");
    match &record.decided {
        Some(decided) => {
            html.text(&format!(
                "{} by {} at {}",
                record.state, decided.by, decided.at
            ));
            if !decided.reason.is_empty() {
                html.text(&format!(": {}", decided.reason));
            }
        }
        None => html.text(&record.waits_for),
    }
    html.raw("</p>\n");
}

fn class(state: PlanState) -> &'static str {
    match state {
        PlanState::Waiting | PlanState::Approved => "wait",
        PlanState::Applied => "good",
        PlanState::Rejected | PlanState::Refused => "bad",
        PlanState::Superseded => "dim",
    }
}

fn commit(commit: &CommitRef) -> String {
    format!("{} {}", commit.short(), commit.subject)
}

/// The first digits of a digest.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}
