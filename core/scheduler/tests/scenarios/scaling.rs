//! The number of tasks follows the load, beside updates, budgets and plans.

use serde_json::json;
use tw_model::{Bytes, Cores, FittedRecord, JobSpec, Millis, TaskState};
use tw_scheduler::scale::Scaling;
use tw_scheduler::{Event, step};

use crate::cluster::{Cluster, id, service};

fn scaled(replicas: u32, command: &str) -> JobSpec {
    let mut job = service("web", replicas, command);
    job.autoscale = serde_json::from_value(json!({"min": 2, "max": 10})).expect("it is right");
    job
}

fn scale(cluster: &mut Cluster, tasks: u32) {
    cluster.decide(Event::Scale {
        job: id("web"),
        scaling: Scaling {
            tasks,
            reason: "for a test".to_owned(),
        },
    });
}

fn healthy(cluster: &Cluster) -> usize {
    let rows = cluster.job("web").tasks();
    rows.filter(|row| row.state == TaskState::Running && row.healthy == Some(true))
        .count()
}

fn settle(cluster: &mut Cluster, tasks: usize) {
    cluster.until("settled", |cluster| {
        cluster.job("web").row().rollout.is_none() && healthy(cluster) == tasks
    });
}

#[test]
fn tasks_come_and_go_within_the_bounds_of_the_spec() {
    let mut cluster = Cluster::new(&[(16, 16_384)]);
    cluster.submit(&[scaled(3, "serve")]);
    settle(&mut cluster, 3);
    scale(&mut cluster, 7);
    settle(&mut cluster, 7);
    scale(&mut cluster, 99);
    settle(&mut cluster, 10);
    scale(&mut cluster, 0);
    settle(&mut cluster, 2);
    assert_eq!(cluster.job("web").row().version, 1, "it is no new version");
}

#[test]
fn a_new_version_keeps_the_number_that_the_load_asks_for() {
    let mut cluster = Cluster::new(&[(16, 16_384)]);
    cluster.submit(&[scaled(3, "serve")]);
    scale(&mut cluster, 6);
    settle(&mut cluster, 6);
    let next = scaled(3, "serve-2");
    let plan = cluster.plan(std::slice::from_ref(&next));
    assert_eq!(plan.counts.restarted, 6);
    assert_eq!(plan.jobs[0].stages, [1, 3, 6]);
    assert_eq!(plan.jobs[0].scales, Some((2, 10)));
    cluster.submit(&[next]);
    settle(&mut cluster, 6);
    // Without it the spec's own number counts again.
    cluster.submit(&[service("web", 3, "serve-2")]);
    settle(&mut cluster, 3);
}

#[test]
fn a_plan_stays_good_when_the_load_moves_the_number_meanwhile() {
    let mut cluster = Cluster::new(&[(16, 16_384)]);
    cluster.submit(&[scaled(3, "serve")]);
    settle(&mut cluster, 3);
    let next = [scaled(3, "serve-2")];
    let before = cluster.plan(&next);
    scale(&mut cluster, 5);
    assert_eq!(cluster.plan(&next).digest, before.digest);
}

#[test]
fn during_an_update_tasks_are_added_at_the_version_before_and_none_taken() {
    let mut cluster = Cluster::new(&[(16, 16_384)]);
    cluster.submit(&[scaled(4, "serve")]);
    settle(&mut cluster, 4);
    cluster.submit(&[scaled(4, "sick")]);
    cluster.pass(Millis::seconds(3));
    scale(&mut cluster, 2);
    assert_eq!(cluster.job("web").wanted(), 4, "its budget is the update's");
    scale(&mut cluster, 7);
    cluster.pass(Millis::seconds(5));
    for index in 4..7 {
        let row = cluster.task("web", index);
        assert_eq!((row.version, row.healthy), (1, Some(true)), "{}", row.id);
    }
    // What the update makes sick is one task, and the load has what it needs.
    assert!(healthy(&cluster) >= 6);
    let halted = |cluster: &Cluster| {
        let rollout = cluster.job("web").row().rollout.as_ref();
        rollout.is_some_and(|rollout| !rollout.reason.is_empty())
    };
    cluster.until("halted", halted);
    scale(&mut cluster, 9);
    cluster.pass(Millis::seconds(5));
    assert_eq!(cluster.task("web", 8).version, 1);
    // The cure reaches all of them.
    cluster.submit(&[scaled(4, "serve-3")]);
    settle(&mut cluster, 9);
    assert!((0..9).all(|index| cluster.task("web", index).version == 3));
}

#[test]
fn a_job_that_is_stopped_or_does_not_follow_stays_as_it_is() {
    let mut cluster = Cluster::new(&[(16, 16_384)]);
    cluster.submit(&[service("web", 3, "serve")]);
    settle(&mut cluster, 3);
    let event = Event::Scale {
        job: id("web"),
        scaling: Scaling {
            tasks: 7,
            reason: String::new(),
        },
    };
    assert!(step(&cluster.state, &event, cluster.now, 1).txns.is_empty());
    cluster.submit(&[scaled(3, "serve")]);
    cluster.stop("web");
    assert!(step(&cluster.state, &event, cluster.now, 1).txns.is_empty());
}

fn fit(cluster: &mut Cluster, job: &str, cpu: Option<u64>) {
    let fitted = cpu.map(|cpu| FittedRecord {
        cpu: Cores(cpu),
        memory: Bytes::mib(64),
    });
    let task = cluster.task(job, 0).id.clone();
    cluster.decide(Event::Fitted(vec![(task, fitted)]));
}

fn runs(cluster: &Cluster, job: &str) -> bool {
    cluster.task(job, 0).state == TaskState::Running
}

#[test]
fn what_a_task_is_found_not_to_need_is_used_by_others() {
    let mut cluster = Cluster::new(&[(1, 1024)]);
    let mut first = service("first", 1, "serve");
    first.resources.cpu = Cores(1000);
    cluster.submit(&[first.clone()]);
    cluster.until("first runs", |cluster| runs(cluster, "first"));
    cluster.submit(&[service("second", 1, "serve")]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(cluster.task("second", 0).state, TaskState::Pending);
    fit(&mut cluster, "first", Some(400));
    cluster.until("second runs", |cluster| runs(cluster, "second"));

    // The machine lends nothing any more: who is there stays, and nobody comes.
    fit(&mut cluster, "first", None);
    cluster.submit(&[service("third", 1, "serve")]);
    cluster.pass(Millis::seconds(30));
    assert!(runs(&cluster, "first") && runs(&cluster, "second"));
    assert_eq!(cluster.task("third", 0).state, TaskState::Pending);

    // What asks for no more changes where it is, though its room is lent.
    first.stop.grace = Millis::seconds(7);
    let plan = cluster.submit(&[first]);
    assert_eq!(
        (plan.counts.moved, plan.counts.restarted),
        (0, 0),
        "{}",
        plan.counts
    );
}
