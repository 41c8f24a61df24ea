//! What people see and ask for.

use serde_json::{Value, json};
use tw_api::{EventsReply, HealthReply, SpecReply, UsageReply, UsageReport, UsageReports};
use tw_model::{
    Bytes, Code, Cores, Desired, EventRecord, MetricSelector, TaskUsage, Timestamp, UsageSum,
};

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_plan_is_refused_with_what_has_moved() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let _agent = Agent::start(&server.client, "m1").await;
    let one = [job("web", json!({ "replicas": 1 }))];
    let two = [job("web", json!({ "replicas": 2 }))];
    let stale = plan(&server.client, &one).await;
    let applied = apply(&server.client, &two).await;
    assert_eq!(
        (applied.jobs[0].version, applied.jobs[0].changed),
        (1, true)
    );

    let digest = stale["digest"].as_str().unwrap();
    let refused = refusal(apply_plan(&server.client, &one, digest).await);
    assert_eq!((refused.code, refused.status()), (Code::PlanStale, 409));
    assert!(refused.details.to_string().contains("web"), "{refused:?}");
    assert!(refused.hint.is_some());
    assert_eq!(status(&server.client, "web").await.job.version, 1);

    // The same again does nothing, and says so.
    let same = apply(&server.client, &two).await;
    assert_eq!((same.jobs[0].version, same.jobs[0].changed), (1, false));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_says_which_job_it_waits_for() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;
    agent.say(&task, running()).await;
    let newer = json!({ "env": { "NEW": "1" }, "depends_on": ["redis"] });
    apply(&server.client, &[job("web", newer)]).await;
    let web = until(&server.client, "web", |web| web.job.rollout.is_some()).await;
    let reason = web.job.rollout.expect("it is under way").reason;
    assert_eq!(reason, "waits for redis, which does not exist");
    assert_eq!(web.tasks[0].version, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn specs_versions_and_events_of_a_job_can_be_read() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let mut agent = Agent::start(&server.client, "m1").await;
    apply(&server.client, &[job("web", json!({}))]).await;
    apply(&server.client, &[job("web", json!({ "owner": "shop" }))]).await;
    let spec: SpecReply = server
        .client
        .get("/v1/jobs/default/web/spec")
        .await
        .unwrap();
    assert_eq!((spec.current, spec.job.spec.owner.as_str()), (2, "shop"));
    assert_eq!(spec.job.source.file, "config.tw");
    assert_eq!(spec.versions.len(), 2);
    assert_eq!(spec.versions[0].by, "root");
    let first: SpecReply = server
        .client
        .get("/v1/jobs/default/web/spec?version=1")
        .await
        .unwrap();
    assert_eq!(first.job.spec.owner, "");

    let path = "/v1/jobs/default/web/events";
    let all: EventsReply = server.client.get(path).await.unwrap();
    assert!(all.events.len() >= 2);
    let after = all.events[0].seq;
    let newer: EventsReply = server
        .client
        .get(&format!("{path}?after={after}"))
        .await
        .unwrap();
    assert_eq!(newer.events, all.events[1..]);

    // Followers get what was, and then what comes, without a gap.
    let mut watch = server
        .client
        .events("/v1/jobs/default/web/watch?after=0")
        .await
        .unwrap();
    let mut everywhere = server
        .client
        .events("/v1/events/stream?job=web")
        .await
        .unwrap();
    let task = agent
        .assigned(|one| one.task.desired == Desired::Run)
        .await
        .task
        .id;
    agent.say(&task, running()).await;
    let mut seq = 0;
    loop {
        let event: EventRecord = watch.next().await.unwrap().unwrap();
        assert_eq!(event.seq, seq + 1);
        seq = event.seq;
        if event.kind == "task.started" || event.kind == "task.running" {
            break;
        }
    }
    let event: EventRecord = everywhere.next().await.unwrap().unwrap();
    assert!(event.seq > all.events.len() as u64 - 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tasks_use_now_is_kept_in_memory_alone() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let (mut agent, task) = Agent::with_web(&server.client).await;
    agent.say(&task, running()).await;
    let sample = |number| TaskUsage {
        task: task.clone(),
        cpu: Cores(70 + number),
        memory: Bytes::mib(20),
        memory_peak: Bytes::mib(30),
        cpu_limit: Cores(100),
        memory_limit: Bytes::mib(64),
        cpu_recommended: None,
        memory_recommended: None,
        history_ms: 1000,
        samples: number,
        ooms: 0,
        followed: None,
    };
    for number in 1..=3 {
        agent.send(Vec::new(), vec![sample(number)]).await.unwrap();
    }
    let usage: UsageReply = server
        .client
        .get("/v1/jobs/default/web/usage")
        .await
        .unwrap();
    assert_eq!(usage.tasks, [sample(3)]);
    assert_eq!(usage.cpu_request_millicores, 100);
    assert_eq!(
        status(&server.client, "web").await.tasks[0].usage,
        Some(sample(3))
    );
    server.stop().await;
}

/// Five-minute reports of a job for so many days, a task using half a core and 100 MiB, numbered from 1.
fn reports(days: u64) -> UsageReports {
    let now = Timestamp(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_micros() as i64,
    );
    let slots = days * 288;
    let report = |slot: u64| UsageReport {
        job: "web".parse().unwrap(),
        version: 1,
        start: Timestamp(now.0 - (slots - slot) as i64 * 300_000_000),
        width_ms: 300_000,
        usage: (0..10).fold(UsageSum::default(), |mut sum, _| {
            sum.merge(&UsageSum::sample(500, 100 << 20));
            sum
        }),
    };
    UsageReports {
        origin: "m1-history".to_owned(),
        reports: (0..slots).map(|slot| (slot + 1, report(slot))).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_machines_report_late_and_twice_is_one_history_with_its_advice() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let agent = Agent::start(&server.client, "m1").await;
    let resources = json!({"cpu_millicores": 4000, "memory_bytes": 2_u64 << 30});
    apply(
        &server.client,
        &[job("web", json!({"resources": resources}))],
    )
    .await;
    let usage = async || -> UsageReply {
        let path = "/v1/jobs/default/web/usage";
        server.client.get(path).await.unwrap()
    };
    assert_eq!(usage().await.history, None);

    let mut all = reports(8);
    let last = all.reports.len() as u64;
    // A machine whose clock is years ahead is not believed, and not asked again either.
    let mut ahead = all.reports[0].1.clone();
    ahead.start = ahead.start.plus(tw_model::Millis::hours(10 * 365 * 24));
    all.reports.push((last + 1, ahead));
    for part in all.reports.chunks(100) {
        let part = UsageReports {
            origin: all.origin.clone(),
            reports: part.to_vec(),
        };
        let kept = agent.report_use(part.clone()).await;
        assert_eq!(kept, part.reports.last().unwrap().0);
        assert_eq!(agent.report_use(part).await, kept, "sent again");
    }
    let history = usage().await.history.unwrap();
    // Hours that began before the first report count whole.
    assert!(history.samples.abs_diff(last) <= 24, "{}", history.samples);
    assert_eq!(history.confidence, "high");
    assert_eq!((history.memory_exceeded, history.cpu_exceeded), (0, 0));
    let memory = history.memory_recommended.unwrap();
    assert!(
        memory > Bytes::mib(100) && memory < Bytes::mib(200),
        "{memory}"
    );
    let cpu = history.cpu_recommended.unwrap();
    assert!(cpu >= Cores(500) && cpu < Cores(700), "{cpu}");
    assert!(history.points.len() <= 168 && history.points.len() > 80);
    assert_eq!(history.measured.len(), 1);
    assert!(
        history.measured[0].starts_with("v1 on "),
        "{:?}",
        history.measured
    );
    server.stop().await;
}

const YEAR_0: Timestamp = Timestamp(-62_167_219_200_000_000);
const YEAR_9999: Timestamp = Timestamp(253_370_764_800_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn hostile_reports_of_use_change_nothing_and_are_not_asked_for_again() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let agent = Agent::start(&server.client, "m1").await;
    apply(&server.client, &[job("web", json!({}))]).await;
    let advice = async || -> UsageReply {
        let path = "/v1/jobs/default/web/usage";
        server.client.get(path).await.unwrap()
    };
    let good = reports(3);
    let last = good.reports.len() as u64;
    assert_eq!(agent.report_use(good.clone()).await, last);
    let before = advice().await.history.unwrap();

    let spoil = |change: fn(&mut UsageReport)| {
        let mut report = good.reports[0].1.clone();
        change(&mut report);
        report
    };
    let hostile = [
        spoil(|report| report.start = Timestamp(-1)),
        spoil(|report| report.start = YEAR_0),
        spoil(|report| report.start = YEAR_9999),
        spoil(|report| report.usage.throttled_us = u64::MAX),
        spoil(|report| report.usage.cpu_sum_millicores = u64::MAX),
        spoil(|report| report.usage.memory_max_bytes = u64::MAX),
        spoil(|report| report.usage.oom_kills = u64::MAX),
        spoil(|report| report.usage.samples = u64::MAX),
        spoil(|report| report.job = "default/no-such-job".parse().unwrap()),
    ];
    let hostile = UsageReports {
        origin: good.origin.clone(),
        reports: (last + 1..).zip(hostile).collect(),
    };
    assert_eq!(agent.report_use(hostile).await, last + 9);
    let after = advice().await.history.unwrap();
    assert_eq!(
        (after.samples, after.cpu_samples, after.ooms),
        (before.samples, before.cpu_samples, before.ooms)
    );
    assert_eq!(after.memory_recommended, before.memory_recommended);
    assert_eq!(after.cpu_recommended, before.cpu_recommended);

    // Widths that no agent has are read as the nearest that one may have.
    let odd = [0, u64::MAX].map(|width_ms| UsageReport {
        width_ms,
        ..good.reports[0].1.clone()
    });
    let odd = UsageReports {
        origin: good.origin.clone(),
        reports: (last + 10..).zip(odd).collect(),
    };
    assert_eq!(agent.report_use(odd).await, last + 11);
    assert!(advice().await.history.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_was_wrong_and_where() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let health: HealthReply = server.client.get("/v1/health").await.unwrap();
    assert!(health.ready);

    let missing = refusal(server.client.get::<Value>("/v1/jobs/default/web").await);
    assert_eq!((missing.code, missing.status()), (Code::JobNotFound, 404));
    let name = refusal(server.client.get::<Value>("/v1/jobs/default/Web").await);
    assert_eq!(name.code, Code::RequestInvalid);
    let nowhere = refusal(server.client.get::<Value>("/v2/jobs").await);
    assert_eq!(
        (nowhere.code, nowhere.status()),
        (Code::RequestNotFound, 404)
    );
    let query = refusal(
        server
            .client
            .get::<Value>("/v1/jobs?namespce=default")
            .await,
    );
    assert!(query.message.contains("namespce"), "{query}");

    let bad = json!({ "jobs": [{ "spec": { "name": "web", "replicas": "two" }, "source": {} }] });
    let refused = refusal(server.client.post::<_, Value>("/v1/plan", &bad).await);
    assert_eq!(
        (refused.code, refused.status()),
        (Code::RequestInvalid, 400)
    );
    assert!(refused.message.contains("jobs[0].spec"), "{refused}");
    let method = server.client.post::<_, Value>("/v1/jobs", &json!({})).await;
    assert_eq!(refusal(method).code, Code::RequestInvalid);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_of_one_name_and_circles_are_refused() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let twice = tw_api::PlanRequest {
        jobs: vec![job("web", json!({})), job("web", json!({ "replicas": 2 }))],
        ..tw_api::PlanRequest::default()
    };
    let refused = refusal(server.client.post::<_, Value>("/v1/plan", &twice).await);
    assert_eq!(refused.code, Code::SpecDuplicateJob);
    let circle = tw_api::PlanRequest {
        jobs: vec![
            job("a", json!({ "depends_on": ["b"] })),
            job("b", json!({ "depends_on": ["a"] })),
        ],
        ..tw_api::PlanRequest::default()
    };
    let refused = refusal(server.client.post::<_, Value>("/v1/plan", &circle).await);
    assert_eq!(refused.code, Code::JobDependencyCycle);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_jobs_and_machines() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let _agent = Agent::start(&server.client, "m1").await;
    apply(&server.client, &[job("web", json!({}))]).await;
    let page = server.client.get_bytes("/").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(page.starts_with("<!doctype html>"));
    assert!(page.contains("web.0#1") && page.contains("m1"), "{page}");
    server.stop().await;
}

#[tokio::test]
async fn why_tasks_wait_is_told_live() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    apply(&server.client, &[job("web", json!({"replicas": 2}))]).await;
    let path = "/v1/jobs/default/web/why";
    let reply: tw_api::WhyReply = server.client.get(path).await.unwrap();
    assert_eq!(reply.waiting.len(), 1);
    assert_eq!(reply.waiting[0].indexes, [0, 1]);
    assert_eq!(reply.waiting[0].message, "there is no machine");
    assert_eq!(reply.waiting[0].why["why"], "no_room");
    let mut agent = Agent::start(&server.client, "m1").await;
    agent.assigned(|one| one.task.desired == Desired::Run).await;
    let reply: tw_api::WhyReply = server.client.get(path).await.unwrap();
    assert!(reply.waiting.is_empty(), "{reply:?}");
    let large = json!({"replicas": 2, "resources": {"cpu_millicores": 1_000_000}});
    apply(&server.client, &[job("large", large)]).await;
    let path = "/v1/jobs/default/large/why";
    let reply: tw_api::WhyReply = server.client.get(path).await.unwrap();
    let said = &reply.waiting[0].message;
    assert_eq!(reply.waiting.len(), 1, "{reply:?}");
    assert!(said.contains("one of them would fit on m1"), "{said}");
    let missing = server
        .client
        .get::<tw_api::WhyReply>("/v1/jobs/default/nothing/why")
        .await;
    assert!(missing.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_machines_are_counted_on_a_page_for_prometheus() {
    let folder = Folder::new();
    let server = Server::start(config(&folder.state())).await;
    let _agent = Agent::start(&server.client, "m1").await;
    apply(&server.client, &[job("web", json!({ "replicas": 2 }))]).await;
    let page = server.client.get_bytes("/metrics").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let sum = |selector: &str| selector.parse::<MetricSelector>().unwrap().sum(&page);
    assert_eq!(
        sum("twill_job_tasks_wanted{namespace=\"default\",job=\"web\"}"),
        Some(2.0)
    );
    assert_eq!(sum("twill_tasks{job=\"web\"}"), Some(2.0));
    assert_eq!(sum("twill_job_restarts_total"), Some(0.0));
    assert_eq!(sum("twill_machine_up{machine=\"m1\"}"), Some(1.0));
    server.stop().await;
}
