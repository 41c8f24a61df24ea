//! Pages for people: jobs, tasks and machines as they are now, and plans. They change nothing and need no script.

mod login;
mod plans;

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use tw_api::{ErrorBody, JobStatus, MachineStatus, RolloutStatus, TaskStatus};
use tw_model::{Bytes, Cores, MachineState, RolloutState, TaskId, TaskState, TaskUsage};
use tw_review::count;

use crate::app::App;
use crate::status;
use crate::view::View;

pub(crate) use login::{address, login};
pub(crate) use plans::{list as plan_list, one as plan};

/// No page has a script, a form, or a frame around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = include_str!("pages/style.css");

/// `GET /`
pub(crate) async fn overview(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut page = app.hub.read_usage(page);
    for machine in &mut page.machines {
        machine.connected = app.hub.is_connected(&machine.id);
    }
    answer(page.render())
}

/// `GET /style.css`
pub(crate) async fn style() -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/css; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, STYLE)
}

/// A page with the headers that hold it in.
fn answer(page: Html) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, page.0)
}

/// Why a browser gets nothing, and what helps. It may be one that gets no style either.
pub(crate) fn refusal(body: &ErrorBody) -> impl IntoResponse + use<> {
    let mut html = head("Refused", None);
    html.raw("<h1>");
    html.text(&body.message);
    html.raw("</h1>\n");
    if let Some(hint) = &body.hint {
        html.raw("<p>");
        html.text(hint);
        html.raw("</p>\n");
    }
    answer(html)
}

/// The beginning of a page; one that shows what changes is loaded again every so many seconds.
fn head(title: &str, reload_s: Option<u32>) -> Html {
    let mut html = Html(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n"
            .to_owned(),
    );
    if let Some(seconds) = reload_s {
        html.raw(&format!(
            "<meta http-equiv=\"refresh\" content=\"{seconds}\">\n"
        ));
    }
    html.raw("<title>");
    html.text(title);
    html.raw(" · Twill</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n");
    html.raw(
        "<nav><strong>Twill</strong> <a href=\"/\">Jobs</a> <a href=\"/plans\">Plans</a></nav>\n",
    );
    html
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
    fn render(&self) -> Html {
        let mut html = head("Jobs", Some(5));
        if self.jobs.is_empty() {
            html.raw("<p class=\"dim\">No jobs yet: <code>tw apply config.tw</code></p>");
        }
        self.jobs.iter().for_each(|job| job_section(&mut html, job));
        html.raw("<h2>Machines</h2>\n");
        html.table(
            &["machine", "state", "tasks", "CPU", "memory", "address"],
            self.machines.iter().map(machine_row),
        );
        html
    }
}

/// A cell of a table.
struct Cell {
    text: String,
    /// For its colour.
    class: &'static str,
    /// Where it leads: an address of our own making.
    link: Option<String>,
}

impl Cell {
    fn text(text: impl Into<String>, class: &'static str) -> Cell {
        Cell {
            text: text.into(),
            class,
            link: None,
        }
    }

    /// A plan, by its digest, leading to its page.
    fn plan(digest: &str) -> Cell {
        let hex = digest.chars().filter(char::is_ascii_hexdigit);
        Cell {
            link: Some(format!("/plans/{}", hex.collect::<String>())),
            ..Cell::text(plans::short(digest), "")
        }
    }
}

impl From<(String, &'static str)> for Cell {
    fn from((text, class): (String, &'static str)) -> Cell {
        Cell::text(text, class)
    }
}

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
        html.text(&rollout_line(rollout));
        html.raw("</p>\n");
    }
    html.table(
        &[
            "task", "state", "machine", "ports", "restarts", "CPU", "memory", "",
        ],
        job.tasks.iter().map(task_row),
    );
}

fn rollout_line(rollout: &RolloutStatus) -> String {
    let state = match rollout.state {
        RolloutState::Running => "goes on",
        RolloutState::Paused => "is paused",
        RolloutState::Halted => "has halted",
    };
    let because = match rollout.reason.is_empty() {
        true => String::new(),
        false => format!(": {}", rollout.reason),
    };
    format!(
        "The update from version {} to {} {state} in stage {} of {}, {} updated{because}",
        rollout.from,
        rollout.to,
        rollout.stage,
        rollout.stages,
        count(rollout.updated as usize, "task"),
    )
}

fn task_row(task: &TaskStatus) -> Vec<(String, &'static str)> {
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

fn machine_row(machine: &MachineStatus) -> Vec<(String, &'static str)> {
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

    fn table<C: Into<Cell>>(&mut self, heads: &[&str], rows: impl Iterator<Item = Vec<C>>) {
        self.raw("<table><tr>");
        for head in heads {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "<th>{head}</th>");
        }
        self.raw("</tr>\n");
        for row in rows {
            self.raw("<tr>");
            for cell in row {
                let cell: Cell = cell.into();
                let _ = write!(self.0, "<td class=\"{}\">", cell.class);
                if let Some(link) = &cell.link {
                    let _ = write!(self.0, "<a href=\"{link}\">");
                }
                self.text(&cell.text);
                if cell.link.is_some() {
                    self.raw("</a>");
                }
                self.raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</table>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::{Html, RolloutState, RolloutStatus, rollout_line};

    #[test]
    fn an_update_that_has_halted_says_so() {
        let halted = RolloutStatus {
            from: 1,
            to: 2,
            state: RolloutState::Halted,
            stage: 1,
            stages: 3,
            updated: 1,
            reason: "web.0 failed".to_owned(),
            rollback: false,
        };
        assert_eq!(
            rollout_line(&halted),
            "The update from version 1 to 2 has halted in stage 1 of 3, 1 task updated: web.0 failed"
        );
    }

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
