//! A page for people: jobs, tasks and machines as they are now. It changes nothing and needs no script.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::IntoResponse;
use tw_api::{JobStatus, MachineStatus, TaskStatus};
use tw_model::{Bytes, Cores, MachineState, RolloutState, TaskId, TaskState, TaskUsage};

use crate::app::App;
use crate::status;
use crate::view::View;

/// The page has no script, and no other page may frame it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<meta http-equiv=\"refresh\" content=\"5\">
<title>Twill</title>
<style>
:root { color-scheme: light dark; --line: #8884; --dim: #888; --good: #2a8a4a; --bad: #c0392b; --wait: #b8860b }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; color: var(--dim) }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
.good { color: var(--good) } .bad { color: var(--bad) } .wait { color: var(--wait) } .dim { color: var(--dim) }
code { font-size: .9em }
</style>
<h1>Twill</h1>
";

/// `GET /`
pub(crate) async fn overview(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut page = app.hub.read_usage(page);
    for machine in &mut page.machines {
        machine.connected = app.hub.is_connected(&machine.id);
    }
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, page.render())
}

struct Page {
    jobs: Vec<JobStatus>,
    machines: Vec<MachineStatus>,
}

fn page(view: &View, usage: &HashMap<TaskId, TaskUsage>) -> Page {
    let jobs = view.jobs();
    Page {
        jobs: jobs
            .map(|(record, job)| status::job(view, record, job, usage))
            .collect(),
        machines: view
            .machines()
            .map(|row| status::machine(view, row, false))
            .collect(),
    }
}

impl Page {
    fn render(&self) -> String {
        let mut html = Html(HEAD.to_owned());
        if self.jobs.is_empty() {
            html.raw("<p class=\"dim\">No jobs yet: <code>tw apply config.tw</code></p>");
        }
        self.jobs.iter().for_each(|job| job_section(&mut html, job));
        html.raw("<h2>Machines</h2>\n");
        html.table(
            &["machine", "state", "tasks", "CPU", "memory", "address"],
            self.machines.iter().map(machine_row),
        );
        html.0
    }
}

/// A cell: its text, and a class for its colour.
type Cell = (String, &'static str);

fn job_section(html: &mut Html, job: &JobStatus) {
    let summary = &job.job;
    html.raw("<h2>");
    if summary.namespace.as_str() != tw_model::DEFAULT_NAMESPACE {
        html.text(&format!("{}/", summary.namespace));
    }
    html.text(summary.name.as_str());
    html.raw(" <span class=\"dim\">");
    html.text(&format!(
        "{} · version {} · {} of {} healthy",
        summary.kind, summary.version, summary.healthy, summary.replicas
    ));
    if summary.done > 0 {
        html.text(&format!(" · {} done", summary.done));
    }
    if summary.stopped {
        html.text(" · stopped");
    }
    html.raw("</span></h2>\n");
    if let Some(rollout) = &summary.rollout {
        let class = match rollout.state {
            RolloutState::Running | RolloutState::Paused => "wait",
            RolloutState::Halted => "bad",
        };
        html.raw(&format!("<p class=\"{class}\">"));
        html.text(&format!(
            "update from {} to {}, stage {} of {}, {} tasks updated {}",
            rollout.from,
            rollout.to,
            rollout.stage,
            rollout.stages,
            rollout.updated,
            rollout.reason
        ));
        html.raw("</p>\n");
    }
    html.table(
        &[
            "task", "state", "machine", "ports", "restarts", "CPU", "memory", "",
        ],
        job.tasks.iter().map(task_row),
    );
}

fn task_row(task: &TaskStatus) -> Vec<Cell> {
    let class = match (task.state, task.healthy) {
        (TaskState::Running, Some(false)) | (TaskState::Failed | TaskState::Lost, _) => "bad",
        (TaskState::Running, _) => "good",
        (TaskState::Done, _) => "dim",
        _ => "wait",
    };
    let ports: Vec<String> = task
        .ports
        .iter()
        .map(|(name, number)| format!("{name}:{number}"))
        .collect();
    let usage = task.usage.as_ref();
    let state = match task.healthy {
        Some(false) if task.state == TaskState::Running => "unhealthy",
        _ => task.state.as_str(),
    };
    vec![
        (task.id.to_string(), ""),
        (state.to_owned(), class),
        (
            task.machine
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            "",
        ),
        (ports.join(" "), ""),
        (task.restarts.to_string(), ""),
        (
            usage.map(|usage| usage.cpu.to_string()).unwrap_or_default(),
            "",
        ),
        (
            usage
                .map(|usage| usage.memory.to_string())
                .unwrap_or_default(),
            "",
        ),
        (task.reason.clone(), "dim"),
    ]
}

fn machine_row(machine: &MachineStatus) -> Vec<Cell> {
    let (state, class) = match (machine.state, machine.connected) {
        (MachineState::Up, true) => ("up", "good"),
        (MachineState::Up, false) => ("up, agent away", "wait"),
        (MachineState::Lost, _) => ("lost", "bad"),
    };
    let (reserved, capacity) = (&machine.reserved, &machine.capacity);
    vec![
        (machine.id.to_string(), ""),
        (state.to_owned(), class),
        (machine.tasks.to_string(), ""),
        (
            format!("{} of {}", Cores(reserved.cpu_millicores), capacity.cpu),
            "",
        ),
        (
            format!("{} of {}", Bytes(reserved.memory_bytes), capacity.memory),
            "",
        ),
        (machine.facts.address.clone(), ""),
    ]
}

/// A page that grows. Everything that is not written here goes through [`Html::text`].
struct Html(String);

impl Html {
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
    }

    fn text(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.raw("&amp;"),
                '<' => self.raw("&lt;"),
                '>' => self.raw("&gt;"),
                '"' => self.raw("&quot;"),
                '\'' => self.raw("&#39;"),
                plain => self.0.push(plain),
            }
        }
    }

    fn table(&mut self, heads: &[&str], rows: impl Iterator<Item = Vec<Cell>>) {
        self.raw("<table><tr>");
        for head in heads {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "<th>{head}</th>");
        }
        self.raw("</tr>\n");
        for row in rows {
            self.raw("<tr>");
            for (text, class) in row {
                let _ = write!(self.0, "<td class=\"{class}\">");
                self.text(&text);
                self.raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</table>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::Html;

    #[test]
    fn text_cannot_become_markup() {
        let mut html = Html(String::new());
        html.table(
            &["reason"],
            [vec![("<script>'\"&".to_owned(), "dim")]].into_iter(),
        );
        assert!(
            html.0.contains("&lt;script&gt;&#39;&quot;&amp;"),
            "{}",
            html.0
        );
        assert!(!html.0.contains("<script"));
    }
}
