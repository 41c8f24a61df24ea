//! Updates: stages, budgets, gates, and the plan that says beforehand what happens.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, service};
use proptest::prelude::*;
use tw_model::{
    Bytes, Cores, Desired, Effect, JobSpec, Location, Millis, Phase, PolicyFinding, PolicyLevel,
    PolicyRule, RolloutState, TaskRecord, TaskState,
};
use tw_scheduler::{
    DrainOrder, Event, ExpectedPlan, Plan, Reply, State, StopLimiter, StopLimits, StopRate,
    Submission, Verdict, step,
};

#[test]
fn a_stage_that_only_adds_a_task_takes_its_time() {
    let web = |replicas: u32, command: &str| {
        let mut web = service("web", replicas, command);
        web.rollout.bake = Millis::minutes(2);
        web.rollout.healthy_for = Millis::seconds(20);
        web
    };
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[web(3, "one")]);
    cluster.settle("web");
    // The task that is added is the first stage: it becomes healthy, and bakes.
    let plan = cluster.submit(&[web(4, "two")]);
    assert_eq!(plan.jobs[0].stages[0], 1);
    let said = &plan.jobs[0].stage_durations_ms;
    assert!(said[0] >= Millis::seconds(140), "{said:?}");
    let whole = said.iter().fold(Millis::ZERO, |sum, stage| sum + *stage);
    let begun = cluster.now;
    cluster.settle("web");
    let took = cluster.now.since(begun);
    assert!(
        took.0.abs_diff(whole.0) * 5 < took.0,
        "{whole} were said, {took} it took: {said:?}"
    );
}

#[test]
fn an_update_goes_stage_by_stage_and_keeps_the_budget() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 6, "one")]);
    cluster.settle("web");
    let plan = cluster.submit(&[service("web", 6, "two")]);
    assert_eq!(plan.jobs[0].stages, [1, 3, 6]);
    assert_eq!(
        (plan.jobs[0].effect, plan.counts.restarted),
        (Effect::Restart, 6)
    );
    let mut sizes = Vec::new();
    while !cluster.settled("web") {
        cluster.pass(Millis(500));
        assert!(
            cluster.serving("web") >= 5,
            "one may be down\n{}",
            cluster.show()
        );
        let new = cluster
            .job("web")
            .latest_of_each()
            .filter(|row| row.version == 2)
            .count();
        let stage = cluster
            .job("web")
            .row()
            .rollout
            .as_ref()
            .map(|rollout| rollout.stage);
        sizes.push((stage, new));
    }
    for (stage, most) in [(0, 1), (1, 3), (2, 6)] {
        let seen = sizes
            .iter()
            .filter(|(at, _)| *at == Some(stage))
            .map(|(_, new)| *new)
            .max();
        assert_eq!(seen, Some(most), "in stage {stage}");
    }
    let kinds = cluster.events("web");
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "rollout.stage").count(),
        2
    );
    assert!(kinds.contains(&"rollout.done".to_owned()));
}

#[test]
fn a_version_that_never_gets_healthy_halts_and_the_old_one_serves() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 4, "one")]);
    cluster.settle("web");
    cluster.submit(&[service("web", 4, "sick")]);
    cluster.pass(Millis::seconds(90));
    let rollout = cluster
        .job("web")
        .row()
        .rollout
        .clone()
        .expect("it has not been completed");
    assert_eq!(rollout.state, RolloutState::Halted);
    assert!(
        rollout
            .reason
            .contains("running but unhealthy at version 2"),
        "{}",
        rollout.reason
    );
    assert!(rollout.reason.contains("status 500"), "{}", rollout.reason);
    assert_eq!(cluster.serving("web"), 3);
    assert!(cluster.events("web").contains(&"rollout.halted".to_owned()));

    // What the update did not reach comes back as it was.
    let old = cluster.task("web", 2).id.clone();
    cluster.exited(&old, 1);
    cluster.until("it runs again", |cluster| cluster.serving("web") == 3);
    assert_eq!(cluster.task("web", 2).version, 1);
    assert_eq!(cluster.job("web").row().stable_version, 1);

    // Better news starts a new update, with the one that is down.
    cluster.submit(&[service("web", 4, "two")]);
    cluster.settle("web");
    assert!((0..4).all(|index| cluster.task("web", index).version == 3));
}

#[test]
fn a_version_that_keeps_failing_halts() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 3, "one")]);
    cluster.settle("web");
    for (version, command, says) in [(2, "crash", "exit code 1"), (3, "missing", "/bin/missing")] {
        cluster.submit(&[service("web", 3, command)]);
        cluster.until("it halts", |cluster| {
            let rollout = cluster.job("web").row().rollout.as_ref();
            rollout.is_some_and(|rollout| rollout.state == RolloutState::Halted)
        });
        let rollout = cluster.job("web").row().rollout.clone().expect("it halted");
        let is_named = |row: &&TaskRecord| rollout.reason.contains(&format!("task {} ", row.id));
        let named = cluster.job("web").tasks().find(is_named);
        assert_eq!(named.map(|row| row.state), Some(TaskState::Failed));
        cluster.pass(Millis::seconds(30));
        assert_eq!((rollout.state, rollout.to), (RolloutState::Halted, version));
        assert!(
            rollout.reason.contains("failed 3 times in a row"),
            "{}",
            rollout.reason
        );
        assert!(rollout.reason.contains(says), "{}", rollout.reason);
        assert_eq!(cluster.serving("web"), 2);
    }
}

#[test]
fn a_crashing_version_is_cured_although_it_uses_up_the_budget() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 4, "crash")]);
    cluster.pass(Millis::seconds(20));
    cluster.submit(&[service("web", 4, "web")]);
    cluster.settle("web");
    assert_eq!(cluster.serving("web"), 4);
}

#[test]
fn changes_in_place_keep_the_task() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut web = service("web", 3, "web");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    web.resources.memory = Bytes::mib(512);
    let plan = cluster.submit(std::slice::from_ref(&web));
    assert_eq!(
        (plan.counts.in_place, plan.jobs[0].verdict.clone()),
        (3, Verdict::Fits)
    );
    while !cluster.settled("web") {
        cluster.pass(Millis(500));
        assert_eq!(cluster.serving("web"), 3, "nobody notices");
    }
    for index in 0..3 {
        let row = cluster.task("web", index);
        assert_eq!((row.version, row.id.incarnation), (2, u64::from(index) + 1));
    }
    let machine = "m0".parse().unwrap();
    assert_eq!(
        cluster.state.reserved_on(&machine).memory,
        Bytes::mib(3 * 512)
    );
}

#[test]
fn a_task_moves_where_its_machine_lacks_the_room() {
    let mut cluster = Cluster::new(&[(4, 600), (4, 8192)]);
    let mut web = service("web", 2, "web");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    let cramped = (0..2)
        .find(|index| cluster.machine_of("web", *index) == "m0")
        .unwrap();
    web.resources.memory = Bytes::mib(1024);
    let plan = cluster.submit(std::slice::from_ref(&web));
    assert_eq!((plan.counts.in_place, plan.counts.moved), (1, 1));
    assert_eq!(
        (plan.jobs[0].effect, plan.jobs[0].verdict.clone()),
        (Effect::Move, Verdict::Moves)
    );
    cluster.settle("web");
    assert_eq!(cluster.machine_of("web", cramped), "m1");
    assert_eq!(
        cluster.task("web", 1 - cramped).id.incarnation,
        u64::from(2 - cramped)
    );
}

#[test]
fn what_nothing_notices_is_done_at_once() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    let mut web = service("web", 2, "web");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    web.owner = "team".to_owned();
    let plan = cluster.submit(std::slice::from_ref(&web));
    assert_eq!(
        (plan.jobs[0].effect, plan.counts.untouched),
        (Effect::None, 2)
    );
    assert!(cluster.settled("web"));
    assert!((0..2).all(|index| cluster.task("web", index).version == 2));
    let again = cluster.submit(&[web]);
    assert_eq!((again.jobs.len(), again.unchanged.len()), (0, 1));
    assert_eq!(
        cluster.job("web").row().version,
        2,
        "the same again makes no version"
    );
}

#[test]
fn a_changed_check_has_to_fail_as_often_as_it_may_before_it_counts() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut web = service("web", 2, "web");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    if let tw_model::HealthCheck::Http(check) = &mut web.health[0] {
        check.path = "/broken".to_owned();
    }
    cluster.submit(&[web]);
    cluster.pass(Millis::seconds(15));
    assert_eq!(
        cluster.task("web", 1).version,
        1,
        "the first is still being watched"
    );
    let first = cluster.task("web", 0).id.clone();
    let detail = "status 404".to_owned();
    cluster.report(
        &first,
        Phase::Health {
            healthy: false,
            detail,
            remedy: Default::default(),
        },
    );
    assert_eq!(cluster.serving("web"), 1, "the second goes on serving");
}

#[test]
fn a_stale_plan_is_refused_with_what_has_moved() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[service("web", 2, "one")]);
    cluster.settle("web");
    let wanted = service("web", 3, "two");
    let reviewed = cluster.plan(std::slice::from_ref(&wanted));
    let expected = Some(ExpectedPlan::from(&reviewed));
    let apply = |expected: &Option<ExpectedPlan>| Event::Submit {
        submission: Cluster::submission(std::slice::from_ref(&wanted)),
        expected: expected.clone(),
    };
    cluster.submit(&[service("web", 1, "one")]);
    let reply = cluster.decide(apply(&expected));
    let Reply::Refused(refusal) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(refusal.code.as_str(), "plan.stale");
    assert_eq!(
        refusal.details,
        ["web: version 1 became 2, 2 restarted, 1 started became 1 restarted, 2 started"]
    );
    let fresh = cluster.plan(std::slice::from_ref(&wanted));
    let reply = cluster.decide(apply(&Some(ExpectedPlan::from(&fresh))));
    assert!(matches!(reply, Reply::Submitted(plan) if plan.digest == fresh.digest));
}

#[test]
fn the_digest_does_not_depend_on_chance() {
    let cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let submission = Cluster::submission(&[service("web", 3, "web")]);
    let digests: Vec<String> = (0..5)
        .map(|seed| tw_scheduler::plan(&cluster.state, &submission, cluster.now, seed))
        .map(|plan| plan.expect("it is possible").digest)
        .collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

/// What happened to the tasks of a job, counted as a plan counts.
fn observed(before: &BTreeMap<u32, (u64, Option<String>)>, cluster: &Cluster) -> [u32; 5] {
    let job = cluster.job("web");
    let wanted = job.wanted();
    let mut counts = [0; 5];
    for row in job.latest_of_each() {
        let machine = row.machine.as_ref().map(|name| name.to_string());
        let place = match before.get(&row.id.index) {
            _ if row.id.index >= wanted => 4,
            None => 3,
            Some((incarnation, _)) if *incarnation == row.id.incarnation => 0,
            Some((_, from)) if *from == machine => 1,
            Some(_) => 2,
        };
        counts[place] += 1;
    }
    counts
}

fn promised(plan: &Plan) -> [u32; 5] {
    let counts = plan.counts;
    [
        counts.untouched + counts.in_place,
        counts.restarted,
        counts.moved,
        counts.started,
        counts.stopped,
    ]
}

#[derive(Clone, Debug)]
struct Shape {
    replicas: u32,
    memory_mib: u64,
    cpu: u64,
    command: &'static str,
    max_unavailable: u32,
}

fn shape() -> impl Strategy<Value = Shape> {
    let command = prop_oneof![Just("one"), Just("two")];
    (0u32..8, 1u64..8, 1u64..8, command, 1u32..3).prop_map(
        |(replicas, memory, cpu, command, max_unavailable)| Shape {
            replicas,
            memory_mib: memory * 128,
            cpu: cpu * 250,
            command,
            max_unavailable,
        },
    )
}

fn shaped(shape: &Shape) -> JobSpec {
    let mut job = service("web", shape.replicas, shape.command);
    job.resources.memory = Bytes::mib(shape.memory_mib);
    job.resources.cpu = Cores(shape.cpu);
    job.rollout.max_unavailable = shape.max_unavailable;
    job
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The plan that was reviewed is the plan that runs.
    #[test]
    fn what_the_plan_says_is_what_happens(
        machines in prop::collection::vec((1u64..9, 1u64..9), 1..5),
        old in shape(),
        new in shape(),
    ) {
        let machines: Vec<(u64, u64)> = machines.iter().map(|(c, m)| (*c, m * 512)).collect();
        let mut cluster = Cluster::new(&machines);
        let first = cluster.submit(&[shaped(&old)]);
        if first.jobs.iter().any(|job| matches!(job.verdict, Verdict::DoesNotFit { .. })) {
            return Ok(());
        }
        cluster.settle("web");
        let job = cluster.job("web");
        let live = job.latest_of_each().filter(|row| !row.state.is_terminal());
        let before = live.map(|row| {
            let machine = row.machine.as_ref().map(|name| name.to_string());
            (row.id.index, (row.id.incarnation, machine))
        });
        let before: BTreeMap<u32, (u64, Option<String>)> = before.collect();
        let plan = cluster.submit(&[shaped(&new)]);
        let fits = plan.jobs.iter().all(|job| !matches!(job.verdict, Verdict::DoesNotFit { .. }));
        if !fits {
            // It says that tasks would wait, and they do, if only until others have shrunk.
            let waits = (0..240).any(|_| {
                cluster.pass(Millis(500));
                let rows = cluster.job("web");
                let waits = |row: &TaskRecord| row.state == TaskState::Pending && !row.reason.is_empty();
                rows.latest_of_each().any(waits)
            });
            let halted = cluster.job("web").row().rollout.is_some();
            prop_assert!(waits || halted, "{}", cluster.show());
            return Ok(());
        }
        cluster.settle("web");
        cluster.pass(Millis::seconds(5));
        if !plan.jobs.is_empty() {
            prop_assert_eq!(promised(&plan), observed(&before, &cluster), "{:?}\n{}", plan.jobs, cluster.show());
        }
    }
}

#[test]
fn a_plan_covers_what_policies_say_and_a_refused_one_is_not_applied() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut submission = Cluster::submission(&[service("web", 1, "one")]);
    let plan = |cluster: &Cluster, submission: &Submission| {
        tw_scheduler::plan(&cluster.state, submission, cluster.now, 0).expect("it is possible")
    };
    let silent = plan(&cluster, &submission);
    submission.policy.findings.push(finding(PolicyLevel::Warn));
    let warned = plan(&cluster, &submission);
    assert_ne!(warned.digest, silent.digest, "the digest covers findings");
    submission.policy.findings[0].policy.line += 1;
    let moved = plan(&cluster, &submission);
    assert_eq!(
        moved.digest, warned.digest,
        "the line is not part of what was approved"
    );
    submission.policy.findings = vec![finding(PolicyLevel::Forbid)];
    let refused = plan(&cluster, &submission);
    assert!(refused.policy.refuses());
    let reply = cluster.decide(Event::Submit {
        submission,
        expected: Some(ExpectedPlan::from(&refused)),
    });
    let Reply::Refused(refusal) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(refusal.code.as_str(), "policy.refused");
    assert_eq!(
        refusal.details,
        ["web: no root, says modest of platform (POLICY.py:3)"]
    );
}

fn finding(level: PolicyLevel) -> PolicyFinding {
    PolicyFinding {
        level,
        policy: PolicyRule {
            name: "modest".to_owned(),
            owner: "platform".to_owned(),
            file: "POLICY.py".to_owned(),
            line: 3,
        },
        job: "web".parse().expect("a job's id"),
        field: Some("user".to_owned()),
        message: "no root".to_owned(),
        at: Location {
            file: "config.tw".to_owned(),
            line: 2,
            column: 8,
        },
    }
}

/// Lets so many tasks of a job end at once.
fn limiter_of(burst: u32) -> StopLimiter {
    let rate = |burst| StopRate {
        burst,
        per_second: 1,
    };
    let limits = StopLimits {
        job: rate(burst),
        total: rate(100),
    };
    StopLimiter::new(limits, 0)
}

#[test]
fn a_job_begun_again_before_all_of_it_was_stopped_is_updated_as_a_whole() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 6, "one")]);
    cluster.settle("web");
    let stop = Cluster::removal("web");
    let mut limiter = limiter_of(2);
    assert_eq!(cluster.decide_within(&mut limiter, &stop, 60_000), 4);
    cluster.submit(&[service("web", 6, "two")]);
    cluster.settle("web");
    let job = cluster.job("web");
    assert_eq!(job.row().version, 2);
    assert!(
        job.latest_of_each().all(|row| row.version == 2),
        "{}",
        cluster.show()
    );
}

#[test]
fn a_change_that_nobody_notices_reaches_every_task_although_the_decision_was_cut() {
    let mut cluster = Cluster::new(&[(256, 1 << 20), (256, 1 << 20)]);
    let mut web = service("web", 150, "web");
    web.ports.clear();
    web.health.clear();
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    let before: Vec<_> = cluster
        .job("web")
        .live()
        .map(|row| row.id.clone())
        .collect();
    web.owner = "another".to_owned();
    let event = Event::Submit {
        submission: Cluster::submission(&[web]),
        expected: None,
    };
    let decision = step(&cluster.state, &event, cluster.now, 1);
    assert!(decision.txns.len() > 1);
    cluster.state.apply(&decision.txns[0]);
    cluster.state = State::from_records(cluster.state.records());
    cluster.pass(Millis::seconds(5));
    let job = cluster.job("web");
    assert!(job.live().all(|row| row.version == 2), "{}", cluster.show());
    let after: Vec<_> = job.live().map(|row| row.id.clone()).collect();
    assert_eq!(after, before, "nothing starts again");
}

#[test]
fn what_comes_back_in_an_update_that_may_take_it_begins_at_the_new_version() {
    let mut cluster = Cluster::new(&[(4, 4096), (4, 4096), (4, 4096)]);
    let at_once = |command: &str| {
        let mut web = service("web", 6, command);
        web.rollout.stages = Box::default();
        web
    };
    cluster.submit(&[at_once("one")]);
    cluster.settle("web");
    cluster.submit(&[at_once("two")]);
    let there = |row: &&TaskRecord| row.machine.as_ref().is_some_and(|id| id.as_str() == "m1");
    let lost = cluster.job("web").live().filter(there).count();
    assert!(lost >= 2, "{}", cluster.show());
    cluster.register("m1", "boot-2", (4, 4096), Vec::new());
    let job = cluster.job("web");
    let gone = job
        .tasks()
        .filter(|row| row.state == TaskState::Lost)
        .map(|row| row.id.index);
    for index in gone {
        let row = job.latest(index).expect("it comes back");
        assert_eq!(
            (row.version, row.desired),
            (2, Desired::Run),
            "{}",
            cluster.show()
        );
    }
    cluster.settle("web");
}

#[test]
fn a_task_that_is_not_wanted_any_more_does_not_grow() {
    let mut cluster = Cluster::new(&[(4, 1024)]);
    let mut web = service("web", 2, "one");
    web.resources.memory = Bytes::mib(500);
    cluster.submit(&[web.clone()]);
    cluster.settle("web");
    web.replicas = 0;
    web.resources.memory = Bytes::mib(1000);
    cluster.submit(&[web]);
    let held = cluster.state.reserved_on(&"m0".parse().unwrap());
    assert!(held.memory <= Bytes::mib(1000), "{held:?}");
}

#[test]
fn a_change_in_place_stays_one_where_the_machine_is_drained() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let mut web = service("web", 2, "one");
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    cluster.decide(Event::Drain {
        machines: vec!["m0".parse().unwrap()],
        order: DrainOrder::Begin {
            reason: String::new(),
            within: None,
            lasts: None,
        },
        by: "ann".to_owned(),
    });
    cluster.pass(Millis::seconds(5));
    assert_eq!(cluster.serving("web"), 2, "there is nowhere to go");
    web.resources.memory = tw_model::Bytes::mib(300);
    let plan = cluster.submit(&[web]);
    assert_eq!(plan.counts.in_place, 2, "{plan:?}");
    cluster.pass(Millis::seconds(30));
    let all_new = cluster.job("web").tasks().all(|row| row.version == 2);
    assert!(all_new && cluster.serving("web") == 2, "{}", cluster.show());
}

#[test]
fn a_task_that_moves_leaves_others_the_room_that_their_plan_gives_them() {
    let mut cluster = Cluster::new(&[(1, 512), (2, 1536), (1, 2560)]);
    let shape = |replicas, memory_mib, cpu, command| Shape {
        replicas,
        memory_mib,
        cpu,
        command,
        max_unavailable: 1,
    };
    cluster.submit(&[shaped(&shape(6, 384, 500, "one"))]);
    cluster.settle("web");
    let plan = cluster.submit(&[shaped(&shape(4, 640, 250, "two"))]);
    assert_eq!(promised(&plan), [0, 3, 1, 0, 2]);
    let moved = |cluster: &Cluster| {
        let rollout = cluster.job("web").row().rollout.clone();
        rollout.map_or(0, |rollout| rollout.moves.len())
    };
    // Two tasks leave two machines, one after the other: the room on the first is not for the one that moves.
    while cluster.job("web").row().rollout.is_some() {
        assert_eq!(moved(&cluster), 1, "{}", cluster.show());
        cluster.pass(Millis(500));
    }
    assert!(cluster.settled("web"), "{}", cluster.show());
}

#[test]
fn a_job_begun_again_while_its_tasks_run_moves_those_that_its_plan_says() {
    let mut cluster = Cluster::new(&[(2, 2048), (8, 8192)]);
    let mut web = service("web", 4, "one");
    cluster.submit(&[web.clone()]);
    cluster.settle("web");
    let mut limiter = limiter_of(1);
    let stop = Cluster::removal("web");
    assert_eq!(cluster.decide_within(&mut limiter, &stop, 60_000), 3);
    web.resources.memory = Bytes::mib(1536);
    let plan = cluster.submit(&[web]);
    let moves = plan.jobs[0].counts.moved;
    assert!(moves > 0, "{:?}", plan.jobs[0].tasks);
    let rollout = cluster.job("web").row().rollout.clone();
    assert_eq!(
        rollout.map(|rollout| rollout.moves.len()),
        Some(moves as usize),
        "{}",
        cluster.show()
    );
    cluster.settle("web");
}

#[test]
fn a_task_that_ends_is_not_given_what_a_later_version_asks_for() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let mut web = service("web", 4, "web");
    web.resources.cpu = Cores(900);
    cluster.submit(&[web.clone()]);
    cluster.settle("web");
    cluster.submit(&[JobSpec {
        replicas: 0,
        ..web.clone()
    }]);
    assert_eq!(cluster.task("web", 3).state, TaskState::Stopping);
    web.replicas = 5;
    web.resources.cpu = Cores(1200);
    cluster.submit(&[web]);
    for index in 0..4 {
        let row = cluster.task("web", index);
        assert_eq!(
            (row.version, row.state),
            (1, TaskState::Stopping),
            "{index}"
        );
    }
    cluster.pass(Millis::seconds(30));
    // The machine holds three of the new ones.
    assert_eq!(cluster.serving("web"), 3, "{}", cluster.show());
}
