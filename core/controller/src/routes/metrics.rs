//! A page of metrics in the text format of Prometheus: what the cluster's jobs and machines come to.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use tw_api::JobSummary;
use tw_model::{METRIC_PAGE_TYPE, MachineState, MetricKind, MetricPage, TaskRecord, TaskState};

use crate::app::App;
use crate::status;
use crate::view::{JobView, View};

pub(super) async fn page(State(app): State<Arc<App>>) -> impl IntoResponse {
    let page = app.hub.read(write);
    ([(CONTENT_TYPE, METRIC_PAGE_TYPE)], page)
}

/// What is told of a job.
struct Told<'a> {
    summary: JobSummary,
    holders: Vec<&'a TaskRecord>,
}

/// One metric of a job, and how it is told.
type JobMetric = (&'static str, MetricKind, &'static str, fn(&Told<'_>) -> f64);

const JOB_METRICS: [JobMetric; 4] = {
    use MetricKind::{Counter, Gauge};
    [
        (
            "twill_job_tasks_wanted",
            Gauge,
            "Tasks that the job wants.",
            |job| f64::from(job.summary.replicas),
        ),
        (
            "twill_job_tasks_healthy",
            Gauge,
            "Tasks that serve.",
            |job| f64::from(job.summary.healthy),
        ),
        (
            "twill_job_version",
            Gauge,
            "The version that is wanted.",
            |job| job.summary.version as f64,
        ),
        (
            "twill_job_restarts_total",
            Counter,
            "Starts of the job's tasks that nobody asked for: failures and lost machines.",
            |job| f64::from(job.holders.iter().map(|row| row.restarts).sum::<u32>()),
        ),
    ]
};

fn write(view: &View) -> String {
    let mut page = MetricPage::default();
    let jobs: Vec<Told<'_>> = view
        .jobs()
        .map(|(record, job)| Told {
            summary: status::summary(view, record, job),
            holders: job.holders(),
        })
        .collect();
    for (name, kind, help, read) in JOB_METRICS {
        page.metric(name, kind, help);
        for job in &jobs {
            let summary = &job.summary;
            let labels = [
                ("namespace", summary.namespace.as_str()),
                ("job", summary.name.as_str()),
            ];
            page.series(name, &labels, read(job));
        }
    }
    write_tasks(view, &mut page);
    write_machines(view, &mut page);
    page.into_text()
}

fn write_tasks(view: &View, page: &mut MetricPage) {
    let name = "twill_tasks";
    page.metric(
        name,
        MetricKind::Gauge,
        "The newest task of each index, by state.",
    );
    for (record, job) in view.jobs() {
        for (state, count) in states(job) {
            let labels = [
                ("namespace", record.id.namespace.as_str()),
                ("job", record.id.name.as_str()),
                ("state", state.as_str()),
            ];
            page.series(name, &labels, f64::from(count));
        }
    }
}

fn states(job: &JobView) -> BTreeMap<TaskState, u32> {
    let mut states = BTreeMap::new();
    for row in job.holders() {
        *states.entry(row.state).or_insert(0) += 1;
    }
    states
}

fn write_machines(view: &View, page: &mut MetricPage) {
    let name = "twill_machine_up";
    page.metric(
        name,
        MetricKind::Gauge,
        "1 while the agent of the machine is heard.",
    );
    for row in view.machines() {
        let is_up = row.state == MachineState::Up;
        page.series(
            name,
            &[("machine", row.id.as_str())],
            f64::from(u8::from(is_up)),
        );
    }
}
