//! Machines that are emptied: within budgets, to where there is room, and in time.

use tw_model::{Code, MachineId, Millis, RolloutState, TaskState, Timestamp};
use tw_scheduler::{DrainOrder, Event, Reply, StopLimiter, StopLimits, StopRate};

use crate::cluster::{Cluster, batch, id, service};

fn name(machine: &str) -> MachineId {
    machine.parse().expect("a name")
}

fn drain(cluster: &mut Cluster, machines: &[&str], within: Option<Millis>) -> Reply {
    cluster.decide(Event::Drain {
        machines: machines.iter().map(|machine| name(machine)).collect(),
        order: DrainOrder::Begin {
            reason: "new memory".to_owned(),
            within,
            lasts: None,
        },
        by: "someone".to_owned(),
    })
}

fn undrain(cluster: &mut Cluster, machine: &str) {
    cluster.decide(Event::Drain {
        machines: vec![name(machine)],
        order: DrainOrder::End,
        by: "someone".to_owned(),
    });
}

/// How many live tasks of a job are on a machine.
fn on(cluster: &Cluster, job: &str, machine: &str) -> usize {
    let rows = cluster.job(job).tasks();
    rows.filter(|row| !row.state.is_terminal() && row.machine == Some(name(machine)))
        .count()
}

#[test]
fn tasks_leave_one_after_the_other_and_nobody_notices() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 6, "one"), service("api", 3, "one")]);
    cluster.settle("web");
    cluster.settle("api");
    let reply = drain(&mut cluster, &["m0"], None);
    assert!(matches!(reply, Reply::Drain { tasks: 3 }), "{reply:?}");
    cluster.until("it is empty", |cluster| {
        assert!(
            cluster.serving("web") >= 5 && cluster.serving("api") >= 2,
            "{}",
            cluster.show()
        );
        on(cluster, "web", "m0") + on(cluster, "api", "m0") == 0
    });
    cluster.settle("web");
    let (all, restarts): (usize, u32) = cluster
        .job("web")
        .latest_of_each()
        .fold((0, 0), |(all, sum), row| (all + 1, sum + row.restarts));
    assert_eq!((all, restarts), (6, 0), "a move is no failure");

    // Nothing comes back before the drain ends.
    cluster.submit(&[service("more", 4, "one")]);
    cluster.settle("more");
    assert_eq!(on(&cluster, "more", "m0"), 0);
    undrain(&mut cluster, "m0");
    cluster.submit(&[service("later", 3, "one")]);
    cluster.settle("later");
    assert!(on(&cluster, "later", "m0") > 0);
}

#[test]
fn where_there_is_no_room_a_task_stays_until_the_deadline() {
    let mut cluster = Cluster::new(&[(1, 1024), (1, 1024)]);
    let mut big = service("big", 2, "one");
    big.resources.cpu = tw_model::Cores(800);
    cluster.submit(&[big]);
    cluster.settle("big");
    drain(&mut cluster, &["m0"], Some(Millis::minutes(5)));
    cluster.pass(Millis::minutes(4));
    assert_eq!((on(&cluster, "big", "m0"), cluster.serving("big")), (1, 2));
    cluster.pass(Millis::minutes(1));
    assert_eq!(on(&cluster, "big", "m0"), 0, "{}", cluster.show());
    assert_eq!(cluster.serving("big"), 1);
    undrain(&mut cluster, "m0");
    cluster.until("it is back", |cluster| cluster.serving("big") == 2);
}

#[test]
fn the_deadline_overrides_the_budget() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let mut web = service("web", 4, "one");
    web.rollout.healthy_for = Millis::minutes(10);
    cluster.submit(&[web]);
    cluster.until("all serve", |cluster| cluster.serving("web") == 4);
    cluster.pass(Millis::minutes(11));
    drain(&mut cluster, &["m0"], Some(Millis::minutes(2)));
    cluster.pass(Millis::minutes(1));
    assert_eq!(
        on(&cluster, "web", "m0"),
        1,
        "the second waits for the first"
    );
    cluster.pass(Millis::minutes(1));
    assert_eq!(on(&cluster, "web", "m0"), 0);
}

#[test]
fn the_deadline_is_kept_however_slowly_tasks_may_be_stopped() {
    let mut cluster = Cluster::new(&[(64, 64 << 10)]);
    let rate = |per_second| StopRate {
        burst: 10,
        per_second,
    };
    let limits = StopLimits {
        job: rate(1),
        total: rate(5),
    };
    cluster.state.set_stop_limits(limits);
    let mut web = service("web", 40, "one");
    web.rollout.healthy_for = Millis::minutes(10);
    web.stop.drain = Millis::seconds(5);
    web.stop.grace = Millis::seconds(5);
    cluster.submit(&[web]);
    cluster.pass(Millis::minutes(11));
    cluster.register("m1", "boot-1", (64, 64 << 10), Vec::new());
    drain(&mut cluster, &["m0"], Some(Millis::minutes(2)));
    let mut limiter = StopLimiter::new(limits, 0);
    let mut left = Vec::new();
    for second in 0..120 {
        for half in [0, 500] {
            cluster.now = cluster.now.plus(Millis(500));
            // The limiter has been quiet for long before.
            let at = 1_000_000 + second * 1000 + half;
            cluster.decide_within(&mut limiter, &Event::Tick, at);
            cluster.work();
        }
        left.push(on(&cluster, "web", "m0"));
    }
    // Of one job one goes in a second: forty need as many, and ten more to end in peace.
    assert!(
        left[65] >= 38,
        "the budget holds for as long as it can: {left:?}"
    );
    assert_eq!(left[109], 0, "the last was asked to end in time: {left:?}");
}

#[test]
fn what_need_not_leave_any_more_hurries_nobody() {
    let mut cluster = Cluster::new(&[(8, 8192), (64, 64 << 10)]);
    let rate = StopRate {
        burst: 1,
        per_second: 1,
    };
    let limits = StopLimits {
        job: rate,
        total: rate,
    };
    cluster.state.set_stop_limits(limits);
    let mut web = service("web", 4, "one");
    web.rollout.healthy_for = Millis::minutes(10);
    web.resources.cpu = tw_model::Cores(1500);
    let mut bulk = service("bulk", 40, "one");
    bulk.resources.cpu = tw_model::Cores(1500);
    cluster.submit(&[web]);
    cluster.submit(&[bulk]);
    cluster.pass(Millis::minutes(11));
    assert!(on(&cluster, "web", "m0") > 1, "{}", cluster.show());
    drain(&mut cluster, &["m0", "m1"], Some(Millis::minutes(1)));
    // In a minute forty and more can only just go, one a second; without those of the other machine there is time.
    let before = cluster.serving("web");
    cluster.now = cluster.now.plus(Millis::seconds(20));
    undrain(&mut cluster, "m1");
    assert!(cluster.serving("web") + 1 >= before, "{}", cluster.show());
    let stopping = |cluster: &Cluster| {
        let rows = cluster.job("web").tasks();
        rows.filter(|row| row.state == TaskState::Stopping).count()
    };
    assert!(stopping(&cluster) <= 1, "{}", cluster.show());
}

#[test]
fn batch_tasks_end_by_themselves() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[batch("sort", "work", 1)]);
    cluster.until("it runs", |cluster| {
        cluster.task("sort", 0).state == TaskState::Running
    });
    let (task, machine) = (
        cluster.task("sort", 0).id.clone(),
        cluster.machine_of("sort", 0),
    );
    drain(&mut cluster, &[&machine], Some(Millis::minutes(10)));
    cluster.pass(Millis::minutes(5));
    assert_eq!(cluster.task("sort", 0).id, task);
    cluster.pass(Millis::minutes(6));
    let moved = cluster.task("sort", 0).clone();
    assert!(
        moved.id != task && moved.state == TaskState::Running,
        "{}",
        cluster.show()
    );
    assert_ne!(cluster.machine_of("sort", 0), machine);
    assert_eq!(moved.failures, 0);
}

#[test]
fn a_drain_does_not_fail_the_update_whose_stage_bakes() {
    let baked = |command: &str| {
        let mut web = service("web", 4, command);
        web.rollout.bake = Millis::minutes(5);
        web.rollout.deadline = Millis::minutes(1);
        web
    };
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[baked("one")]);
    cluster.settle("web");
    cluster.submit(&[baked("two")]);
    cluster.pass(Millis::minutes(3));
    let new = (0..4).find(|index| cluster.task("web", *index).version == 2);
    let machine = cluster.machine_of("web", new.expect("the first has the new version"));
    drain(&mut cluster, &[&machine], None);
    cluster.pass(Millis::seconds(30));
    let rollout = cluster.job("web").row().rollout.clone();
    let rollout = rollout.expect("the stage bakes");
    assert_eq!(rollout.state, RolloutState::Running, "{}", rollout.reason);
    cluster.settle("web");
}

#[test]
fn a_drain_and_an_update_share_one_budget() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[service("web", 6, "one")]);
    cluster.settle("web");
    cluster.submit(&[service("web", 6, "two")]);
    drain(&mut cluster, &["m0", "m1"], None);
    cluster.until("both are done", |cluster| {
        assert!(cluster.serving("web") >= 5, "{}", cluster.show());
        cluster.settled("web") && on(cluster, "web", "m0") + on(cluster, "web", "m1") == 0
    });
    assert!((0..6).all(|index| cluster.task("web", index).version == 2));
}

#[test]
fn a_task_that_leaves_in_the_middle_of_an_update_keeps_its_version() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let baked = |command: &str| {
        let mut web = service("web", 4, command);
        web.rollout.bake = Millis::minutes(30);
        web
    };
    cluster.submit(&[baked("one")]);
    cluster.settle("web");
    cluster.submit(&[baked("two")]);
    cluster.pass(Millis::minutes(1));
    drain(&mut cluster, &["m0"], None);
    cluster.until("it is empty", |cluster| on(cluster, "web", "m0") == 0);
    cluster.pass(Millis::minutes(1));
    let new = cluster
        .job("web")
        .latest_of_each()
        .filter(|row| row.version == 2)
        .count();
    assert_eq!(new, 1, "{}", cluster.show());
}

#[test]
fn a_drain_outlives_a_new_registration_and_an_unknown_machine_is_refused() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    drain(&mut cluster, &["m0"], None);
    cluster.register("m0", "another boot", (8, 8192), Vec::new());
    cluster.submit(&[service("web", 2, "one")]);
    cluster.settle("web");
    assert_eq!(on(&cluster, "web", "m0"), 0);
    let Reply::Refused(refusal) = drain(&mut cluster, &["m1", "m7"], None) else {
        panic!("taken");
    };
    assert_eq!(refusal.code, Code::MachineNotFound);
    assert_eq!(
        on(&cluster, "web", "m1"),
        2,
        "all machines of an order, or none"
    );
    assert!(cluster.job("web").row().id == id("web"));
}

/// A maintenance of `m0` that lasts for so long.
fn maintain(cluster: &mut Cluster, within: Option<Millis>, lasts: Millis) {
    cluster.decide(Event::Drain {
        machines: vec![name("m0")],
        order: DrainOrder::Begin {
            reason: String::new(),
            within,
            lasts: Some(lasts),
        },
        by: "someone".to_owned(),
    });
}

/// A job that endures ten minutes, on `m0` beside one that does not.
fn enduring() -> Cluster {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let mut stateful = service("stateful", 1, "one");
    stateful.maintenance.endure = Millis::minutes(10);
    cluster.submit(&[stateful, service("stateless", 1, "one")]);
    cluster.settle("stateful");
    cluster.settle("stateless");
    cluster.register("m1", "boot-1", (8, 8192), Vec::new());
    cluster
}

#[test]
fn who_endures_a_maintenance_leaves_last_and_comes_back() {
    let mut cluster = enduring();
    maintain(&mut cluster, None, Millis::minutes(5));
    assert_eq!(on(&cluster, "stateful", "m0"), 1);
    cluster.until("the stateless one has moved", |cluster| {
        cluster.machine_of("stateless", 0) == "m1"
    });
    cluster.until("the machine is empty", |cluster| {
        on(cluster, "stateful", "m0") + on(cluster, "stateless", "m0") == 0
    });
    cluster.pass(Millis::minutes(4));
    let task = cluster.task("stateful", 0);
    assert_eq!(task.state, TaskState::Pending);
    assert!(
        task.reason.contains("waits for m0 to come back"),
        "{}",
        task.reason
    );
    undrain(&mut cluster, "m0");
    cluster.until("it is back", |cluster| {
        cluster.machine_of("stateful", 0) == "m0"
    });
    cluster.settle("stateful");
    assert_eq!(
        cluster.task("stateful", 0).restarts,
        0,
        "a maintenance is no failure"
    );
}

#[test]
fn a_maintenance_that_is_too_long_or_takes_too_long_is_not_endured() {
    let mut cluster = enduring();
    maintain(&mut cluster, None, Millis::minutes(11));
    cluster.settle("stateful");
    cluster.until("it moves", |cluster| on(cluster, "stateful", "m1") == 1);

    let mut cluster = enduring();
    maintain(&mut cluster, Some(Millis::minutes(1)), Millis::minutes(10));
    cluster.pass(Millis::minutes(1));
    assert_eq!(on(&cluster, "stateful", "m0"), 0, "the deadline is kept");
    cluster.pass(Millis::minutes(11));
    cluster.settle("stateful");
    assert_eq!(
        cluster.machine_of("stateful", 0),
        "m1",
        "it has waited for long enough"
    );
}

#[test]
fn tasks_that_leave_do_not_count_on_the_same_room() {
    let mut cluster = Cluster::new(&[(2, 2048)]);
    cluster.submit(&[service("api", 1, "one"), service("web", 3, "one")]);
    cluster.settle("api");
    cluster.settle("web");
    cluster.register("m1", "boot-1", (1, 1024), Vec::new());
    cluster.submit(&[service("old", 1, "one")]);
    cluster.settle("old");
    assert_eq!(cluster.machine_of("old", 0), "m1", "{}", cluster.show());
    drain(&mut cluster, &["m0"], None);
    let stopping = |cluster: &Cluster| {
        let rows = ["api", "web"].map(|job| cluster.job(job).tasks());
        let rows = rows.into_iter().flatten();
        rows.filter(|row| row.state == TaskState::Stopping).count()
    };
    assert_eq!(stopping(&cluster), 1, "{}", cluster.show());
    // Also while the first one takes its time.
    for _ in 0..5 {
        cluster.now = cluster.now.plus(Millis::seconds(1));
        cluster.decide(Event::Tick);
    }
    assert_eq!(stopping(&cluster), 1, "{}", cluster.show());
    cluster.pass(Millis::seconds(30));
    assert_eq!(cluster.serving("api") + cluster.serving("web"), 4);
    assert_eq!(on(&cluster, "api", "m0") + on(&cluster, "web", "m0"), 3);
}

fn plan_drain(cluster: &mut Cluster, at: Timestamp, within: Option<Millis>) -> Reply {
    cluster.decide(Event::Drain {
        machines: vec![name("m0")],
        order: DrainOrder::Plan {
            at,
            reason: "new memory".to_owned(),
            within,
            lasts: None,
        },
        by: "someone".to_owned(),
    })
}

#[test]
fn a_drain_that_is_planned_begins_at_its_moment_and_its_deadline_counts_from_there() {
    let plan = |cluster: &mut Cluster, after: Millis| {
        let at = cluster.now.plus(after);
        plan_drain(cluster, at, Some(Millis::minutes(5)))
    };
    let mut cluster = Cluster::new(&[(1, 1024), (1, 1024)]);
    let mut big = service("big", 2, "one");
    big.resources.cpu = tw_model::Cores(800);
    cluster.submit(&[big]);
    cluster.settle("big");
    plan(&mut cluster, Millis::minutes(10));
    cluster.pass(Millis::minutes(9));
    // A machine that says again who it is keeps the order.
    cluster.register_again("m0", (1, 1024), Default::default());
    let row = |cluster: &Cluster| cluster.state.machine(&name("m0")).unwrap().clone();
    assert!(row(&cluster).takes_tasks());
    let at = row(&cluster).next_drain.expect("it is planned").since;
    cluster.pass(Millis::minutes(2));
    let drain = row(&cluster).drain.expect("it has begun");
    assert_eq!(
        (drain.since, drain.deadline),
        (at, Some(at.plus(Millis::minutes(5))))
    );
    assert_eq!(row(&cluster).next_drain, None);
    assert_eq!(on(&cluster, "big", "m0"), 1, "there is no room elsewhere");
    cluster.pass(Millis::minutes(5));
    assert_eq!(on(&cluster, "big", "m0"), 0, "{}", cluster.show());

    undrain(&mut cluster, "m0");
    plan(&mut cluster, Millis::minutes(10));
    undrain(&mut cluster, "m0");
    cluster.pass(Millis::minutes(15));
    assert!(row(&cluster).takes_tasks(), "it was taken back");
    plan(&mut cluster, Millis::ZERO);
    cluster.pass(Millis::seconds(1));
    assert!(
        !row(&cluster).takes_tasks(),
        "a moment that has passed is now"
    );
}

#[test]
fn a_planned_drain_that_begins_late_has_all_of_its_time() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let at = cluster.now.plus(Millis::minutes(10));
    plan_drain(&mut cluster, at, Some(Millis::minutes(5)));
    // The controller was away.
    cluster.now = cluster.now.plus(Millis::hours(2));
    cluster.decide(Event::Tick);
    let row = cluster.state.machine(&name("m0")).unwrap();
    let drain = row.drain.as_ref().expect("it has begun");
    let end = cluster.now.plus(Millis::minutes(5));
    assert_eq!((drain.since, drain.deadline), (cluster.now, Some(end)));
}

#[test]
fn a_drained_machine_that_is_large_enough_is_not_said_to_be_too_small() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    drain(&mut cluster, &["m0"], None);
    let plan = cluster.submit(&[service("web", 1, "x")]);
    let verdict = plan.jobs[0].verdict.to_string();
    assert_eq!(verdict, "does not fit: 1 task would wait, drained on 1");
}

#[test]
fn drains_at_times_that_cannot_be_meant_are_refused() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let now = cluster.now;
    let ago = |span: Millis| Timestamp(now.0 - span.0 as i64 * 1000);
    let years = |number: u64| Millis::hours(24 * 365 * number);
    let five = Some(Millis::minutes(5));
    for (at, within, said) in [
        (now.plus(years(11)), None, "begin more than ten years"),
        (
            now.plus(Millis(u64::MAX)),
            five,
            "begin more than ten years",
        ),
        (
            now.plus(years(9)),
            Some(years(2)),
            "have its deadline more than",
        ),
        (now, Some(Millis(u64::MAX)), "have its deadline more than"),
        (
            ago(Millis::hours(1)),
            five,
            "and be over at 2023-11-14T21:18:20",
        ),
    ] {
        match plan_drain(&mut cluster, at, within) {
            Reply::Refused(refusal) => {
                assert_eq!(refusal.code, Code::RequestInvalid);
                assert!(refusal.message.contains(said), "{}", refusal.message);
            }
            reply => panic!("{at}, {within:?}: {reply:?}"),
        }
    }
    let refused = drain(&mut cluster, &["m0"], Some(years(11)));
    assert!(matches!(refused, Reply::Refused(_)), "{refused:?}");
    let row = cluster.state.machine(&name("m0")).unwrap();
    assert!(row.drain.is_none() && row.next_drain.is_none());
    for (at, within) in [
        (ago(Millis::hours(1)), None),
        (ago(Millis::hours(1)), Some(Millis::hours(2))),
        (ago(Millis::seconds(30)), Some(Millis::seconds(10))),
        (now.plus(years(9)), five),
    ] {
        let reply = plan_drain(&mut cluster, at, within);
        assert!(matches!(reply, Reply::Drain { .. }), "{at}: {reply:?}");
    }
}
