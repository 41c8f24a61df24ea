//! Who goes first where there is not room for all, and who makes room.

use tw_model::{
    Affinity, Cores, Domain, JobSpec, Kind, MachineFacts, Millis, Spread, TaskRecord, TaskState,
};
use tw_scheduler::{Event, Verdict, why_pending};

use crate::cluster::{Cluster, batch, id, service};

/// A job of so many tasks of two cores each.
fn job(name: &str, replicas: u32, priority: u32) -> JobSpec {
    let mut job = service(name, replicas, "run");
    job.health.clear();
    job.resources.cpu = tw_model::Cores(2000);
    job.priority = priority;
    job
}

fn sort(replicas: u32, priority: u32) -> JobSpec {
    let mut sort = batch("sort", "long", 3);
    sort.replicas = replicas;
    sort.resources.cpu = tw_model::Cores(2000);
    sort.priority = priority;
    sort
}

fn running(cluster: &Cluster, name: &str) -> usize {
    let tasks = cluster.job(name).tasks();
    tasks.filter(|row| row.state == TaskState::Running).count()
}

fn register_in(cluster: &mut Cluster, name: &str, rack: &str, cpu: u64) {
    let facts = MachineFacts {
        rack: rack.to_owned(),
        ..MachineFacts::default()
    };
    cluster.register_as(name, "boot-1", (cpu, 8192), Vec::new(), facts);
}

#[test]
fn batch_of_lower_priority_makes_room_and_comes_back() {
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[sort(4, 20)]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "sort"), 4, "the free room is theirs");

    let plan = cluster.plan(&[job("web", 2, 80)]);
    let Verdict::Preempts { tasks } = &plan.jobs[0].verdict else {
        panic!("{:?}", plan.jobs[0].verdict);
    };
    assert_eq!(tasks.len(), 2);
    cluster.submit(&[job("web", 2, 80)]);
    let waiting = cluster.task("web", 0);
    assert!(
        waiting.reason.contains("to make room on"),
        "{}",
        waiting.reason
    );
    let why = why_pending(&cluster.state, &waiting.id, cluster.now)
        .unwrap()
        .to_string();
    assert!(
        why.starts_with("waits for tasks of lower priority to make room on m"),
        "{why}"
    );
    cluster.settle("web");
    assert_eq!(running(&cluster, "sort"), 2);

    let gone = cluster
        .job("sort")
        .latest_of_each()
        .find(|row| row.state == TaskState::Pending);
    let gone = gone.unwrap().clone();
    assert_eq!(
        (gone.failures, gone.restarts),
        (0, 0),
        "it did nothing wrong"
    );
    let why = why_pending(&cluster.state, &gone.id, cluster.now)
        .unwrap()
        .to_string();
    assert!(why.starts_with("makes room for web."), "{why}");
    assert!(why.contains("cpu short on 2 of 2"), "{why}");

    cluster.stop("web");
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "sort"), 4, "{}", cluster.show());
}

#[test]
fn equals_and_betters_stay() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    cluster.submit(&[sort(2, 50)]);
    cluster.pass(Millis::seconds(5));
    cluster.submit(&[job("web", 1, 50)]);
    cluster.pass(Millis::seconds(30));
    assert_eq!(
        (running(&cluster, "sort"), running(&cluster, "web")),
        (2, 0)
    );
}

#[test]
fn a_service_gives_no_more_than_its_budget() {
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[job("low", 4, 20)]);
    cluster.settle("low");
    cluster.submit(&[job("web", 3, 80)]);
    let mut least = 4;
    for _ in 0..60 {
        cluster.pass(Millis(500));
        least = least.min(cluster.serving("low"));
    }
    // One may be away, and one is: the others stay although two tasks of web wait.
    assert_eq!(
        (least, running(&cluster, "web")),
        (3, 1),
        "{}",
        cluster.show()
    );
}

#[test]
fn those_of_the_lowest_priority_go_and_batch_before_services() {
    let mut cluster = Cluster::new(&[(8, 16_384)]);
    cluster.submit(&[job("low", 1, 30), job("lower", 1, 20)]);
    cluster.submit(&[sort(2, 30)]);
    cluster.pass(Millis::seconds(10));
    cluster.submit(&[job("web", 1, 80)]);
    cluster.settle("web");
    assert_eq!(
        (running(&cluster, "lower"), running(&cluster, "low")),
        (0, 1)
    );
    let mut more = job("more", 1, 80);
    more.name = "more".parse().unwrap();
    cluster.submit(&[more]);
    cluster.settle("more");
    assert_eq!(
        (running(&cluster, "low"), running(&cluster, "sort")),
        (1, 1)
    );
}

#[test]
fn promised_room_is_kept_from_those_of_lower_priority() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    cluster.submit(&[sort(2, 20)]);
    cluster.pass(Millis::seconds(5));
    let mut wide = job("wide", 1, 80);
    wide.resources.cpu = tw_model::Cores(4000);
    cluster.submit(&[wide]);
    // One of the two ends at once, the other takes its time.
    let (first, second) = (
        cluster.task("sort", 0).id.clone(),
        cluster.task("sort", 1).id.clone(),
    );
    cluster.exited(&first, 143);
    let mut small = job("small", 1, 40);
    small.resources.cpu = tw_model::Cores(1000);
    cluster.submit(&[small.clone()]);
    for _ in 0..10 {
        cluster.now = cluster.now.plus(Millis(500));
        cluster.decide(Event::Tick);
    }
    assert_eq!(cluster.task("small", 0).state, TaskState::Pending);
    assert_eq!(cluster.task("sort", 0).state, TaskState::Pending);
    cluster.exited(&second, 143);
    cluster.settle("wide");
    assert_eq!(cluster.task("wide", 0).state, TaskState::Running);
}

#[test]
fn freed_room_goes_to_those_of_the_highest_priority() {
    let mut cluster = Cluster::new(&[(2, 4096)]);
    cluster.submit(&[job("now", 1, 90)]);
    cluster.settle("now");
    cluster.submit(&[
        job("a-low", 1, 10),
        job("b-high", 1, 70),
        job("c-mid", 1, 40),
    ]);
    cluster.pass(Millis::seconds(5));
    cluster.stop("now");
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "b-high"), 1, "{}", cluster.show());
}

#[test]
fn daemons_and_tasks_with_volumes_stay() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    let mut daemon = job("agent", 1, 10);
    daemon.kind = Kind::Daemon;
    let volume = serde_json::json!([{"name": "data", "path": "/data", "size_bytes": 1 << 20}]);
    let mut store = job("store", 1, 10);
    store.volumes = serde_json::from_value(volume).unwrap();
    cluster.submit(&[daemon, store]);
    cluster.pass(Millis::seconds(10));
    let plan = cluster.submit(&[job("web", 1, 80)]);
    assert!(matches!(plan.jobs[0].verdict, Verdict::DoesNotFit { .. }));
    cluster.pass(Millis::seconds(20));
    assert_eq!(
        (running(&cluster, "agent"), running(&cluster, "store")),
        (1, 1)
    );
}

#[test]
fn one_that_makes_room_for_several_is_enough() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let mut large = sort(2, 20);
    large.resources.cpu = tw_model::Cores(8000);
    cluster.submit(&[large]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "sort"), 2);
    let plan = cluster.submit(&[job("web", 4, 80)]);
    assert_eq!(
        plan.jobs[0].verdict.preempts().len(),
        1,
        "{:?}",
        plan.jobs[0]
    );
    cluster.settle("web");
    assert_eq!(running(&cluster, "web"), 4, "{}", cluster.show());
    assert_eq!(running(&cluster, "sort"), 1, "{}", cluster.show());
}

#[test]
fn who_makes_room_is_named_also_where_not_all_find_room() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    cluster.submit(&[sort(2, 20)]);
    cluster.pass(Millis::seconds(5));
    let verdict = &cluster.plan(&[job("web", 3, 80)]).jobs[0].verdict;
    assert!(
        matches!(verdict, Verdict::DoesNotFit { tasks: 1, .. }),
        "{verdict:?}"
    );
    assert_eq!(verdict.preempts().len(), 2, "{verdict:?}");
    assert!(
        verdict.to_string().contains("; preempts sort.0#"),
        "{verdict}"
    );
}

#[test]
fn tasks_beyond_the_wanted_number_displace_nobody() {
    let version = |command: &str, replicas: u32| {
        let mut web = job("web", replicas, 80);
        web.command.0 = vec![command.to_owned()];
        web.rollout.max_surge = 1;
        web.rollout.max_unavailable = 1;
        web
    };
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[version("one", 1)]);
    cluster.settle("web");
    cluster.submit(&[sort(3, 20)]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "sort"), 3, "nothing is free");
    // One more is wanted, and it makes one of them leave; the one that an update would run beside makes none.
    let plan = cluster.submit(&[version("two", 2)]);
    assert_eq!(plan.jobs[0].verdict.preempts().len(), 1);
    cluster.settle("web");
    cluster.pass(Millis::seconds(5));
    let sort = id("sort");
    let events = cluster.state.events(&sort);
    let gave_way = events.filter(|event| {
        event.kind == "task.stopping" && event.message.starts_with("makes room for ")
    });
    assert_eq!(gave_way.count(), 1, "{}", cluster.show());
}

#[test]
fn who_waits_takes_the_room_of_its_own_job_before_that_of_others() {
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[job("web", 2, 80)]);
    cluster.settle("web");
    cluster.submit(&[sort(2, 20)]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "sort"), 2, "nothing is free");
    // The first index waits for room in the decision that lets the second one go.
    let first = cluster.task("web", 0).id.clone();
    cluster.exited(&first, 1);
    let mut wide = job("web", 1, 80);
    wide.resources.cpu = tw_model::Cores(2000);
    let plan = cluster.submit(&[wide]);
    assert!(plan.jobs[0].verdict.preempts().is_empty(), "{plan:?}");
    cluster.settle("web");
    assert_eq!(running(&cluster, "sort"), 2, "{}", cluster.show());
}

#[test]
fn who_may_not_be_near_its_own_job_waits_for_those_of_it_that_leave() {
    for within in [Domain::Machine, Domain::Rack] {
        let mut cluster = Cluster::new(&[]);
        // Beside the two machines of the job one that is too small for it, and one that only its own job is in the way on.
        for (name, rack, cpu) in [
            ("m0", "a", 4),
            ("m1", "b", 4),
            ("m2", "c", 2),
            ("m3", "b", 3),
        ] {
            if name != "m3" || within == Domain::Rack {
                register_in(&mut cluster, name, rack, cpu);
            }
        }
        let web = |replicas: u32, cpu: u64| {
            let mut web = job("web", replicas, 80);
            web.resources.cpu = Cores(cpu);
            web.stop.grace = Millis::seconds(5);
            web.anti_affinity = vec![Affinity {
                job: "web".parse().unwrap(),
                within,
                required: true,
            }];
            web
        };
        cluster.submit(&[web(2, 2500)]);
        cluster.settle("web");
        let small = sort(1, 20);
        cluster.submit(&[small]);
        cluster.until("all is in use", |cluster| running(cluster, "sort") == 1);
        let machine = cluster.machine_of("web", 0);
        cluster.silent.push(machine.clone());
        cluster.decide(Event::MachineLost {
            machine: machine.parse().unwrap(),
            silent: 1,
        });
        cluster.pass(Millis::seconds(30));
        assert_eq!(running(&cluster, "web"), 1, "{}", cluster.show());
        let plan = cluster.submit(&[web(1, 2000)]);
        assert!(plan.jobs[0].verdict.preempts().is_empty(), "{plan:?}");
        assert_eq!(running(&cluster, "sort"), 1, "{}", cluster.show());
        cluster.until("it runs", |cluster| cluster.settled("web"));
        assert_eq!(running(&cluster, "sort"), 1, "{}", cluster.show());
    }
}

#[test]
fn tasks_that_are_kept_apart_have_room_made_on_as_many_machines() {
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[sort(4, 20)]);
    cluster.until("all is in use", |cluster| running(cluster, "sort") == 4);
    let mut web = job("web", 2, 80);
    web.resources.cpu = Cores(1000);
    web.anti_affinity = vec![Affinity {
        job: "web".parse().unwrap(),
        within: Domain::Machine,
        required: true,
    }];
    // Either of those that leave would have made room for both.
    let plan = cluster.submit(&[web]);
    assert_eq!(plan.jobs[0].verdict.preempts().len(), 2, "{plan:?}");
    let sort_stops = cluster.job("sort").tasks();
    let sort_stops = sort_stops.filter(|row| row.state == TaskState::Stopping);
    assert_eq!(sort_stops.count(), 2, "{}", cluster.show());
    cluster.settle("web");
    assert_ne!(cluster.machine_of("web", 0), cluster.machine_of("web", 1));
}

#[test]
fn who_does_not_end_is_not_waited_for() {
    let mut cluster = Cluster::new(&[(2, 4096), (2, 4096)]);
    cluster.submit(&[sort(2, 20)]);
    cluster.until("all is in use", |cluster| running(cluster, "sort") == 2);
    cluster.submit(&[job("web", 1, 80)]);
    let stuck = cluster.job("sort").tasks();
    let stuck = stuck.filter(|row| row.state == TaskState::Stopping);
    let stuck: Vec<TaskRecord> = stuck.cloned().collect();
    assert_eq!(stuck.len(), 1, "{}", cluster.show());
    // Its agent says nothing, and nobody takes its machine for lost.
    let stop = &cluster.job("sort").spec().stop;
    let own = stop.drain + stop.grace;
    let machine = stuck[0].machine.clone().unwrap();
    cluster.silent.push(machine.to_string());
    cluster.pass(own);
    assert_eq!(running(&cluster, "sort"), 1, "{}", cluster.show());
    cluster.pass(Millis::minutes(1));
    assert_eq!(running(&cluster, "web"), 1, "{}", cluster.show());
    let still = cluster.task("sort", stuck[0].id.index);
    assert_eq!(
        (&still.id, still.state),
        (&stuck[0].id, TaskState::Stopping)
    );
}

#[test]
fn who_is_held_off_until_a_second_rack_has_a_task_ends_nobody_meanwhile() {
    let mut cluster = Cluster::new(&[]);
    register_in(&mut cluster, "m0", "a", 4);
    cluster.submit(&[sort(2, 20)]);
    cluster.until("all is in use", |cluster| running(cluster, "sort") == 2);
    register_in(&mut cluster, "m1", "b", 8);
    let mut web = job("web", 4, 80);
    web.resources.cpu = Cores(1500);
    web.spread = vec![Spread {
        over: Domain::Rack,
        at_least: 2,
    }];
    let plan = cluster.submit(&[web]);
    assert_eq!(plan.jobs[0].verdict.preempts().len(), 1, "{plan:?}");
    cluster.settle("web");
    assert_eq!(running(&cluster, "sort"), 2, "{}", cluster.show());
    let sort = id("sort");
    let events = cluster.state.events(&sort);
    let gave_way = events.filter(|event| {
        event.kind == "task.stopping" && event.message.starts_with("makes room for ")
    });
    assert_eq!(gave_way.count(), 1, "{}", cluster.show());
}

#[test]
fn who_waits_for_room_takes_a_turn_of_those_that_may_run_at_the_same_time() {
    let mut cluster = Cluster::new(&[(3, 8192), (3, 8192)]);
    let database = |command| {
        let mut database = service("database", 1, command);
        database.resources.cpu = Cores(100);
        database
    };
    let mut sort = sort(3, 80);
    sort.depends_on = vec!["database".parse().unwrap()];
    let mut low = job("low", 2, 20);
    low.rollout.max_unavailable = 2;
    cluster.submit(&[low, database("sick"), sort.clone()]);
    cluster.pass(Millis::seconds(5));
    assert_eq!(running(&cluster, "low"), 2);
    // All three wait for the database when only one of them may run at a time.
    sort.parallelism = Some(1);
    cluster.submit(&[sort]);
    let waiting = |cluster: &Cluster| {
        let tasks = cluster.job("sort").tasks();
        tasks.filter(|row| row.state == TaskState::Pending).count()
    };
    assert_eq!(waiting(&cluster), 3);
    cluster.submit(&[database("run")]);
    cluster.until("one of them runs", |cluster| running(cluster, "sort") == 1);
    cluster.pass(Millis::seconds(30));
    let ended = cluster.events("low");
    let ended = ended.iter().filter(|kind| *kind == "task.stopping");
    assert_eq!(ended.count(), 1, "{}", cluster.show());
    assert_eq!(running(&cluster, "sort"), 1, "{}", cluster.show());
}
