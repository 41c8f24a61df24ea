//! Updates that fail, wait or go back: budgets of failures, bake times, rollbacks, and what people order.

use tw_model::{Code, JobSpec, Millis, OnFailure, RolloutState};
use tw_scheduler::{Event, Reply, RolloutOrder};

use crate::cluster::{Cluster, batch, id, service};

fn taking_itself_back(command: &str) -> JobSpec {
    let mut web = service("web", 4, command);
    web.rollout.on_failure = OnFailure::Rollback;
    web
}

fn running(specs: &[JobSpec]) -> Cluster {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(specs);
    for spec in specs {
        cluster.settle(spec.name.as_str());
    }
    cluster
}

fn order(cluster: &mut Cluster, order: RolloutOrder) -> Reply {
    cluster.decide(Event::Rollout {
        job: id("web"),
        order,
        by: "someone".to_owned(),
    })
}

#[track_caller]
fn done(reply: Reply) -> u64 {
    match reply {
        Reply::Rollout { version } => version,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(reply: Reply) -> String {
    match reply {
        Reply::Refused(refusal) => {
            assert_eq!(refusal.code, Code::RequestInvalid);
            refusal.message
        }
        other => panic!("{other:?}"),
    }
}

fn commands(cluster: &Cluster) -> Vec<String> {
    let job = cluster.job("web");
    let rows = job.latest_of_each();
    rows.map(|row| job.version(row.version).expect("kept").spec.command.0[0].clone())
        .collect()
}

#[test]
fn a_bad_version_takes_itself_back_and_the_budget_holds() {
    let mut cluster = running(&[taking_itself_back("one")]);
    let before: Vec<_> = (1..4)
        .map(|index| cluster.task("web", index).id.clone())
        .collect();
    cluster.submit(&[taking_itself_back("sick")]);
    for _ in 0..300 {
        cluster.pass(Millis(500));
        assert!(cluster.serving("web") >= 3, "{}", cluster.show());
    }
    assert!(cluster.settled("web"), "{}", cluster.show());
    let job = cluster.job("web");
    assert_eq!((job.row().version, job.row().stable_version), (3, 3));
    assert_eq!(commands(&cluster), ["one"; 4]);
    let after: Vec<_> = (1..4)
        .map(|index| cluster.task("web", index).id.clone())
        .collect();
    assert_eq!(
        before, after,
        "tasks that the update had not reached run on"
    );
    assert!(
        cluster
            .events("web")
            .contains(&"rollout.rolled_back".to_owned())
    );
}

#[test]
fn a_rollback_that_fails_as_well_halts() {
    let mut cluster = running(&[taking_itself_back("one")]);
    cluster.submit(&[taking_itself_back("crash")]);
    cluster.until("it goes back", |cluster| {
        let rollout = &cluster.job("web").row().rollout;
        rollout.as_ref().is_some_and(|rollout| rollout.rollback)
    });
    // Now the old version does not start either.
    for _ in 0..200 {
        cluster.pass(Millis(500));
        let task = cluster.task("web", 0).clone();
        if task.version == 3 && task.state == tw_model::TaskState::Running {
            cluster.exited(&task.id, 1);
        }
    }
    let rollout = cluster.job("web").row().rollout.clone().expect("it halted");
    assert_eq!(
        (rollout.state, rollout.rollback),
        (RolloutState::Halted, true)
    );
    assert_eq!(cluster.serving("web"), 3);
}

#[test]
fn without_a_good_version_before_it_nothing_goes_back() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[taking_itself_back("crash")]);
    cluster.pass(Millis::seconds(5));
    cluster.submit(&[taking_itself_back("sick")]);
    cluster.pass(Millis::seconds(120));
    assert_eq!(cluster.job("web").row().version, 2);
    assert_eq!(commands(&cluster), ["sick"; 4]);
}

#[test]
fn failures_within_their_budget_do_not_end_an_update() {
    let tolerant = |command: &str| {
        let mut web = service("web", 4, command);
        web.rollout.failures_max = 1;
        web.rollout.max_unavailable = 2;
        web
    };
    let mut cluster = running(&[tolerant("one")]);
    cluster.submit(&[tolerant("two")]);
    // One new task never starts well.
    for _ in 0..240 {
        cluster.pass(Millis(500));
        let task = cluster.task("web", 0).clone();
        if task.version == 2 && task.state == tw_model::TaskState::Running {
            cluster.exited(&task.id, 1);
        }
    }
    let row = cluster.job("web").row();
    assert!(row.rollout.is_none(), "{}", cluster.show());
    assert_eq!(row.stable_version, 2);
    assert!((1..4).all(|index| cluster.task("web", index).version == 2));

    // Two are more than may.
    cluster.submit(&[tolerant("sick")]);
    cluster.pass(Millis::seconds(240));
    let rollout = cluster.job("web").row().rollout.clone().expect("it halted");
    assert_eq!(rollout.state, RolloutState::Halted);
    assert!(
        rollout.reason.starts_with("2 tasks failed, and 1 may"),
        "{}",
        rollout.reason
    );
}

#[test]
fn a_stage_bakes_before_the_next_one_begins() {
    let baked = |command: &str| {
        let mut web = service("web", 4, command);
        web.rollout.bake = Millis::minutes(5);
        web
    };
    let mut cluster = running(&[baked("one")]);
    cluster.submit(&[baked("two")]);
    let new = |cluster: &Cluster| {
        let rows = cluster.job("web").latest_of_each();
        rows.filter(|row| row.version == 2).count()
    };
    cluster.pass(Millis::minutes(4));
    assert_eq!(new(&cluster), 1, "{}", cluster.show());
    cluster.pass(Millis::minutes(2));
    assert_eq!(new(&cluster), 2, "the second stage is half of them");
    cluster.settle("web");
    assert_eq!(new(&cluster), 4);
}

#[test]
fn a_task_that_fails_while_its_stage_bakes_stops_the_clock() {
    let baked = |command: &str| {
        let mut web = service("web", 4, command);
        web.rollout.bake = Millis::minutes(5);
        web
    };
    let mut cluster = running(&[baked("one")]);
    cluster.submit(&[baked("two")]);
    cluster.pass(Millis::minutes(4));
    let new = cluster.task("web", 0).id.clone();
    cluster.exited(&new, 1);
    cluster.pass(Millis::minutes(3));
    assert_eq!(cluster.task("web", 0).version, 2);
    assert_eq!(
        cluster.task("web", 1).version,
        1,
        "it bakes from the beginning"
    );
    cluster.settle("web");
}

#[test]
fn a_paused_update_waits_and_goes_on() {
    let mut cluster = running(&[service("web", 4, "one")]);
    cluster.submit(&[service("web", 4, "two")]);
    cluster.until("one task is new", |cluster| {
        cluster.task("web", 0).version == 2
    });
    done(order(&mut cluster, RolloutOrder::Pause));
    assert!(refused(order(&mut cluster, RolloutOrder::Pause)).contains("paused already"));
    cluster.pass(Millis::minutes(10));
    assert_eq!(commands(&cluster), ["two", "one", "one", "one"]);

    // One that fails meanwhile comes back as it was.
    let old = cluster.task("web", 3).id.clone();
    cluster.exited(&old, 1);
    cluster.until("it is back", |cluster| cluster.serving("web") == 4);
    assert_eq!(cluster.task("web", 3).version, 1);

    done(order(&mut cluster, RolloutOrder::Resume));
    assert!(refused(order(&mut cluster, RolloutOrder::Resume)).contains("is running"));
    cluster.settle("web");
    assert_eq!(commands(&cluster), ["two"; 4]);
    assert!(refused(order(&mut cluster, RolloutOrder::Resume)).contains("no update of web"));
}

#[test]
fn an_aborted_update_stays_where_it_is_and_can_be_resumed() {
    let mut cluster = running(&[service("web", 4, "one")]);
    cluster.submit(&[service("web", 4, "two")]);
    cluster.until("one task is new", |cluster| {
        cluster.task("web", 0).version == 2
    });
    done(order(&mut cluster, RolloutOrder::Abort));
    cluster.pass(Millis::minutes(10));
    assert_eq!(commands(&cluster), ["two", "one", "one", "one"]);
    let rollout = cluster
        .job("web")
        .row()
        .rollout
        .clone()
        .expect("it is kept");
    assert_eq!(
        (rollout.state, rollout.reason.as_str()),
        (RolloutState::Halted, "aborted by someone")
    );
    done(order(&mut cluster, RolloutOrder::Resume));
    cluster.settle("web");
    assert_eq!(commands(&cluster), ["two"; 4]);
}

#[test]
fn a_halted_update_that_is_resumed_tries_again() {
    let mut cluster = running(&[service("web", 4, "one")]);
    cluster.submit(&[service("web", 4, "crash")]);
    cluster.pass(Millis::seconds(60));
    assert!(!cluster.settled("web"));
    let failures = cluster.task("web", 0).failures;
    assert!(failures >= 3);
    done(order(&mut cluster, RolloutOrder::Resume));
    assert_eq!(cluster.task("web", 0).failures, 0);
    cluster.pass(Millis::seconds(60));
    let rollout = cluster
        .job("web")
        .row()
        .rollout
        .clone()
        .expect("it halted again");
    assert_eq!(rollout.state, RolloutState::Halted);
}

#[test]
fn a_job_goes_back_to_the_version_that_is_named_or_the_one_before() {
    let mut cluster = running(&[service("web", 3, "one")]);
    for command in ["two", "three"] {
        cluster.submit(&[service("web", 3, command)]);
        cluster.settle("web");
    }
    assert_eq!(
        done(order(&mut cluster, RolloutOrder::Rollback { to: Some(1) })),
        4
    );
    cluster.settle("web");
    assert_eq!(commands(&cluster), ["one"; 3]);
    assert_eq!(
        done(order(&mut cluster, RolloutOrder::Rollback { to: None })),
        5
    );
    cluster.settle("web");
    assert_eq!(commands(&cluster), ["three"; 3]);
    let unknown = refused(order(&mut cluster, RolloutOrder::Rollback { to: Some(77) }));
    assert_eq!(unknown, "version 77 of web is not kept");
    assert!(
        refused(order(&mut cluster, RolloutOrder::Rollback { to: Some(5) }))
            .contains("is at version 5")
    );
}

#[test]
fn an_update_under_way_goes_back_at_once() {
    let mut cluster = running(&[service("web", 4, "one")]);
    cluster.submit(&[service("web", 4, "two")]);
    cluster.until("half is new", |cluster| cluster.task("web", 1).version == 2);
    done(order(&mut cluster, RolloutOrder::Rollback { to: None }));
    cluster.until("all are old again", |cluster| {
        assert!(cluster.serving("web") >= 2, "{}", cluster.show());
        cluster.settled("web")
    });
    assert_eq!(commands(&cluster), ["one"; 4]);
}

#[test]
fn what_has_no_earlier_version_or_is_stopped_cannot_go_back() {
    let mut cluster = running(&[service("web", 1, "one")]);
    let first = refused(order(&mut cluster, RolloutOrder::Rollback { to: None }));
    assert!(first.contains("no earlier version"), "{first}");
    cluster.stop("web");
    assert_eq!(
        refused(order(&mut cluster, RolloutOrder::Pause)),
        "web is stopped"
    );
}

#[test]
fn a_batch_job_goes_back_too() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[batch("web", "done", 1)]);
    cluster.until("it is done", |cluster| {
        cluster.job("web").row().stable_version == 1
    });
    cluster.submit(&[batch("web", "crash", 1)]);
    cluster.pass(Millis::seconds(60));
    done(order(&mut cluster, RolloutOrder::Rollback { to: None }));
    cluster.pass(Millis::seconds(60));
    assert_eq!(commands(&cluster), ["done"]);
}

#[test]
fn what_failed_before_fails_no_update_that_leaves_it_alone() {
    let more = JobSpec {
        replicas: 5,
        ..taking_itself_back("one")
    };
    let mut cluster = running(&[taking_itself_back("one")]);
    cluster.submit(&[more]);
    cluster.settle("web");
    for _ in 0..3 {
        cluster.until("it runs", |cluster| cluster.serving("web") == 5);
        let task = cluster.task("web", 0).id.clone();
        cluster.exited(&task, 1);
    }
    cluster.until("it runs", |cluster| {
        cluster.task("web", 0).state == tw_model::TaskState::Running
    });
    assert_eq!(cluster.task("web", 0).failures, 3);
    let version = done(order(&mut cluster, RolloutOrder::Rollback { to: None }));
    let job = cluster.job("web");
    assert_eq!(job.row().version, version, "{}", cluster.show());
    cluster.settle("web");
    assert_eq!(cluster.job("web").wanted(), 4);
}
