//! Checks of what a task counts itself, a page and a file of a Python service, and what is counted of tasks.

use serde_json::json;
use tw_api::{ExecRequest, SessionRequest};
use tw_model::{MetricSelector, Phase, Remedy};

use crate::machine::{Machine, assignment, free_port, name};

/// Counts what it answers, on a page and in a file; `/fail` raises, `/slow` sets the latency.
const SERVICE: &str = r##"
import http.server, sys

counts = {"exceptions": 0, "latency": 0.01}

def page():
    return "".join((
        "# TYPE exceptions_total counter\n",
        "exceptions_total{kind=\"value\"} %d\n" % counts["exceptions"],
        "exceptions_total{kind=\"other\"} 0\n",
        "request_seconds{quantile=\"0.99\"} %g\n" % counts["latency"],
    ))

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            if self.path == "/fail":
                raise ValueError
            if self.path == "/slow":
                counts["latency"] = 1.5
        except ValueError:
            counts["exceptions"] += 1
        with open("/tmp/metrics.prom", "w") as file:
            file.write(page())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page().encode())

    def log_message(self, *arguments):
        pass

with open("/tmp/metrics.prom", "w") as file:
    file.write(page())
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"##;

#[tokio::test]
async fn counters_of_a_service_are_held_against_their_bounds_and_ask_for_what_the_spec_says() {
    let machine = Machine::new();
    let every = json!({"every_ms": 50, "timeout_ms": 2000, "failures": 2});
    let check = |fields: serde_json::Value| {
        let mut check = every.clone();
        let all = check.as_object_mut().unwrap();
        all.insert("type".to_owned(), json!("metric"));
        all.extend(fields.as_object().unwrap().clone());
        check
    };
    let checks = json!([
        check(json!({
            "metric": "exceptions_total", "port": "http", "path": "/metrics",
            "above_millionths": 2_000_000, "over_ms": 60_000, "remedy": "restart",
        })),
        check(json!({
            "metric": "request_seconds{quantile=\"0.99\"}", "file": "/tmp/metrics.prom",
            "above_millionths": 500_000, "remedy": "move",
        })),
    ]);
    let mut task = assignment(
        "counts",
        json!({
            "command": ["/usr/bin/python3", "-c", SERVICE, "{port:http}"],
            "ports": ["http"],
            "health": checks,
        }),
    );
    let port = free_port();
    task.task.ports.insert(name("http"), port);
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.health(&id, true, "").await;
    let asks_for = |wanted: Remedy, words: &'static str| {
        let (controller, id) = (&machine.controller, &id);
        async move {
            let found = controller.report(id, |report| match &report.phase {
                Phase::Health { remedy, detail, .. } if *remedy == Some(wanted) => {
                    Some(detail.clone())
                }
                _ => None,
            });
            let detail = found.await;
            assert!(detail.contains(words), "{detail}");
        }
    };
    for _ in 0..3 {
        ask(port, "/fail").await;
    }
    asks_for(
        Remedy::Restart,
        "exceptions_total is 3 more within 1m, above 2",
    )
    .await;
    ask(port, "/slow").await;
    asks_for(
        Remedy::Move,
        "request_seconds{quantile=\"0.99\"} is 1.5, above 0.5",
    )
    .await;
}

#[tokio::test]
async fn a_file_of_metrics_may_be_anything_and_leads_nowhere() {
    let machine = Machine::new();
    let check = json!({
        "type": "metric", "metric": "n", "file": "/tmp/n", "above_millionths": 5_000_000,
        "every_ms": 50, "timeout_ms": 2000, "failures": 1, "remedy": "restart",
    });
    let task = assignment(
        "odd",
        json!({"command": ["sleep", "60"], "health": [check]}),
    );
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.health(&id, false, "/tmp/n: ").await;
    let tries = [
        ("mkfifo n", "not a file"),
        ("ln -s /dev/zero n", "not a file"),
        ("ln -s /proc/self/root/etc/passwd n", "/tmp/n: "),
        ("echo m 1 > n", "there is no number n"),
    ];
    let run = |session: String, script: String| {
        let request = ExecRequest {
            task: id.clone(),
            argv: vec!["sh".to_owned(), "-c".to_owned(), script],
            terminal: None,
            debug: false,
            credit: false,
        };
        let machine = &machine;
        async move {
            let request = SessionRequest::Exec(request);
            machine.session(&session, request, &[]).await;
        }
    };
    for (number, (script, words)) in tries.into_iter().enumerate() {
        // Only a change of health is told.
        machine.controller.drop_reports_of(&id);
        run(
            format!("well-{number}"),
            "rm -rf /tmp/n; echo n 1 > /tmp/n".to_owned(),
        )
        .await;
        machine.health(&id, true, "").await;
        run(
            format!("odd-{number}"),
            format!("rm -rf /tmp/o; mkdir /tmp/o; cd /tmp/o; {script}; mv -T n /tmp/n"),
        )
        .await;
        machine.health(&id, false, words).await;
    }
}

#[tokio::test]
async fn what_tasks_use_is_on_a_page_for_prometheus() {
    let mut machine = Machine::without_agent();
    let address = format!("127.0.0.1:{}", free_port());
    machine.start_saying(&["--metrics", &address]);
    let spec = json!({
        "command": ["sh", "-c", "while :; do :; done"],
        "resources": {"memory_bytes": 32 << 20, "pids": 7},
        "limits": {"cpu_max_millicores": 50},
    });
    let task = assignment("busy", spec);
    let absent = assignment("absent", json!({"command": ["/no/such/program"]}));
    machine.snapshot(&[task.clone(), absent.clone()]).await;
    machine.running(&task.task.id).await;
    machine.never_started(&absent.task.id).await;
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    let sum = |page: &str, selector: &str| selector.parse::<MetricSelector>().unwrap().sum(page);
    let is_busy = r#"{namespace="default",job="busy",index="0",incarnation="1"}"#;
    let of_task = |name: &str| format!("{name}{is_busy}");
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    let page = loop {
        let page = ask(port, "/metrics").await;
        let throttled = sum(&page, &of_task("twill_task_cpu_throttled_seconds_total"));
        if throttled.is_some_and(|seconds| seconds > 0.0) {
            break page;
        }
        assert!(std::time::Instant::now() < deadline, "{page}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(sum(&page, &of_task("twill_task_cpu_usage_seconds_total")).unwrap() > 0.0);
    assert!(sum(&page, &of_task("twill_task_memory_usage_bytes")).unwrap() > 0.0);
    assert_eq!(
        sum(&page, &of_task("twill_task_memory_limit_bytes")),
        Some(f64::from(32 << 20))
    );
    assert_eq!(
        sum(&page, &of_task("twill_task_processes_limit")),
        Some(7.0)
    );
    assert_eq!(
        sum(&page, &of_task("twill_task_oom_kills_total")),
        Some(0.0)
    );
    assert_eq!(sum(&page, "twill_agent_task_starts_total"), Some(1.0));
    assert!(sum(&page, "twill_agent_sampling_cpu_seconds_total") > Some(0.0));
    assert_eq!(
        sum(&page, "twill_agent_task_start_failures_total"),
        Some(1.0)
    );
    assert_eq!(
        sum(&page, "twill_agent_info{machine=\"machine-1\"}"),
        Some(1.0)
    );
    assert!(ask(port, "/").await.contains("404 Not Found"));
}

async fn ask(port: u16, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
