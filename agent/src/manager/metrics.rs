//! A page of metrics in the text format of Prometheus: what each task uses, as its cgroup counts it, and what the agent
//! has done. Read by whoever can reach the address; nothing on it is secret but the names of jobs.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tw_model::{METRIC_PAGE_TYPE, MetricKind, MetricPage, TaskId};

use super::Agent;
use super::resource::Reading;

/// How long a caller may take to say what it wants.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// What the agent counts of its own work.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Commands that began to run.
    pub(super) starts: AtomicU64,
    /// Tasks that never began.
    pub(super) start_failures: AtomicU64,
    /// Time on a core that reading cgroups and setting limits took, in nanoseconds.
    pub(super) sampling_ns: AtomicU64,
}

/// One metric of a task, and where it is read.
type TaskMetric = (&'static str, MetricKind, &'static str, fn(&Reading) -> f64);

const TASK_METRICS: [TaskMetric; 11] = {
    use MetricKind::{Counter, Gauge};
    [
        (
            "twill_task_cpu_usage_seconds_total",
            Counter,
            "Time on a core.",
            |reading| reading.usage.cpu_usage_us as f64 / 1e6,
        ),
        (
            "twill_task_cpu_throttled_seconds_total",
            Counter,
            "Time for which the quota kept the task from running.",
            |reading| reading.usage.cpu_throttled_us as f64 / 1e6,
        ),
        (
            "twill_task_cpu_limit_cores",
            Gauge,
            "Cores that the task can count on now.",
            |reading| reading.limits.cpu.0 as f64 / 1e3,
        ),
        (
            "twill_task_memory_usage_bytes",
            Gauge,
            "Memory in use, page cache included.",
            |reading| reading.usage.memory_bytes as f64,
        ),
        (
            "twill_task_memory_working_set_bytes",
            Gauge,
            "Memory in use without page cache that could be dropped at once.",
            |reading| reading.usage.memory_working_set_bytes as f64,
        ),
        (
            "twill_task_memory_peak_bytes",
            Gauge,
            "The most memory that was in use since the start.",
            |reading| reading.usage.memory_peak_bytes as f64,
        ),
        (
            "twill_task_memory_limit_bytes",
            Gauge,
            "The memory limit that holds now.",
            |reading| reading.limits.memory.0 as f64,
        ),
        (
            "twill_task_oom_kills_total",
            Counter,
            "Processes that the kernel killed for want of memory.",
            |reading| reading.usage.oom_kills as f64,
        ),
        (
            "twill_task_processes",
            Gauge,
            "Processes and threads.",
            |reading| reading.usage.pids as f64,
        ),
        (
            "twill_task_processes_limit",
            Gauge,
            "The most processes and threads that it may have.",
            |reading| f64::from(reading.pids_max),
        ),
        (
            "twill_task_out_of_memory_total",
            Counter,
            "Times that tasks of the job ran out of memory on this machine, as far back as its history goes.",
            |reading| reading.ooms as f64,
        ),
    ]
};

/// Serves the page at an address until this future is dropped.
pub(super) async fn serve(agent: Arc<Agent>, address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics at {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "metrics are served");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those who hold some give them back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let agent = Arc::clone(&agent);
        let service = service_fn(move |request| {
            let answer = answer(&agent, &request);
            async { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "a reader of metrics went away");
            }
        });
    }
}

fn answer(agent: &Agent, request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
    let is_page = request.method() == Method::GET && request.uri().path() == "/metrics";
    let (status, kind, text) = match is_page {
        true => (StatusCode::OK, METRIC_PAGE_TYPE, page(agent)),
        false => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "the page is GET /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn page(agent: &Agent) -> String {
    let mut page = MetricPage::default();
    let readings = agent.resources.readings();
    for (name, kind, help, read) in TASK_METRICS {
        page.metric(name, kind, help);
        for (task, reading) in &readings {
            with_labels(task, |labels| page.series(name, labels, read(reading)));
        }
    }
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
    let own = [
        (
            "twill_agent_tasks",
            MetricKind::Gauge,
            "Tasks that the agent holds, with those that have ended and are not forgotten.",
            agent.tasks.len() as f64,
        ),
        (
            "twill_agent_task_starts_total",
            MetricKind::Counter,
            "Commands of tasks that began to run since the agent did.",
            count(&agent.counts.starts),
        ),
        (
            "twill_agent_task_start_failures_total",
            MetricKind::Counter,
            "Tasks that never began since the agent did.",
            count(&agent.counts.start_failures),
        ),
        (
            "twill_agent_sampling_cpu_seconds_total",
            MetricKind::Counter,
            "Time on a core that measuring tasks and fitting their limits took since the agent began.",
            count(&agent.counts.sampling_ns) / 1e9,
        ),
    ];
    for (name, kind, help, value) in own {
        page.metric(name, kind, help);
        page.series(name, &[], value);
    }
    page.metric("twill_agent_info", MetricKind::Gauge, "What runs here.");
    let about = [
        ("machine", agent.config.name.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    page.series("twill_agent_info", &about, 1.0);
    page.into_text()
}

/// Names a task. Its incarnation is a label too: each counts from zero.
fn with_labels(task: &TaskId, write: impl FnOnce(&[(&str, &str)])) {
    let (index, incarnation) = (task.index.to_string(), task.incarnation.to_string());
    write(&[
        ("namespace", task.job.namespace.as_str()),
        ("job", task.job.name.as_str()),
        ("index", &index),
        ("incarnation", &incarnation),
    ]);
}
