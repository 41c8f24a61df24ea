//! Batch jobs: schedules, limits on the time of a try, and a few tasks at a time.

use serde_json::json;
use tw_model::{JobSpec, Millis, RunOutcome, RunRecord, TaskState, Timestamp};
use tw_scheduler::{Event, Reply, why_pending};

use crate::cluster::{Cluster, batch, id, service, spec};

/// A job that runs every five minutes; the command says how its tasks behave.
fn every_five_minutes(command: &str, schedule: serde_json::Value) -> JobSpec {
    let mut schedule = schedule;
    schedule["cron"] = json!("*/5 * * * *");
    spec(json!({
        "name": "report", "kind": "batch", "command": [command], "schedule": schedule,
        "restart": {"attempts": 1, "delay_ms": 1000, "delay_max_ms": 1000},
    }))
}

fn runs(cluster: &Cluster) -> Vec<RunRecord> {
    let runs = cluster.job("report").row().runs.clone();
    runs.map(|runs| runs.newest).unwrap_or_default()
}

fn outcomes(cluster: &Cluster) -> Vec<RunOutcome> {
    runs(cluster).iter().map(|run| run.outcome).collect()
}

/// Some time without any decision, as while no controller is up.
fn away(cluster: &mut Cluster, time: Millis) {
    cluster.now = cluster.now.plus(time);
}

#[test]
fn a_job_with_a_schedule_runs_at_its_moments_and_keeps_their_history() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let plan = cluster.submit(&[every_five_minutes("done", json!({}))]);
    assert_eq!(plan.counts.started, 0, "it starts when it is time");
    cluster.pass(Millis::minutes(16));
    assert_eq!(outcomes(&cluster), [RunOutcome::Done; 3]);
    let runs = runs(&cluster);
    let five = Millis::minutes(5);
    for (run, next) in runs.iter().zip(&runs[1..]) {
        assert_eq!(
            (run.number + 1, run.due_at.plus(five)),
            (next.number, next.due_at)
        );
    }
    assert_eq!(runs[0].due_at.0 % 300_000_000, 0);
    assert!(
        cluster.settled("report"),
        "a run that succeeds makes its version good"
    );
    assert!(cluster.events("report").contains(&"run.done".to_owned()));
}

#[test]
fn a_run_that_fails_is_told_and_the_next_begins_anew() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    cluster.submit(&[every_five_minutes("crash", json!({}))]);
    cluster.pass(Millis::minutes(11));
    assert_eq!(outcomes(&cluster), [RunOutcome::Failed; 2]);
    assert!(
        runs(&cluster)[0].reason.contains("1 of its tasks failed"),
        "{:?}",
        runs(&cluster)
    );
    // Two tries in each run: one, and one more.
    assert_eq!(cluster.task("report", 0).id.incarnation, 4);
}

#[test]
fn a_run_that_has_not_ended_is_skipped_queued_or_replaced() {
    let outcome = |overlap: &str| {
        let mut cluster = Cluster::new(&[(4, 4096)]);
        cluster.submit(&[every_five_minutes("long", json!({"overlap": overlap}))]);
        cluster.pass(Millis::minutes(11));
        cluster
    };
    let skip = outcome("skip");
    assert_eq!(outcomes(&skip), [RunOutcome::Running]);
    assert!(skip.events("report").contains(&"run.skipped".to_owned()));

    let mut queue = outcome("queue");
    assert_eq!(outcomes(&queue), [RunOutcome::Running]);
    let task = queue.task("report", 0).id.clone();
    queue.exited(&task, 0);
    assert_eq!(outcomes(&queue), [RunOutcome::Done, RunOutcome::Running]);
    assert_eq!(queue.task("report", 0).run, 2);

    let replace = outcome("replace");
    assert_eq!(
        outcomes(&replace),
        [RunOutcome::Replaced, RunOutcome::Running]
    );
    let task = replace.task("report", 0);
    assert_eq!((task.run, task.state), (2, TaskState::Running));
}

#[test]
fn runs_that_were_missed_are_left_out_or_made_up_for_by_one() {
    let after = |missed: &str, away_for: Millis| {
        let mut cluster = Cluster::new(&[(4, 4096)]);
        cluster.submit(&[every_five_minutes("done", json!({"missed": missed}))]);
        away(&mut cluster, away_for);
        cluster.pass(Millis::seconds(10));
        cluster
    };
    // 2023-11-14T22:13:20Z is when the clusters begin: 46 minutes on, the last moment is four minutes ago.
    let skipped = after("skip", Millis::minutes(46));
    assert_eq!(outcomes(&skipped), []);
    assert_eq!(skipped.events("report").last().unwrap(), "run.missed");
    let made_up = after("run_once", Millis::minutes(46));
    assert_eq!(outcomes(&made_up), [RunOutcome::Done]);
    // A controller that starts again is late by seconds, and that is no miss.
    let late = after("skip", Millis::seconds(100 + 30));
    assert_eq!(outcomes(&late), [RunOutcome::Done]);
    // A year of every five minutes is not walked through.
    let year = after("run_once", Millis::minutes(525_600));
    assert_eq!(outcomes(&year), [RunOutcome::Done]);
}

#[test]
fn an_update_reaches_the_next_run_and_a_restart_begins_one_now() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    cluster.submit(&[every_five_minutes("long", json!({"overlap": "replace"}))]);
    let event = |by: &str| Event::RestartJob {
        job: id("report"),
        by: by.to_owned(),
    };
    assert!(matches!(
        cluster.decide(event("ann")),
        Reply::Restarting { version: 1 }
    ));
    cluster.pass(Millis::seconds(2));
    assert_eq!(runs(&cluster)[0].reason, "asked for by ann");

    let mut changed = every_five_minutes("long", json!({"overlap": "replace"}));
    changed.command.0.push("--verbose".to_owned());
    let plan = cluster.submit(&[changed.clone()]);
    assert_eq!(plan.counts.to_string(), "no tasks");
    cluster.pass(Millis::seconds(2));
    assert_eq!(cluster.task("report", 0).version, 1);
    cluster.pass(Millis::minutes(5));
    let task = cluster.task("report", 0);
    assert_eq!((task.version, task.state), (2, TaskState::Running));

    changed.schedule.as_mut().unwrap().overlap = tw_model::Overlap::Skip;
    cluster.submit(&[changed]);
    let Reply::Refused(refusal) = cluster.decide(event("bob")) else {
        panic!("a run is under way");
    };
    assert_eq!(refusal.message, "run 2 of report has not ended");
}

#[test]
fn what_is_stopped_or_loses_its_schedule_ends_its_run() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    cluster.submit(&[every_five_minutes("long", json!({}))]);
    cluster.pass(Millis::minutes(6));
    cluster.stop("report");
    cluster.pass(Millis::minutes(6));
    assert_eq!(outcomes(&cluster), [RunOutcome::Stopped]);
    assert_eq!(cluster.task("report", 0).state, TaskState::Done);
    cluster.submit(&[every_five_minutes("done", json!({}))]);
    cluster.pass(Millis::minutes(6));
    assert_eq!(outcomes(&cluster), [RunOutcome::Stopped, RunOutcome::Done]);
    assert_eq!(runs(&cluster)[1].number, 2);
}

#[test]
fn a_try_that_takes_too_long_counts_as_failed() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let mut job = batch("sort", "long", 1);
    job.timeout = Some(Millis::seconds(30));
    cluster.submit(&[job]);
    cluster.pass(Millis::seconds(29));
    assert_eq!(cluster.task("sort", 0).state, TaskState::Running);
    cluster.until("it was stopped twice", |cluster| {
        let task = cluster.task("sort", 0);
        task.state == TaskState::Failed && task.failures == 2
    });
    let reason = &cluster.task("sort", 0).reason;
    assert_eq!(reason, "took longer than 30s (exit code 143)");
    cluster.pass(Millis::minutes(5));
    assert_eq!(
        cluster.task("sort", 0).id.incarnation,
        2,
        "no attempt is left"
    );
}

#[test]
fn as_many_tasks_run_at_the_same_time_as_may() {
    let mut cluster = Cluster::new(&[(32, 65_536)]);
    let mut job = batch("sort", "long", 3);
    job.replicas = 10;
    job.parallelism = Some(3);
    job.timeout = Some(Millis::seconds(20));
    let running = |cluster: &Cluster| {
        let tasks = cluster.job("sort").tasks();
        tasks
            .filter(|row| row.machine.is_some() && !row.state.is_terminal())
            .count()
    };
    cluster.submit(&[job.clone()]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster), 3);
    for index in 0..10 {
        cluster.until("its turn comes", |cluster| {
            let latest = cluster.job("sort").latest(index);
            latest.is_some_and(|row| row.state == TaskState::Running)
        });
        let task = cluster.task("sort", index).id.clone();
        cluster.exited(&task, 0);
        assert!(running(&cluster) <= 3);
    }
    cluster.settle("sort");
    // Tasks that failed for good are tried again in their turn, too.
    job.name = "fails".parse().unwrap();
    job.command.0 = vec!["crash".to_owned()];
    job.restart.attempts = 0;
    cluster.submit(&[job.clone()]);
    cluster.pass(Millis::seconds(30));
    job.command.0 = vec!["long".to_owned()];
    job.rollout.max_unavailable = 10;
    job.rollout.stages = Box::from([tw_model::Stage::Percent(100)]);
    cluster.submit(&[job]);
    cluster.pass(Millis::seconds(3));
    let tasks = cluster.job("fails").tasks();
    let (placed, waiting): (Vec<_>, Vec<_>) = tasks
        .filter(|row| !row.state.is_terminal())
        .partition(|row| row.machine.is_some());
    assert_eq!(placed.len(), 3);
    let why = why_pending(&cluster.state, &waiting[0].id, cluster.now).unwrap();
    assert_eq!(why.to_string(), "waits for its turn: 3 at a time");
}

#[test]
fn tasks_that_wait_for_their_turn_do_not_fail_an_update() {
    let mut cluster = Cluster::new(&[(32, 65_536)]);
    let mut job = batch("sort", "crash", 0);
    job.replicas = 6;
    job.parallelism = Some(1);
    job.rollout.max_unavailable = 6;
    job.rollout.stages = Box::from([tw_model::Stage::Percent(100)]);
    job.rollout.deadline = Millis::minutes(1);
    cluster.submit(&[job.clone()]);
    cluster.pass(Millis::minutes(1));
    job.command.0 = vec!["long".to_owned()];
    cluster.submit(&[job]);
    for index in 0..6 {
        cluster.until("its turn comes", |cluster| {
            let latest = cluster.job("sort").latest(index);
            latest.is_some_and(|row| row.state == TaskState::Running)
        });
        cluster.pass(Millis::seconds(40));
        let task = cluster.task("sort", index).id.clone();
        cluster.exited(&task, 0);
    }
    cluster.settle("sort");
}

#[test]
fn a_job_waits_for_a_run_to_succeed() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let mut web = service("web", 1, "web");
    web.depends_on = vec!["report".parse().unwrap()];
    cluster.submit(&[every_five_minutes("done", json!({})), web]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(cluster.task("web", 0).state, TaskState::Pending);
    cluster.pass(Millis::minutes(5));
    cluster.settle("web");
}

#[test]
fn a_time_zone_moves_the_moment() {
    let mut cluster = Cluster::new(&[(4, 4096)]);
    let mut job = every_five_minutes("done", json!({"time_zone": "Asia/Kolkata"}));
    job.schedule.as_mut().unwrap().cron = tw_model::CronLine("0 4 * * *".to_owned());
    cluster.submit(&[job]);
    cluster.pass(Millis::minutes(20));
    // 4:00 there is 22:30 in UTC.
    assert_eq!(
        runs(&cluster)[0].due_at,
        "2023-11-14T22:30:00Z".parse::<Timestamp>().unwrap()
    );
}
