//! Updates that start new tasks before old ones end, and updates that go part by part of the fleet.

use std::collections::BTreeSet;

use serde_json::json;
use tw_model::{JobSpec, MachineFacts, Millis, OnFailure, RolloutState, TaskState};

use tw_scheduler::Event;

use crate::cluster::{Cluster, id, service};

fn surging(replicas: u32, command: &str, surge: u32) -> JobSpec {
    let mut web = service("web", replicas, command);
    web.rollout.max_surge = surge;
    web.rollout.max_unavailable = surge.max(1);
    web
}

fn live(cluster: &Cluster) -> usize {
    let rows = cluster.job("web").tasks();
    rows.filter(|row| !row.state.is_terminal() && row.machine.is_some())
        .count()
}

/// The fewest that served and the most that lived until the update was over.
fn watch(cluster: &mut Cluster) -> (usize, usize) {
    let (mut fewest, mut most) = (usize::MAX, 0);
    cluster.pass(Millis(500));
    for _ in 0..600 {
        fewest = fewest.min(cluster.serving("web"));
        most = most.max(live(cluster));
        if cluster.settled("web") && live(cluster) == cluster.job("web").wanted() as usize {
            return (fewest, most);
        }
        cluster.pass(Millis(500));
    }
    panic!("never over\n{}", cluster.show());
}

#[test]
fn new_tasks_serve_before_old_ones_end() {
    for (replicas, surge) in [(6, 1), (6, 2), (1, 1)] {
        let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
        cluster.submit(&[surging(replicas, "one", surge)]);
        cluster.settle("web");
        let plan = cluster.submit(&[surging(replicas, "two", surge)]);
        assert_eq!(plan.jobs[0].surge, surge);
        let (fewest, most) = watch(&mut cluster);
        assert_eq!(
            (fewest, most),
            (replicas as usize, (replicas + surge) as usize),
            "{replicas} tasks and {surge} more"
        );
        // Nothing of it is left.
        cluster.pass(Millis::seconds(10));
        assert_eq!(live(&cluster), replicas as usize, "{}", cluster.show());
    }
}

#[test]
fn a_stage_bakes_for_longer_than_a_task_may_take_to_become_healthy() {
    let baked = |command: &str| {
        let mut web = surging(4, command, 1);
        web.rollout.bake = Millis::minutes(5);
        web.rollout.deadline = Millis::minutes(1);
        web
    };
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[baked("one")]);
    cluster.settle("web");
    cluster.submit(&[baked("two")]);
    cluster.pass(Millis::minutes(4));
    let rollout = cluster.job("web").row().rollout.clone();
    let rollout = rollout.expect("the stage bakes");
    assert_eq!(rollout.state, RolloutState::Running, "{}", rollout.reason);
    cluster.settle("web");
}

#[test]
fn no_more_run_beside_than_the_job_allows_or_than_may_be_down() {
    for (surge, down, most_beside) in [(1, 3, 1), (3, 1, 1), (3, 2, 2)] {
        let version = |command| {
            let mut web = surging(6, command, surge);
            web.rollout.max_unavailable = down;
            web
        };
        let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
        cluster.submit(&[version("one")]);
        cluster.settle("web");
        let plan = cluster.submit(&[version("two")]);
        assert_eq!(plan.jobs[0].surge, most_beside);
        let (_, most) = watch(&mut cluster);
        assert_eq!(
            most,
            6 + most_beside as usize,
            "max_surge {surge}, max_unavailable {down}"
        );
    }
}

#[test]
fn no_more_start_than_a_stage_may_harm() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[surging(6, "one", 3)]);
    cluster.settle("web");
    cluster.submit(&[surging(6, "sick", 3)]);
    let mut new = 0;
    for _ in 0..200 {
        cluster.pass(Millis(500));
        let rows = cluster.job("web").tasks();
        let rows = rows.filter(|row| row.version == 2 && row.machine.is_some());
        new = new.max(rows.filter(|row| !row.state.is_terminal()).count());
    }
    let rollout = cluster.job("web").row().rollout.clone().unwrap();
    assert_eq!(rollout.state, RolloutState::Halted);
    assert!(rollout.reason.contains("web.6#"), "{}", rollout.reason);
    assert_eq!(new, 1, "the first stage is one task");
    // The one that nobody asked for is gone, and all that ran runs on.
    assert_eq!((live(&cluster), cluster.serving("web")), (6, 6));
}

#[test]
fn a_failed_update_takes_itself_back_without_an_end_of_what_serves() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let taking_itself_back = |command| {
        let mut web = surging(4, command, 1);
        web.rollout.on_failure = OnFailure::Rollback;
        web
    };
    cluster.submit(&[taking_itself_back("one")]);
    cluster.settle("web");
    let before: Vec<_> = (0..4)
        .map(|index| cluster.task("web", index).id.clone())
        .collect();
    cluster.submit(&[taking_itself_back("crash")]);
    cluster.until("it has taken itself back", |cluster| {
        cluster.job("web").row().version == 3 && cluster.settled("web")
    });
    cluster.pass(Millis::seconds(5));
    let after: Vec<_> = (0..4)
        .map(|index| cluster.task("web", index).id.clone())
        .collect();
    assert_eq!(
        before, after,
        "only the extra task ever had the bad version"
    );
    assert_eq!(live(&cluster), 4);
}

#[test]
fn where_there_is_no_room_the_budget_says_how_many_end() {
    // Room for four tasks of two cores, and four are wanted.
    let full = |command: &str| {
        let mut web = surging(4, command, 1);
        web.resources.cpu = tw_model::Cores(2000);
        web
    };
    let mut cluster = Cluster::new(&[(4, 8192), (4, 8192)]);
    cluster.submit(&[full("one")]);
    cluster.settle("web");
    let plan = cluster.submit(&[full("two")]);
    assert_eq!(plan.jobs[0].surge, 0);
    assert_eq!(watch(&mut cluster), (3, 4));
}

#[test]
fn tasks_beyond_the_wanted_number_displace_nobody_and_are_not_in_the_way() {
    let mut cluster = Cluster::new(&[(4, 8192)]);
    let mut low = service("low", 2, "run");
    low.priority = 10;
    low.resources.cpu = tw_model::Cores(1000);
    let web = |command: &str, cores: u64| {
        let mut web = surging(1, command, 1);
        web.priority = 90;
        web.resources.cpu = tw_model::Cores(cores);
        web
    };
    cluster.submit(&[low.clone(), web("one", 1000)]);
    cluster.settle("web");
    cluster.settle("low");
    let before: Vec<_> = (0..2)
        .map(|index| cluster.task("low", index).id.clone())
        .collect();
    // The extra one takes the core that is free; then the task itself finds two only once it has gone.
    cluster.submit(&[web("two", 2000)]);
    cluster.settle("web");
    cluster.pass(Millis::seconds(5));
    let after: Vec<_> = (0..2)
        .map(|index| cluster.task("low", index).id.clone())
        .collect();
    assert_eq!(before, after, "{}", cluster.show());
    assert_eq!(cluster.serving("web"), 1);
    assert_eq!(live(&cluster), 1);
}

fn in_place(number: u32, place: &str) -> MachineFacts {
    let parts: Vec<&str> = place.split('/').collect();
    MachineFacts {
        address: format!("m{number}.example"),
        datacenter: parts[0].to_owned(),
        cluster: parts[1].to_owned(),
        rack: parts[2].to_owned(),
        ..MachineFacts::default()
    }
}

/// Two machines in each of two racks, of two clusters, of two data centres.
fn region() -> Cluster {
    let mut cluster = Cluster::new(&[]);
    let mut number = 0;
    for datacenter in ["east", "west"] {
        for group in ["a", "b"] {
            for rack in ["r1", "r2"] {
                for _ in 0..2 {
                    let facts = in_place(number, &format!("{datacenter}/{group}/{rack}"));
                    let name = format!("m{number}");
                    cluster.register_as(&name, "boot-1", (2, 4096), Vec::new(), facts);
                    number += 1;
                }
            }
        }
    }
    cluster
}

fn staged(command: &str) -> JobSpec {
    let mut web = service("web", 32, command);
    let stages = json!([1, "machine", "rack", "cluster", "datacenter", "100%"]);
    web.rollout.stages = serde_json::from_value(stages).expect("they are stages");
    web.rollout.max_unavailable = 4;
    web.resources.cpu = tw_model::Cores(1000);
    web
}

#[test]
fn stages_grow_with_the_parts_of_the_fleet_around_the_first_task() {
    let mut cluster = region();
    cluster.submit(&[staged("one")]);
    cluster.settle("web");
    let plan = cluster.plan(&[staged("two")]);
    assert_eq!(plan.jobs[0].stages, [1, 2, 4, 8, 16, 32]);
    let parts = plan.jobs[0].stage_parts.iter();
    let parts: Vec<&str> = parts
        .map(|part| part.map_or("", |part| part.as_str()))
        .collect();
    assert_eq!(parts, ["", "machine", "rack", "cluster", "datacenter", ""]);
    cluster.submit(&[staged("two")]);

    let mut seen = vec![BTreeSet::new(); 6];
    while !cluster.settled("web") {
        cluster.pass(Millis(500));
        let job = cluster.job("web");
        let Some(rollout) = &job.row().rollout else {
            continue;
        };
        let new = job.latest_of_each().filter(|row| row.version == 2);
        let machines = new.filter_map(|row| cluster.state.machine(row.machine.as_ref()?));
        seen[rollout.stage as usize].extend(machines.map(|machine| {
            let facts = &machine.facts;
            format!("{}/{}/{}", facts.datacenter, facts.cluster, facts.rack)
        }));
    }
    let all = |part: &str| -> BTreeSet<String> {
        let places = ["east", "west"].iter().flat_map(|datacenter| {
            let racks = ["a/r1", "a/r2", "b/r1", "b/r2"];
            racks.map(|rack| format!("{datacenter}/{rack}"))
        });
        places.filter(|place| place.starts_with(part)).collect()
    };
    let origin = seen[0].first().unwrap().clone();
    let (group, datacenter) = (&origin[..6], &origin[..4]);
    let wanted = [&origin, &origin, &origin, group, datacenter, ""].map(all);
    assert_eq!(seen, wanted, "from {origin}");
    let web = id("web");
    let events = cluster.state.events(&web);
    let events: Vec<String> = events.map(|event| event.message.clone()).collect();
    assert!(
        events.contains(&"version 2: stage 4 of 6, 8 tasks in one cluster".to_owned()),
        "{events:?}"
    );
}

#[test]
fn a_bad_version_harms_no_more_than_the_first_part() {
    let mut cluster = region();
    let mut one = staged("one");
    let stages = json!(["machine", "cluster"]);
    one.rollout.stages = serde_json::from_value(stages).expect("they are stages");
    cluster.submit(&[one.clone()]);
    cluster.settle("web");
    one.command.0 = vec!["sick".to_owned()];
    let plan = cluster.plan(&[one.clone()]);
    assert_eq!(plan.jobs[0].stages, [2, 8, 32]);
    cluster.submit(&[one]);
    cluster.pass(Millis::minutes(3));
    let job = cluster.job("web");
    assert_eq!(
        job.row().rollout.as_ref().unwrap().state,
        RolloutState::Halted
    );
    let new: Vec<_> = job
        .latest_of_each()
        .filter(|row| row.version == 2)
        .collect();
    let machines: BTreeSet<_> = new.iter().filter_map(|row| row.machine.as_ref()).collect();
    assert_eq!((new.len(), machines.len()), (2, 1), "{}", cluster.show());
}

#[test]
fn a_task_that_is_elsewhere_by_then_is_taken_with_the_part_it_is_in() {
    let mut cluster = region();
    let web = |command| {
        let mut web = staged(command);
        web.replicas = 28;
        web
    };
    cluster.submit(&[web("one")]);
    cluster.settle("web");
    cluster.submit(&[web("two")]);
    cluster.until("the machine has it", |cluster| {
        let rollout = cluster.job("web").row().rollout.as_ref();
        rollout.is_some_and(|rollout| rollout.stage == 2)
    });
    let origin = cluster
        .job("web")
        .row()
        .rollout
        .clone()
        .unwrap()
        .origin
        .unwrap();
    cluster.silent.push(origin.to_string());
    let silent = 30;
    cluster.decide(Event::MachineLost {
        machine: origin,
        silent,
    });
    cluster.settle("web");
    let job = cluster.job("web");
    assert!(
        job.latest_of_each()
            .all(|row| row.version == 2 && row.state == TaskState::Running)
    );
}

#[test]
fn tasks_that_are_down_elsewhere_do_not_hold_up_a_part() {
    let mut cluster = region();
    let mut web = staged("one");
    web.rollout.max_unavailable = 1;
    let stages = json!(["rack", "100%"]);
    web.rollout.stages = serde_json::from_value(stages).expect("they are stages");
    cluster.submit(&[web.clone()]);
    cluster.settle("web");
    let crash = |cluster: &mut Cluster| {
        for index in [20, 21] {
            let row = cluster.task("web", index);
            let (task, old) = (row.id.clone(), row.version == 1);
            if old && row.state == TaskState::Running {
                cluster.exited(&task, 1);
            }
        }
        cluster.pass(Millis(500));
    };
    crash(&mut cluster);
    web.command.0 = vec!["two".to_owned()];
    cluster.submit(&[web]);
    for _ in 0..400 {
        crash(&mut cluster);
    }
    assert!(cluster.settled("web"), "{}", cluster.show());
    assert_eq!(cluster.serving("web"), 32);
}
