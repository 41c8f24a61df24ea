//! The loop as people see it: jobs run, fail, wait, move and end.

use crate::cluster::{Cluster, batch, id, service, spec};
use serde_json::json;
use tw_model::{
    Code, EVENTS_KEPT, Kind, MachineState, Millis, Phase, TaskId, TaskReport, TaskState,
};
use tw_scheduler::lease::Tenure;
use tw_scheduler::{
    Broker, Event, PendingWhy, Reply, SchedulerConfig, State, Submission, assignments, endpoints,
    step, why_pending,
};

#[test]
fn two_lines_run() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    cluster.submit(&[spec(json!({"name": "hello", "command": ["echo", "hello"]}))]);
    cluster.settle("hello");
    assert_eq!(cluster.task("hello", 0).state, TaskState::Running);
    assert_eq!(cluster.task("hello", 0).id.to_string(), "hello.0#1");
    let kinds = cluster.events("hello");
    assert_eq!(
        kinds,
        [
            "job.submitted",
            "task.placed",
            "task.started",
            "job.healthy"
        ]
    );
}

#[test]
fn scaling_fills_the_lowest_indexes_and_takes_the_highest() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 2, "web")]);
    cluster.settle("web");
    cluster.submit(&[service("web", 4, "web")]);
    cluster.settle("web");
    let first: Vec<u64> = (0..4)
        .map(|index| cluster.task("web", index).id.incarnation)
        .collect();
    assert_eq!(first, [1, 2, 3, 4], "what ran before is untouched");
    cluster.submit(&[service("web", 1, "web")]);
    cluster.until("the rest is gone", |cluster| {
        (1..4).all(|index| cluster.task("web", index).state == TaskState::Done)
    });
    assert_eq!(cluster.task("web", 0).id.incarnation, 1);
    assert_eq!(cluster.task("web", 0).state, TaskState::Running);
}

#[test]
fn replicas_are_spread_over_machines() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 3, "web")]);
    let mut machines: Vec<String> = (0..3)
        .map(|index| cluster.machine_of("web", index))
        .collect();
    machines.sort();
    assert_eq!(machines, ["m0", "m1", "m2"]);
}

#[test]
fn a_small_task_goes_where_little_is_left() {
    let mut cluster = Cluster::new(&[(16, 16384), (2, 1024)]);
    cluster.submit(&[service("small", 1, "web")]);
    assert_eq!(cluster.machine_of("small", 0), "m1");
}

#[test]
fn a_lost_machine_is_replaced_and_fenced() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 3, "web")]);
    cluster.settle("web");
    let lost = (0..3)
        .find(|index| cluster.machine_of("web", *index) == "m1")
        .expect("one is there");
    let old = cluster.task("web", lost).id.clone();

    cluster.silent.push("m1".to_owned());
    let machine = "m1".parse().unwrap();
    cluster.decide(Event::MachineLost { machine, silent: 1 });
    assert_eq!(cluster.state.task(&old).unwrap().state, TaskState::Lost);
    cluster.until("it runs elsewhere", |cluster| cluster.serving("web") == 3);
    assert_ne!(cluster.machine_of("web", lost), "m1");
    assert_eq!(cluster.task("web", lost).restarts, 1);

    // It was only cut off. What it says under its old epoch does not count.
    let late = Event::Reports {
        machine: "m1".parse().unwrap(),
        epoch: 1,
        reports: vec![],
    };
    assert!(matches!(cluster.decide(late), Reply::Fenced { epoch: 2 }));
    let started_at = cluster.now;
    let still = vec![TaskReport {
        seq: 9,
        task: old.clone(),
        phase: Phase::Running { started_at },
    }];
    let reply = cluster.register("m1", "boot-1", (8, 8192), still);
    assert!(matches!(reply, Reply::Registered { epoch: 2 }));
    let m1 = "m1".parse().unwrap();
    assert_eq!(
        assignments(&cluster.state, &m1).count(),
        0,
        "so the agent ends what is left"
    );
    assert_eq!(
        cluster.state.task(&old).unwrap().state,
        TaskState::Lost,
        "ended stays ended"
    );
}

#[test]
fn an_agent_that_starts_again_finds_its_tasks_untouched() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 2, "web")]);
    cluster.settle("web");
    let before: Vec<_> = cluster.job("web").tasks().cloned().collect();
    let reports = before.iter().enumerate().map(|(number, row)| TaskReport {
        seq: number as u64 + 1,
        task: row.id.clone(),
        phase: Phase::Health {
            healthy: true,
            detail: String::new(),
            remedy: Default::default(),
        },
    });
    let reply = cluster.register("m0", "boot-1", (8, 8192), reports.collect());
    assert!(matches!(reply, Reply::Registered { epoch: 1 }));
    cluster.pass(Millis::seconds(5));
    let after: Vec<_> = cluster
        .job("web")
        .tasks()
        .map(|row| row.id.clone())
        .collect();
    assert_eq!(
        after,
        before.iter().map(|row| row.id.clone()).collect::<Vec<_>>()
    );
    // Its reports count from one again, and are heard.
    let task = before[0].id.clone();
    let detail = "status 500".to_owned();
    cluster.report_as(
        &task,
        Phase::Health {
            healthy: false,
            detail,
            remedy: Default::default(),
        },
        3,
    );
    assert_eq!(cluster.state.task(&task).unwrap().healthy, Some(false));
}

#[test]
fn a_new_boot_id_ends_what_ran() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 1, "web")]);
    cluster.settle("web");
    let old = cluster.task("web", 0).id.clone();
    let reply = cluster.register("m0", "boot-2", (8, 8192), Vec::new());
    assert!(matches!(reply, Reply::Registered { epoch: 2 }));
    assert_eq!(cluster.state.task(&old).unwrap().state, TaskState::Lost);
    cluster.until("it runs again", |cluster| cluster.serving("web") == 1);
}

#[test]
fn a_task_that_its_agent_lost_is_replaced() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 1, "web")]);
    cluster.settle("web");
    let old = cluster.task("web", 0).id.clone();
    cluster.register("m0", "boot-1", (8, 8192), Vec::new());
    assert_eq!(cluster.state.task(&old).unwrap().state, TaskState::Lost);
}

#[test]
fn silence_counts_from_the_recovery() {
    let cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let (m0, m1) = ("m0".parse().unwrap(), "m1".parse().unwrap());
    let mut broker = Broker::new(&SchedulerConfig::default(), Tenure::WhileAlive, 50_000);
    assert!(broker.due(&cluster.state, 60_000).is_empty());
    broker.heard(&m0, 55_000);
    let due = broker.due(&cluster.state, 60_001);
    assert!(
        matches!(&due[..], [Event::MachineLost { machine, silent: 2 }] if *machine == m1),
        "{due:?}"
    );
    assert_eq!(broker.silence(&m0, 60_001), Millis(5_001));
}

#[test]
fn restarts_wait_longer_each_time_and_then_try_another_machine() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 1, "crash")]);
    let mut waits = Vec::new();
    let mut machines = vec![cluster.machine_of("web", 0)];
    for _ in 0..5 {
        cluster.until("it failed", |cluster| {
            cluster.task("web", 0).state == TaskState::Pending
        });
        let row = cluster.task("web", 0);
        waits.push(row.not_before.expect("it waits").since(row.created_at).0);
        assert!(row.reason.contains("exit code 1"), "{}", row.reason);
        cluster.until("it tries again", |cluster| {
            cluster.task("web", 0).machine.is_some()
        });
        machines.push(cluster.machine_of("web", 0));
    }
    for (wait, full) in waits.iter().zip([1000, 2000, 4000, 8000, 16_000]) {
        assert!((full * 3 / 4..=full).contains(wait), "{waits:?}");
    }
    assert_eq!(
        machines[0], machines[1],
        "the first time on the same machine"
    );
    assert_ne!(machines[1], machines[2], "not a third time in a row");
    assert_eq!(cluster.task("web", 0).restarts, 5);
    assert_eq!(
        cluster
            .job("web")
            .tasks()
            .filter(|row| row.state.is_terminal())
            .count(),
        3
    );
}

#[test]
fn a_long_run_forgives_earlier_failures() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut job = service("web", 1, "web");
    job.restart.reset_after = Millis::seconds(60);
    cluster.submit(&[job]);
    for expected in [1, 2] {
        cluster.until("it runs", |cluster| {
            cluster.task("web", 0).state == TaskState::Running
        });
        let task = cluster.task("web", 0).id.clone();
        cluster.exited(&task, 3);
        assert_eq!(cluster.task("web", 0).failures, expected);
    }
    cluster.until("it runs", |cluster| cluster.serving("web") == 1);
    cluster.pass(Millis::seconds(61));
    let task = cluster.task("web", 0).id.clone();
    cluster.exited(&task, 3);
    assert_eq!(cluster.task("web", 0).failures, 1);
}

#[test]
fn a_batch_job_tries_again_and_is_done() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[batch("nightly", "work", 3)]);
    for code in [1, 1, 0] {
        cluster.until("it runs", |cluster| {
            cluster.task("nightly", 0).state == TaskState::Running
        });
        let task = cluster.task("nightly", 0).id.clone();
        cluster.exited(&task, code);
    }
    cluster.settle("nightly");
    let row = cluster.task("nightly", 0);
    assert_eq!((row.state, row.restarts), (TaskState::Done, 2));
    assert!(cluster.events("nightly").contains(&"job.done".to_owned()));
    cluster.pass(Millis::seconds(60));
    assert_eq!(cluster.task("nightly", 0).id.incarnation, 3, "done is done");
}

#[test]
fn a_batch_job_without_attempts_left_has_failed_until_it_is_applied_again() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[batch("nightly", "crash", 2)]);
    cluster.pass(Millis::seconds(60));
    let row = cluster.task("nightly", 0);
    assert_eq!(
        (row.state, row.failures, row.id.incarnation),
        (TaskState::Failed, 3, 3)
    );
    let job = id("nightly");
    let failed = cluster
        .state
        .events(&job)
        .rfind(|event| event.kind == "task.failed");
    assert_eq!(failed.unwrap().message, "exit code 1; no attempt is left");
    let plan = cluster.submit(&[batch("nightly", "crash", 2)]);
    assert_eq!(plan.counts.restarted, 1);
    assert!(!cluster.task("nightly", 0).state.is_terminal());
}

#[test]
fn a_job_waits_for_the_health_of_another() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut worker = service("worker", 1, "work");
    worker.depends_on = vec!["redis".parse().unwrap()];
    cluster.submit(std::slice::from_ref(&worker));
    assert_eq!(cluster.task("worker", 0).state, TaskState::Pending);
    assert_eq!(
        cluster.task("worker", 0).reason,
        "waits for redis, which does not exist"
    );
    cluster.submit(&[service("redis", 1, "sick")]);
    cluster.pass(Millis::seconds(10));
    assert_eq!(
        cluster.task("worker", 0).reason,
        "waits for redis, which has no healthy task yet"
    );
    cluster.submit(&[service("redis", 1, "redis")]);
    cluster.until("redis is up", |cluster| cluster.serving("redis") == 1);
    assert_ne!(
        cluster.task("worker", 0).state,
        TaskState::Pending,
        "it starts at once"
    );
}

#[test]
fn to_wait_for_another_job_does_not_fail_an_update() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut worker = service("worker", 2, "work");
    worker.rollout.deadline = Millis::minutes(2);
    cluster.submit(std::slice::from_ref(&worker));
    cluster.settle("worker");
    worker.depends_on = vec!["redis".parse().unwrap()];
    worker.command.0.push("more".to_owned());
    cluster.submit(&[worker, service("redis", 1, "sick")]);
    cluster.pass(Millis::minutes(15));
    let row = cluster.job("worker").row();
    let awaits = row.rollout.as_ref().map(|rollout| rollout.awaits.as_str());
    assert_eq!(
        awaits,
        Some("waits for redis, which has no healthy task yet")
    );
    assert_eq!(cluster.serving("worker"), 2, "{}", cluster.show());
    assert!(
        cluster
            .events("worker")
            .contains(&"rollout.waits".to_owned())
    );
    cluster.submit(&[service("redis", 1, "redis")]);
    cluster.settle("worker");
    assert_eq!(cluster.task("worker", 0).version, 2);
}

#[test]
fn an_update_that_waits_for_another_job_still_does_what_ends_no_task() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut worker = service("worker", 2, "work");
    cluster.submit(std::slice::from_ref(&worker));
    cluster.settle("worker");
    worker.depends_on = vec!["redis".parse().unwrap()];
    worker.resources.memory = tw_model::Bytes::mib(300);
    cluster.submit(&[worker]);
    cluster.settle("worker");
    assert_eq!(
        (cluster.serving("worker"), cluster.task("worker", 1).version),
        (2, 2)
    );
    assert!(
        !cluster
            .events("worker")
            .contains(&"rollout.waits".to_owned())
    );
}

/// The update, or the way back, may be the cure of the job that both versions need.
#[test]
fn what_the_version_before_needed_as_well_holds_no_update_up() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut worker = service("worker", 2, "work");
    worker.depends_on = vec!["redis".parse().unwrap()];
    cluster.submit(&[worker.clone(), service("redis", 1, "redis")]);
    cluster.settle("worker");
    cluster.submit(&[service("redis", 1, "sick")]);
    cluster.until("redis is ill", |cluster| cluster.serving("redis") == 0);
    worker.command.0.push("cure".to_owned());
    cluster.submit(&[worker]);
    cluster.pass(Millis::seconds(30));
    let row = cluster.task("worker", 0);
    assert_eq!(
        row.reason, "waits for redis, which has no healthy task yet",
        "one made way"
    );
    assert_eq!(cluster.serving("worker"), 1, "{}", cluster.show());
    cluster.submit(&[service("redis", 1, "redis")]);
    cluster.settle("worker");
    assert_eq!(cluster.task("worker", 1).version, 2);
}

#[test]
fn jobs_that_would_wait_for_each_other_are_refused() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let waiting = |name: &str, other: &str| {
        let mut job = service(name, 1, "x");
        job.depends_on = vec![other.parse().unwrap()];
        job
    };
    cluster.submit(&[waiting("a", "b"), waiting("b", "c")]);
    let submission = Cluster::submission(&[waiting("c", "a")]);
    let expected = None;
    let reply = cluster.decide(Event::Submit {
        submission,
        expected,
    });
    let Reply::Refused(refusal) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(refusal.code, Code::JobDependencyCycle);
    assert!(
        refusal.message.ends_with("c -> a -> b -> c"),
        "{}",
        refusal.message
    );
    assert!(cluster.state.job(&id("c")).is_none());
}

#[test]
fn a_task_without_room_says_by_how_much() {
    let mut cluster = Cluster::new(&[(1, 1024), (2, 2048)]);
    let mut big = service("big", 1, "x");
    big.resources.cpu = tw_model::Cores(3000);
    big.resources.memory = tw_model::Bytes::mib(1536);
    let plan = cluster.submit(&[big]);
    let verdict = plan.jobs[0].verdict.to_string();
    assert_eq!(
        verdict,
        "does not fit: 1 task would wait, cpu short on 2 of 2 by at least 1 core, \
         memory short on 1 of 2 by at least 512 MiB; with cpu ≤ 2 cores it would fit on m1; \
         no machine is large enough even when empty"
    );
    let row = cluster.task("big", 0).clone();
    assert_eq!(row.state, TaskState::Pending);
    assert!(
        row.reason.starts_with("no machine has room"),
        "{}",
        row.reason
    );
    let why = why_pending(&cluster.state, &row.id, cluster.now);
    let Some(PendingWhy::NoRoom(why)) = why else {
        panic!("{why:?}");
    };
    assert_eq!((why.machines, why.never), (2, true));
    // A larger machine takes it.
    cluster.register("m2", "boot-1", (4, 4096), Vec::new());
    cluster.decide(Event::Tick);
    assert_eq!(cluster.machine_of("big", 0), "m2");
}

#[test]
fn ports_are_never_shared_and_a_taken_one_is_not_tried_again() {
    let mut cluster = Cluster::new(&[(64, 65536)]);
    cluster.submit(&[service("web", 90, "web")]);
    let mut ports: Vec<u16> = cluster
        .job("web")
        .tasks()
        .flat_map(|row| row.ports.values().copied())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 90);
    let first = cluster.task("web", 0).clone();
    let phase = Phase::NeverStarted {
        code: Code::TaskPortInUse,
        message: "a stranger listens there".to_owned(),
        at: cluster.now,
    };
    cluster.report(&first.id, phase);
    cluster.until("it has a new port", |cluster| {
        cluster.task("web", 0).machine.is_some()
    });
    assert_ne!(cluster.task("web", 0).ports, first.ports);
}

#[test]
fn reports_may_come_twice_late_and_about_anything() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 1, "web")]);
    let task = cluster.task("web", 0).id.clone();
    let health = |healthy| Phase::Health {
        healthy,
        detail: String::new(),
        remedy: Default::default(),
    };
    // The start was overtaken.
    cluster.report_as(&task, health(true), 5);
    assert_eq!(cluster.task("web", 0).state, TaskState::Running);
    let started_at = cluster.now.plus(Millis(7));
    cluster.report_as(&task, Phase::Running { started_at }, 3);
    assert_eq!(cluster.task("web", 0).started_at, Some(started_at));
    cluster.report_as(&task, health(false), 4);
    assert_eq!(
        cluster.task("web", 0).healthy,
        Some(true),
        "older news is no news"
    );
    let before: Vec<_> = cluster.state.records().collect();
    cluster.report_as(&task, health(true), 5);
    assert_eq!(
        before,
        cluster.state.records().collect::<Vec<_>>(),
        "the same again is nothing"
    );

    let unknown = [
        TaskId::new(id("web"), 0, 99),
        TaskId::new(id("web"), 7, 1),
        TaskId::new(id("nobody"), 0, 1),
    ];
    let reports = unknown.map(|task| TaskReport {
        seq: 9,
        task,
        phase: health(true),
    });
    let reply = cluster.decide(Event::Reports {
        machine: "m0".parse().unwrap(),
        epoch: 1,
        reports: reports.to_vec(),
    });
    let Reply::Reported { refused } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(refused.len(), 3);
}

#[test]
fn a_stopped_job_ends_and_begins_again_when_applied() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let web = service("web", 2, "web");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    assert_eq!(
        endpoints(&cluster.state)
            .values()
            .map(Vec::len)
            .sum::<usize>(),
        2
    );
    let reply = cluster.stop("web");
    assert!(matches!(reply, Reply::Submitted(plan) if plan.counts.stopped == 2));
    assert!(
        endpoints(&cluster.state).is_empty(),
        "it leaves discovery at once"
    );
    cluster.until("it is gone", |cluster| {
        cluster
            .job("web")
            .tasks()
            .all(|row| row.state == TaskState::Done)
    });
    let plan = cluster.submit(&[web]);
    assert_eq!(
        (plan.counts.started, plan.jobs[0].change.clone()),
        (2, None)
    );
    cluster.until("it is back", |cluster| cluster.serving("web") == 2);
    let unknown = cluster.stop("web-2");
    assert!(matches!(unknown, Reply::Refused(refusal) if refusal.code == Code::JobNotFound));
}

#[test]
fn a_restart_replaces_every_task_within_the_budget() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 4, "web")]);
    cluster.settle("web");
    let by = "ann".to_owned();
    cluster.decide(Event::RestartJob { job: id("web"), by });
    while !cluster.settled("web") {
        cluster.pass(Millis(500));
        assert!(cluster.serving("web") >= 3, "{}", cluster.show());
    }
    assert!((0..4).all(|index| cluster.task("web", index).id.incarnation > 4));
    assert!(
        (0..4).all(|index| cluster.task("web", index).restarts == 0),
        "it was asked for"
    );
}

#[test]
fn a_large_decision_is_cut_where_every_prefix_is_a_state() {
    let mut cluster = Cluster::new(&[(256, 1 << 20), (256, 1 << 20)]);
    let web = {
        let mut web = service("web", 150, "web");
        web.ports.clear();
        web.health.clear();
        web
    };
    let event = Event::Submit {
        submission: Cluster::submission(&[web]),
        expected: None,
    };
    let decision = step(&cluster.state, &event, cluster.now, 1);
    assert!(decision.txns.len() > 1);
    assert!(
        decision
            .txns
            .iter()
            .all(|txn| txn.ops.len() <= tw_scheduler::TXN_OPS_MAX)
    );
    for kept in 1..=decision.txns.len() {
        let mut state = cluster.state.clone();
        decision.txns[..kept]
            .iter()
            .for_each(|txn| state.apply(txn));
        let recovered = State::from_records(state.records());
        let after: Vec<_> = recovered.records().collect();
        assert_eq!(after, state.records().collect::<Vec<_>>());
        let mut other = Cluster::new(&[(256, 1 << 20), (256, 1 << 20)]);
        other.state = recovered;
        other.now = cluster.now;
        other.until("all run", |cluster| cluster.serving("web") == 150);
    }
    cluster.pass(Millis(500));
}

#[test]
fn events_of_a_job_are_bounded() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut web = service("web", 1, "crash");
    web.restart.delay_max = Millis::seconds(1);
    cluster.submit(&[web]);
    cluster.pass(Millis::minutes(5));
    let events: Vec<u64> = cluster
        .state
        .events(&id("web"))
        .map(|event| event.seq)
        .collect();
    assert_eq!(events.len() as u64, EVENTS_KEPT);
    assert!(events.windows(2).all(|pair| pair[0] + 1 == pair[1]));
}

#[test]
fn removing_a_job_and_other_destruction_is_named() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[
        service("web", 2, "web"),
        service("api", 1, "api"),
        service("old", 1, "x"),
    ]);
    let (empty, mut other) = (service("web", 0, "web"), service("api", 1, "api"));
    other.kind = Kind::Batch;
    other.health.clear();
    let mut submission: Submission = Cluster::submission(&[empty, other]);
    submission.remove = vec![id("old")];
    let plan = tw_scheduler::plan(&cluster.state, &submission, cluster.now, 0).unwrap();
    let named: Vec<String> = plan
        .destructive
        .iter()
        .map(|(job, what)| format!("{job} {what:?}"))
        .collect();
    assert_eq!(named, ["api Recreated", "old Removed", "web ScaledToZero"]);
    assert_eq!(plan.counts.stopped, 3);
}

#[test]
fn a_machine_is_declared_lost_once() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    for _ in 0..2 {
        let machine = "m0".parse().unwrap();
        cluster.decide(Event::MachineLost { machine, silent: 1 });
    }
    let row = cluster.state.machines().next().unwrap();
    assert_eq!((row.state, row.epoch), (MachineState::Lost, 2));
}
