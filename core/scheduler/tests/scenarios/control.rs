//! Applications that have a say: reasonable ones, silent ones, and those that say yes to everything.

use serde_json::json;
use tw_model::{Code, EnvName, JobSpec, MachineFacts, Millis, Operation};
use tw_scheduler::{
    ConfirmRule, Consultation, DrainOrder, Event, ExpectedPlan, Reply, Review, StopLimiter,
    StopLimits, StopRate, Submission, consultations,
};

use crate::cluster::{Cluster, id, service, spec};

fn controlled(replicas: u32, command: &str) -> JobSpec {
    let control = json!({
        "name": "x", "command": ["x"],
        "ports": ["http"], "task_control": {"port": "http", "deadline_ms": 60_000}
    });
    let mut job = service("web", replicas, command);
    job.task_control = spec(control).task_control;
    job.rollout.stages = Box::from([tw_model::Stage::Percent(100)]);
    job
}

/// Three tasks at version one, and an update that waits for their word.
fn updating() -> Cluster {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[controlled(3, "one")]);
    cluster.settle("web");
    cluster.submit(&[controlled(3, "two")]);
    cluster
}

fn asked(cluster: &Cluster) -> Consultation {
    let mut all = consultations(&cluster.state);
    assert_eq!(all.len(), 1, "{}", cluster.show());
    all.remove(0)
}

fn answer(cluster: &mut Cluster, approved: &[String]) -> Vec<String> {
    let event = Event::TaskControl {
        job: id("web"),
        approved: approved.to_vec(),
    };
    match cluster.decide(event) {
        Reply::Controlled { unknown } => unknown,
        other => panic!("{other:?}"),
    }
}

/// The indexes of the tasks that have the newest version.
fn updated(cluster: &Cluster) -> Vec<u32> {
    let job = cluster.job("web");
    let newest = job.latest_of_each().filter(|row| row.version == 2);
    newest.map(|row| row.id.index).collect()
}

#[test]
fn an_application_says_who_is_first_and_who_is_last() {
    let mut cluster = updating();
    cluster.pass(Millis::seconds(20));
    assert_eq!(updated(&cluster), [0; 0], "nothing was approved");
    let question = asked(&cluster);
    assert_eq!(question.operations.len(), 3);
    assert!(
        question
            .operations
            .iter()
            .all(|one| one.operation == Operation::Update)
    );
    for last in [2, 1, 0] {
        let one = asked(&cluster)
            .operations
            .into_iter()
            .find(|one| one.task.index == last);
        let one = one.expect("it is still to be done").id;
        assert_eq!(answer(&mut cluster, &[one]), [""; 0]);
        cluster.until("it is done", |cluster| {
            updated(cluster).contains(&last) && cluster.serving("web") == 3
        });
        assert_eq!(updated(&cluster), (last..3).collect::<Vec<_>>());
    }
    cluster.settle("web");
    assert!(consultations(&cluster.state).is_empty());
}

#[test]
fn an_approval_may_be_taken_back_before_it_is_used() {
    let mut cluster = updating();
    let all: Vec<String> = asked(&cluster)
        .operations
        .into_iter()
        .map(|one| one.id)
        .collect();
    answer(&mut cluster, &all);
    // One goes; the others wait for the budget, and then for a new word.
    cluster.pass(Millis::seconds(30));
    assert_eq!(updated(&cluster).len(), 1, "{}", cluster.show());
}

#[test]
fn who_approves_everything_at_once_still_has_the_budget() {
    let mut cluster = updating();
    for _ in 0..400 {
        let all = consultations(&cluster.state)
            .into_iter()
            .flat_map(|one| one.operations);
        let mut all: Vec<String> = all.map(|one| one.id).collect();
        all.extend(["web.7#99/update/v2".to_owned(), String::new()]);
        let unknown = answer(&mut cluster, &all);
        assert_eq!(
            unknown.len(),
            2,
            "what was never offered is named: {unknown:?}"
        );
        cluster.pass(Millis(500));
        assert!(cluster.serving("web") >= 2, "{}", cluster.show());
        if cluster.settled("web") {
            return;
        }
    }
    panic!("it never settled\n{}", cluster.show());
}

#[test]
fn a_liar_has_no_say_and_what_it_names_twice_counts_where_it_came_first() {
    let mut cluster = updating();
    let offered: Vec<String> = asked(&cluster)
        .operations
        .into_iter()
        .map(|one| one.id)
        .collect();
    let lies: Vec<String> = (0..10_000)
        .map(|number| format!("web.{number}#9999/update/v2"))
        .collect();
    assert_eq!(answer(&mut cluster, &lies), lies);
    assert_eq!(updated(&cluster), [0; 0]);
    let mut answered = vec![offered[2].clone(), offered[0].clone(), offered[2].clone()];
    answered.extend(lies.iter().cloned());
    assert_eq!(answer(&mut cluster, &answered), lies);
    cluster.until("one is done", |cluster| !updated(cluster).is_empty());
    assert_eq!(updated(&cluster), [2], "{}", cluster.show());
}

#[test]
fn a_dead_application_delays_each_operation_until_its_deadline() {
    let mut cluster = updating();
    let began = cluster.now;
    cluster.until("the first is done all the same", |cluster| {
        updated(cluster).len() == 1
    });
    let waited = cluster.now.since(began);
    assert!((60_000..70_000).contains(&waited.0), "{waited}");
    cluster.settle("web");
    let waited = cluster.now.since(began);
    assert!(waited.0 < 3 * 75_000, "{waited}");
}

#[test]
fn a_drain_asks_as_well_and_its_deadline_is_kept() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    cluster.submit(&[controlled(3, "one")]);
    cluster.settle("web");
    let machine = cluster.machine_of("web", 0);
    let order = |within| Event::Drain {
        machines: vec![machine.parse().expect("a name")],
        order: DrainOrder::Begin {
            reason: String::new(),
            within,
            lasts: None,
        },
        by: "ann".to_owned(),
    };
    cluster.decide(order(None));
    assert_eq!(
        asked(&cluster).operations[0].operation,
        Operation::Maintenance
    );
    cluster.decide(Event::Drain {
        machines: vec![machine.parse().expect("a name")],
        order: DrainOrder::End,
        by: "ann".to_owned(),
    });
    cluster.pass(Millis::seconds(1));
    assert!(
        consultations(&cluster.state).is_empty(),
        "what nobody wants any more is not asked"
    );
    cluster.decide(order(Some(Millis::seconds(30))));
    let before = cluster.now;
    cluster.until("it has left", |cluster| {
        cluster.machine_of("web", 0) != machine
    });
    assert!(cluster.now.since(before) <= Millis::seconds(35));
}

/// Approves all that is offered in this order, again and again, and expects the first of it to be carried out each time: an
/// approval counts until another operation was.
fn done_in_order(cluster: &mut Cluster, operation: Operation, order: [u32; 3]) {
    for (number, index) in order.into_iter().enumerate() {
        cluster.pass(Millis::seconds(20));
        let question = asked(cluster);
        let offered = question.operations.iter().map(|one| one.operation);
        assert_eq!(offered.collect::<Vec<_>>(), vec![operation; 3 - number]);
        let id_of = |index: &u32| {
            let mut all = question.operations.iter();
            let one = all.find(|one| one.task.index == *index);
            one.expect("it is still to be done").id.clone()
        };
        let approved: Vec<String> = order[number..].iter().map(id_of).collect();
        answer(cluster, &approved);
        cluster.until("it is done", |cluster| {
            cluster.task("web", index).id.incarnation > 3 && cluster.serving("web") == 3
        });
        cluster.pass(Millis::seconds(10));
        let job = cluster.job("web");
        let done = job.latest_of_each().filter(|row| row.id.incarnation > 3);
        assert_eq!(done.count(), number + 1, "{}", cluster.show());
    }
    cluster.pass(Millis::seconds(20));
    assert!(consultations(&cluster.state).is_empty());
}

#[test]
fn a_restart_asks_as_well() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[controlled(3, "one")]);
    cluster.settle("web");
    cluster.decide(Event::RestartJob {
        job: id("web"),
        by: "ann".to_owned(),
    });
    done_in_order(&mut cluster, Operation::Restart, [1, 2, 0]);
}

#[test]
fn tasks_leave_machines_that_are_unfit_in_the_order_of_their_application() {
    let fast = || MachineFacts {
        labels: [("disk".to_owned(), "nvme".to_owned())].into(),
        ..MachineFacts::default()
    };
    let mut cluster = Cluster::new(&[]);
    cluster.register_again("m0", (8, 8192), fast());
    let mut job = controlled(3, "one");
    let disk = EnvName("disk".to_owned());
    job.requires.labels.insert(disk, "nvme".to_owned());
    cluster.submit(&[job]);
    cluster.settle("web");
    cluster.register_again("m1", (8, 8192), fast());
    cluster.register_again("m0", (8, 8192), MachineFacts::default());
    done_in_order(&mut cluster, Operation::Move, [2, 0, 1]);
    assert!((0..3).all(|index| cluster.machine_of("web", index) == "m1"));
}

#[test]
fn stops_come_no_faster_than_they_may_and_all_come_in_the_end() {
    let mut cluster = Cluster::new(&[(64, 64 << 10), (64, 64 << 10)]);
    let mut many = service("many", 60, "one");
    many.rollout.stages = Box::from([tw_model::Stage::Percent(100)]);
    cluster.submit(&[many]);
    cluster.settle("many");
    let limits = StopLimits {
        job: StopRate {
            burst: 10,
            per_second: 2,
        },
        total: StopRate {
            burst: 100,
            per_second: 100,
        },
    };
    let mut limiter = StopLimiter::new(limits, 0);
    let stop = Cluster::removal("many");
    let mut stopping = Vec::new();
    for second in 0..40u64 {
        let event = if second == 0 { &stop } else { &Event::Tick };
        // The limiter has been quiet for ten seconds when the stop comes.
        cluster.decide_within(&mut limiter, event, 10_000 + second * 1000);
        let job = cluster.job("many");
        stopping.push(
            job.tasks()
                .filter(|row| row.desired == tw_model::Desired::Stop)
                .count(),
        );
    }
    assert_eq!(stopping[..4], [10, 12, 14, 16]);
    assert_eq!(stopping.last(), Some(&60));
}

#[test]
fn a_change_that_ends_many_tasks_is_confirmed_by_its_digest() {
    let mut cluster = Cluster::new(&[(64, 64 << 10), (64, 64 << 10)]);
    cluster.submit(&[service("many", 40, "one"), service("few", 20, "one")]);
    let ruled = |specs: &[JobSpec], confirmed: Option<&str>| Submission {
        confirm: Some(ConfirmRule::default()),
        confirmed: confirmed.map(str::to_owned),
        ..Cluster::submission(specs)
    };
    let planned = |cluster: &Cluster, specs: &[JobSpec]| {
        tw_scheduler::plan(&cluster.state, &ruled(specs, None), cluster.now, 1).unwrap()
    };
    let smaller = planned(&cluster, &[service("many", 30, "one")]);
    assert_eq!(smaller.confirmation, None);
    // An update that goes one by one ends nothing.
    let update = planned(&cluster, &[service("many", 40, "two")]);
    assert_eq!(update.confirmation, None);
    let nothing = [service("many", 0, "one")];
    let gone = planned(&cluster, &nothing);
    let words = gone.confirmation.unwrap().to_string();
    assert_eq!(words, "ends 40 of 60 tasks, 66%");
    // Where nobody has to confirm it, it is another plan.
    assert_ne!(gone.digest, cluster.plan(&nothing).digest);

    let apply = |cluster: &mut Cluster, confirmed: Option<&str>| {
        cluster.decide(Event::Submit {
            submission: ruled(&nothing, confirmed),
            expected: Some(ExpectedPlan::from(&gone)),
        })
    };
    for other in [
        None,
        Some(""),
        Some("1234567"),
        Some(smaller.digest.as_str()),
    ] {
        let Reply::Refused(refusal) = apply(&mut cluster, other) else {
            panic!("{other:?} confirms");
        };
        assert_eq!(refusal.code, Code::PlanDestructive);
        assert!(refusal.message.contains("40 of 60 tasks, 66%"), "{refusal}");
        assert!(refusal.hint.contains(&gone.digest[..8]), "{refusal:?}");
        assert_eq!(refusal.details, ["40 of many"]);
    }
    // One that is followed passes the same gate.
    let followed = |confirmed: Option<&str>| {
        Event::Review(Box::new(Review {
            submission: Some((ruled(&nothing, confirmed), ExpectedPlan::from(&gone))),
            ..Review::default()
        }))
    };
    let Reply::Refused(refusal) = cluster.decide(followed(None)) else {
        panic!("a followed plan needs no word");
    };
    assert_eq!(refusal.code, Code::PlanDestructive);
    let done = cluster.decide(followed(Some(&gone.digest[..8])));
    assert!(matches!(done, Reply::Submitted(_)), "{done:?}");
}
