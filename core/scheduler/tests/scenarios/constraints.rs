//! Where tasks may run: what machines have, who else is there, and what is told where nothing fits.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use tw_model::{Code, Domain, JobSpec, MachineFacts, Millis, TaskState};
use tw_scheduler::{Event, PendingWhy, Reply, State, why_pending};

use crate::cluster::{Cluster, batch, service, spec};

fn facts(rack: &str, os: &str, labels: &[(&str, &str)]) -> MachineFacts {
    MachineFacts {
        rack: rack.to_owned(),
        os: os.to_owned(),
        kernel: "6.1.0-28-amd64".to_owned(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..MachineFacts::default()
    }
}

/// Machines of 8 cores and 8 GiB, `m0` on.
fn cluster(machines: &[MachineFacts]) -> Cluster {
    let mut cluster = Cluster::new(&[]);
    for (number, facts) in machines.iter().enumerate() {
        let name = format!("m{number}");
        cluster.register_as(&name, "boot-1", (8, 8192), Vec::new(), facts.clone());
    }
    cluster
}

fn racks(names: &[&str]) -> Cluster {
    let machines: Vec<MachineFacts> = names.iter().map(|rack| facts(rack, "", &[])).collect();
    cluster(&machines)
}

fn with(mut job: JobSpec, fields: Value) -> JobSpec {
    let mut value = serde_json::to_value(&job).unwrap();
    for (key, field) in fields.as_object().unwrap() {
        value[key] = field.clone();
    }
    job = spec(value);
    job
}

fn places(cluster: &Cluster, name: &str) -> Vec<String> {
    (0..cluster.job(name).wanted())
        .map(|index| cluster.machine_of(name, index))
        .collect()
}

fn why(cluster: &Cluster, name: &str, index: u32) -> String {
    let task = cluster.task(name, index).id.clone();
    why_pending(&cluster.state, &task, cluster.now)
        .unwrap()
        .to_string()
}

fn refused(cluster: &mut Cluster, spec: &JobSpec) -> (Code, String) {
    let submission = Cluster::submission(std::slice::from_ref(spec));
    match cluster.decide(Event::Submit {
        submission,
        expected: None,
    }) {
        Reply::Refused(refusal) => (refusal.code, refusal.message),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_job_runs_only_where_it_may() {
    let mut cluster = cluster(&[
        facts("a", "debian-11", &[]),
        facts("a", "debian-12", &[("disk", "hdd")]),
        facts("a", "ubuntu-24.04", &[("disk", "nvme")]),
        facts("a", "debian-12", &[("disk", "nvme")]),
    ]);
    let requires = json!({"requires": {
        "os": "debian", "os_version": ">=12", "kernel": ">=6.1, <7", "labels": {"disk": "nvme"},
    }});
    cluster.submit(&[with(service("web", 2, "x"), requires)]);
    assert_eq!(places(&cluster, "web"), ["m3", "m3"]);
}

#[test]
fn what_stands_in_the_way_is_counted_with_the_smallest_change() {
    let mut cluster = cluster(&[
        facts("a", "debian-11", &[]),
        facts("a", "debian-12", &[]),
        facts("b", "debian-12", &[("disk", "nvme")]),
        facts("b", "debian-12", &[("disk", "nvme")]),
    ]);
    cluster.decide(Event::MachineLost {
        machine: "m3".parse().unwrap(),
        silent: 1,
    });
    let mut web = with(
        service("web", 1, "x"),
        json!({"requires": {"os_version": ">=12", "labels": {"disk": "nvme"}}}),
    );
    web.resources.memory = tw_model::Bytes::gib(9);
    cluster.submit(&[web.clone()]);
    assert_eq!(
        why(&cluster, "web", 0),
        "memory short on 1 of 3 by at least 1 GiB, os version not >=12 on 1, label disk≠nvme on 1, 1 lost; \
         with memory ≤ 8 GiB it would fit on m2; no machine is large enough even when empty"
    );
    web.resources.memory = tw_model::Bytes::gib(1);
    web.requires.labels.clear();
    web.requires.region = Some("north".parse().unwrap());
    cluster.submit(&[web]);
    assert_eq!(
        why(&cluster, "web", 0),
        "region≠north on 2, os version not >=12 on 1, 1 lost; without \"region≠north\" it would fit on m1"
    );
}

#[test]
fn what_would_help_one_of_several_is_not_said_to_help_all() {
    let mut cluster = cluster(&[facts("a", "debian-12", &[])]);
    let mut web = service("web", 2, "x");
    web.resources.memory = tw_model::Bytes::gib(9);
    let plan = cluster.submit(&[web]);
    let said = plan.jobs[0].verdict.to_string();
    assert!(
        said.contains("2 tasks would wait") && said.contains("one of them would fit on m0"),
        "{said}"
    );
    assert!(why(&cluster, "web", 0).contains("it would fit on m0"));
}

#[test]
fn tasks_are_spread_by_intent_also_after_failures() {
    let mut cluster = racks(&["a", "a", "a", "b", "c"]);
    let web = with(
        service("web", 4, "x"),
        json!({"spread": [{"over": "rack", "at_least": 2}]}),
    );
    cluster.submit(&[web]);
    let used: BTreeSet<String> = places(&cluster, "web").into_iter().collect();
    assert!(used.contains("m3") && used.contains("m4"), "{used:?}");
    // Two racks go; what is left is in one, so that the rest waits.
    for machine in ["m3", "m4"] {
        cluster.decide(Event::MachineLost {
            machine: machine.parse().unwrap(),
            silent: 1,
        });
    }
    cluster.decide(Event::Tick);
    let pending = |cluster: &Cluster| {
        let tasks = cluster.job("web").latest_of_each();
        tasks
            .filter(|task| task.state == TaskState::Pending)
            .count()
    };
    assert_eq!(pending(&cluster), 2, "{}", cluster.show());
    let waiting = cluster
        .job("web")
        .latest_of_each()
        .find(|task| task.machine.is_none());
    let index = waiting.unwrap().id.index;
    assert_eq!(
        why(&cluster, "web", index),
        "rack has its task, and 2 are to have one on 3, 2 lost; \
         without \"rack has its task, and 2 are to have one\" it would fit on m0"
    );
    // Another rack lets the first in; from then on the others may be anywhere.
    cluster.register_as("m5", "boot-1", (8, 8192), Vec::new(), facts("d", "", &[]));
    cluster.decide(Event::Tick);
    assert_eq!(pending(&cluster), 0, "{}", cluster.show());
    assert!(places(&cluster, "web").contains(&"m5".to_owned()));
}

#[test]
fn a_spread_over_racks_that_do_not_exist_does_not_fit_and_says_so() {
    let mut cluster = racks(&["a", "a", "b"]);
    let web = with(
        service("web", 3, "x"),
        json!({"spread": [{"over": "rack", "at_least": 3}]}),
    );
    let plan = cluster.submit(&[web]);
    assert_eq!(
        plan.jobs[0].verdict.to_string(),
        "does not fit: 1 task would wait, rack has its task, and 3 are to have one on 3; \
         without \"rack has its task, and 3 are to have one\" it would fit on m0"
    );
}

#[test]
fn tasks_stay_near_and_apart() {
    let mut cluster = racks(&["a", "a", "b", "b"]);
    let near = json!({"affinity": [{"job": "redis", "within": "rack", "required": true}]});
    cluster.submit(&[with(service("web", 2, "x"), near)]);
    assert_eq!(
        why(&cluster, "web", 0),
        "no task of redis is anywhere on 4; \
        without \"no task of redis is anywhere\" it would fit on m0"
    );
    cluster.submit(&[with(service("redis", 1, "x"), json!({"requires": {}}))]);
    cluster.decide(Event::Tick);
    let rack = |machine: &str| ["a", "a", "b", "b"][machine[1..].parse::<usize>().unwrap()];
    let redis = cluster.machine_of("redis", 0);
    for place in places(&cluster, "web") {
        assert_eq!(rack(&place), rack(&redis));
    }
    // Who wants to be left alone is, whoever comes first.
    let alone = json!({"anti_affinity": [
        {"job": "noisy", "within": "rack", "required": true},
        {"job": "db", "within": "machine", "required": true},
    ]});
    cluster.submit(&[with(service("db", 2, "x"), alone)]);
    let db: BTreeSet<String> = places(&cluster, "db").into_iter().collect();
    assert_eq!(db.len(), 2);
    cluster.submit(&[service("noisy", 3, "x")]);
    let taken: BTreeSet<&str> = db.iter().map(|machine| rack(machine)).collect();
    for index in 0..3 {
        let task = cluster.task("noisy", index);
        match &task.machine {
            Some(machine) => assert!(!taken.contains(rack(machine.as_str()))),
            None => assert!(why(&cluster, "noisy", index).contains("db on the same rack")),
        }
    }
}

#[test]
fn tasks_that_use_much_network_get_racks_of_their_own() {
    let mut cluster = racks(&["a", "a", "b", "b", "c", "c"]);
    let heavy = |name: &str, replicas| {
        with(
            service(name, replicas, "x"),
            json!({"bandwidth_heavy": true}),
        )
    };
    cluster.submit(&[heavy("one", 2)]);
    cluster.submit(&[heavy("two", 1)]);
    let mut all = places(&cluster, "one");
    all.extend(places(&cluster, "two"));
    let racks: BTreeSet<usize> = all
        .iter()
        .map(|m| m[1..].parse::<usize>().unwrap() / 2)
        .collect();
    assert_eq!(racks.len(), 3, "{all:?}");
    // There is no fourth rack: it is a wish.
    cluster.submit(&[heavy("three", 1)]);
    assert!(cluster.task("three", 0).machine.is_some());
}

#[test]
fn bandwidth_is_given_out_like_memory() {
    let mut cluster = racks(&["a", "b"]);
    let mut wide = service("wide", 3, "x");
    wide.resources.bandwidth = tw_model::Bytes::mib(60);
    cluster.submit(&[wide]);
    assert_eq!(
        why(&cluster, "wide", 2),
        "bandwidth short on 2 of 2 by at least 20 MiB/s; with bandwidth ≤ 40 MiB/s it would fit on m0"
    );
}

#[test]
fn contradictions_are_refused() {
    let mut cluster = racks(&["a", "b"]);
    let both = with(
        service("web", 2, "x"),
        json!({
            "affinity": [{"job": "redis", "within": "machine", "required": true}],
            "anti_affinity": [{"job": "redis", "within": "rack", "required": true}],
        }),
    );
    assert_eq!(
        refused(&mut cluster, &both),
        (
            Code::JobContradiction,
            "web contradicts itself: its tasks are to be on the machine of redis, and never on its rack".to_owned()
        )
    );
    let torn = with(
        service("web", 2, "x"),
        json!({
            "affinity": [{"job": "web", "within": "rack", "required": true}],
            "spread": [{"over": "datacenter", "at_least": 2}],
        }),
    );
    assert_eq!(
        refused(&mut cluster, &torn).1,
        "web contradicts itself: its tasks are to be on one rack, and spread over 2 of a datacenter"
    );
    for (fields, words) in [
        (
            json!({"requires": {"os_version": ">=12, <11"}}),
            "its tasks need a version of the os that is both '>=12' and '<11'",
        ),
        (
            json!({"requires": {"kernel": "6.1, 6.2"}}),
            "its tasks need a version of the kernel that is both '6.1' and '6.2'",
        ),
        (
            json!({"requires": {"region": "north"}, "spread": [{"over": "region", "at_least": 3}]}),
            "its tasks are to be in the region north, and spread over 3 regions",
        ),
    ] {
        let torn = with(service("web", 3, "x"), fields.clone());
        let message = refused(&mut cluster, &torn).1;
        assert_eq!(message, format!("web contradicts itself: {words}"));
        // One task is spread over as many parts as it can be.
        let alone = with(service("web", 1, "x"), fields);
        let alone = Cluster::submission(&[alone]);
        let planned = tw_scheduler::plan(&cluster.state, &alone, cluster.now, 1);
        assert_eq!(planned.is_ok(), words.contains("region"));
    }
}

#[test]
fn a_task_leaves_a_machine_that_is_not_what_its_job_requires_any_more() {
    let nvme = facts("a", "", &[("disk", "nvme")]);
    let mut cluster = cluster(&[nvme.clone(), nvme.clone(), facts("b", "", &[])]);
    let web = with(
        service("web", 3, "x"),
        json!({"requires": {"labels": {"disk": "nvme"}}}),
    );
    cluster.submit(std::slice::from_ref(&web));
    cluster.settle("web");
    // A change of what is required moves, and the plan says so.
    let mut moved = web.clone();
    moved.requires.labels.clear();
    assert_eq!(cluster.plan(&[moved.clone()]).jobs[0].counts.in_place, 3);
    moved
        .requires
        .labels
        .insert(tw_model::EnvName("disk".to_owned()), "hdd".to_owned());
    let plan = cluster.plan(&[moved]);
    assert_eq!(plan.jobs[0].counts.moved, 3, "{plan:?}");
    // The machine itself changes: its tasks go where they may be, within the budget.
    let before = places(&cluster, "web")
        .iter()
        .filter(|place| *place == "m0")
        .count();
    assert!(before > 0);
    cluster.register_again("m0", (8, 8192), facts("a", "", &[]));
    cluster.until("every task is where it may be", |cluster| {
        cluster.serving("web") == 3 && places(cluster, "web").iter().all(|place| place == "m1")
    });
}

fn part(facts: &MachineFacts, domain: Domain, machine: &str) -> String {
    match domain {
        Domain::Machine => machine.to_owned(),
        Domain::Rack => facts.rack.clone(),
        _ => String::new(),
    }
}

/// What must hold of all live tasks, whoever placed them and when.
fn check(state: &State, spread: bool) -> Result<(), String> {
    let mut used: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let live: Vec<_> = state
        .jobs()
        .flat_map(|job| job.tasks().map(move |task| (job, task)))
        .filter(|(_, task)| !task.state.is_terminal())
        .filter_map(|(job, task)| {
            let machine = state.machine(task.machine.as_ref()?)?;
            Some((job, task, machine))
        })
        .collect();
    for (job, task, machine) in &live {
        let spec = job.spec_of(task);
        let sum = used.entry(machine.id.to_string()).or_default();
        sum.0 += spec.resources.cpu.0;
        sum.1 += spec.resources.memory.0;
        sum.2 += spec.resources.bandwidth.0;
        let capacity = &machine.capacity;
        if sum.0 > capacity.cpu.0 || sum.1 > capacity.memory.0 || sum.2 > capacity.bandwidth.0 {
            return Err(format!("{} holds more than it has", machine.id));
        }
        let wrong = spec
            .requires
            .labels
            .iter()
            .find(|(key, value)| machine.facts.labels.get(&key.0) != Some(*value));
        if let Some((key, _)) = wrong {
            return Err(format!("{} is where label {} is another", task.id, key.0));
        }
        for wish in spec.anti_affinity.iter().filter(|wish| wish.required) {
            let here = part(&machine.facts, wish.within, machine.id.as_str());
            let near = live.iter().find(|(_, other, place)| {
                other.id != task.id
                    && other.id.job.name == wish.job
                    && part(&place.facts, wish.within, place.id.as_str()) == here
            });
            if let Some((_, other, _)) = near {
                return Err(format!("{} is near {}", task.id, other.id));
            }
        }
    }
    for job in state.jobs().filter(|_| spread) {
        for wish in &job.spec().spread {
            let own = live
                .iter()
                .filter(|(_, task, _)| task.id.job == job.row().id);
            let places: Vec<String> = own
                .map(|(_, _, machine)| part(&machine.facts, wish.over, machine.id.as_str()))
                .collect();
            let parts: BTreeSet<&String> = places.iter().collect();
            if parts.len() < places.len().min(wish.at_least as usize) {
                return Err(format!("{} is in {} parts only", job.row().id, parts.len()));
            }
        }
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Asked {
    replicas: u32,
    cpu: u64,
    memory_mib: u64,
    bandwidth_mib: u64,
    label: Option<u8>,
    spread: Option<u32>,
    shuns: Option<(usize, bool)>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let label = prop::option::weighted(0.3, 0u8..3);
    let shuns = prop::option::weighted(0.3, (0usize..6, any::<bool>()));
    let spread = prop::option::weighted(0.4, 2u32..5);
    (1u32..12, 1u64..40, 1u64..40, 0u64..30, label, spread, shuns).prop_map(
        |(replicas, cpu, memory, bandwidth_mib, label, spread, shuns)| Asked {
            replicas,
            cpu: cpu * 100,
            memory_mib: memory * 100,
            bandwidth_mib,
            label,
            spread,
            shuns,
        },
    )
}

fn job_of(number: usize, asked: &Asked) -> JobSpec {
    let mut fields = json!({"requires": {}, "spread": [], "anti_affinity": []});
    if let Some(label) = asked.label {
        fields["requires"] = json!({"labels": {"kind": label.to_string()}});
    }
    if let Some(at_least) = asked.spread {
        fields["spread"] = json!([{"over": "rack", "at_least": at_least}]);
    }
    if let Some((other, rack)) = asked.shuns {
        let within = if rack { "rack" } else { "machine" };
        fields["anti_affinity"] =
            json!([{"job": format!("job-{other}"), "within": within, "required": true}]);
    }
    let mut job = with(
        service(&format!("job-{number}"), asked.replicas, "x"),
        fields,
    );
    job.resources.cpu = tw_model::Cores(asked.cpu);
    job.resources.memory = tw_model::Bytes::mib(asked.memory_mib);
    job.resources.bandwidth = tw_model::Bytes::mib(asked.bandwidth_mib);
    job
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked for and whichever machines go, nothing is overcommitted and nothing required is broken.
    #[test]
    fn no_placement_breaks_what_is_required(
        jobs in prop::collection::vec(asked(), 1..7),
        losses in prop::collection::vec(0usize..12, 0..4),
        seed in any::<u64>(),
    ) {
        let machines: Vec<MachineFacts> = (0..12)
            .map(|number| {
                let rack = ["a", "b", "c", "d"][number % 4];
                facts(rack, "", &[("kind", &(number % 3).to_string())])
            })
            .collect();
        let mut one = cluster(&machines);
        one.seed = seed;
        let specs: Vec<JobSpec> =
            jobs.iter().enumerate().map(|(number, asked)| job_of(number, asked)).collect();
        for spec in &specs {
            one.submit(std::slice::from_ref(spec));
            prop_assert_eq!(check(&one.state, true), Ok(()));
        }
        for machine in losses {
            let machine = format!("m{machine}").parse().unwrap();
            one.decide(Event::MachineLost { machine, silent: 1 });
            one.decide(Event::Tick);
            prop_assert_eq!(check(&one.state, false), Ok(()));
        }
        // What waits does so for a reason: no machine could take it.
        for job in one.state.jobs() {
            for task in job.tasks().filter(|task| task.state == TaskState::Pending) {
                let why = why_pending(&one.state, &task.id, one.now);
                prop_assert!(matches!(why, Some(PendingWhy::NoRoom(_))), "{} waits: {:?}", task.id, why);
            }
        }
        // The same again gives the same, and so do the rows alone.
        let again = State::from_records(one.state.records());
        prop_assert_eq!(one.state.records().count(), again.records().count());
        prop_assert_eq!(check(&again, false), Ok(()));
        // What is held on each machine was kept up with every change.
        for machine in one.state.machines() {
            prop_assert_eq!(
                one.state.reserved_on(&machine.id),
                again.reserved_on(&machine.id),
                "on {}",
                machine.id
            );
        }
    }
}

#[test]
fn the_same_seed_places_the_same() {
    let place = |seed| {
        let mut cluster = racks(&["a", "b", "c", "a", "b", "c"]);
        cluster.seed = seed;
        for number in 0..5 {
            let job = service(&format!("job-{number}"), 4, "x");
            cluster.submit(&[with(
                job,
                json!({"spread": [{"over": "rack", "at_least": 3}]}),
            )]);
        }
        let records: Vec<_> = cluster.state.records().collect();
        format!("{records:?}")
    };
    assert_eq!(place(7), place(7));
}

#[test]
fn a_plan_says_what_the_machines_of_its_forecast_do_not_enforce() {
    let mut cluster = Cluster::new(&[]);
    let enforces = |names: &[&str]| MachineFacts {
        enforces: names.iter().map(|name| (*name).to_owned()).collect(),
        ..MachineFacts::default()
    };
    let boot = "boot-1";
    cluster.register_as(
        "m0",
        boot,
        (8, 8192),
        Vec::new(),
        enforces(&["cpu", "swap"]),
    );
    let job = spec(json!({
        "name": "web", "command": ["web"],
        "resources": {"swap_bytes": 1 << 20, "io_weight": 300},
        "volumes": [{"name": "data", "path": "/data"}],
    }));
    let plan = cluster.plan(std::slice::from_ref(&job));
    let said: Vec<String> = plan.jobs[0]
        .caveats
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "depends on the programs that are installed on m0 (image)",
            "tasks share the user numbers of the machine on m0",
            "the disk is not shared out on m0 (resources.io_weight)",
            "volumes are not bounded in size on m0 (volumes)",
        ]
    );
    let all = ["cpu", "swap", "io", "disk", "volume-size", "user-namespace"];
    cluster.register_as("m0", boot, (8, 8192), Vec::new(), enforces(&all));
    let again = cluster.plan(std::slice::from_ref(&job));
    assert_eq!(again.jobs[0].caveats.len(), 1);
    assert_eq!(again.digest, plan.digest, "machines are a forecast");
}

#[test]
fn a_plan_says_that_failover_goes_beyond_the_budget() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    let failover = json!({"at_most_one": true, "failover": {"within_ms": 60_000}});
    let mut job = with(service("web", 2, "x"), failover);
    let said = |cluster: &Cluster, job: &JobSpec| {
        let plan = cluster.plan(std::slice::from_ref(job));
        let caveats = plan.jobs[0].caveats.clone().into_iter();
        caveats
            .map(|one| one.to_string())
            .find(|one| one.contains("failover"))
    };
    let words = "whatever no controller reaches for 1m ends itself, all of it at once, beyond max_unavailable and the stop \
                 limits on m0 (failover)";
    assert_eq!(said(&cluster, &job).as_deref(), Some(words));
    cluster.submit(std::slice::from_ref(&job));
    cluster.settle("web");
    job.command.0 = vec!["y".to_owned()];
    assert_eq!(said(&cluster, &job).as_deref(), Some(words), "each time");
    job.failover = None;
    assert_eq!(said(&cluster, &job), None);
}

/// Four machines with a fast disk, of which the first two lose it once this job has settled there.
fn losing_its_disks(job: JobSpec) -> Cluster {
    let mut cluster = cluster(&[
        facts("a", "", &[("disk", "nvme")]),
        facts("a", "", &[("disk", "nvme")]),
    ]);
    cluster.submit(&[with(job, json!({"requires": {"labels": {"disk": "nvme"}}}))]);
    cluster.pass(Millis::minutes(5));
    let (with, without) = (facts("a", "", &[("disk", "nvme")]), facts("a", "", &[]));
    for (machine, facts) in [
        ("m2", &with),
        ("m3", &with),
        ("m0", &without),
        ("m1", &without),
    ] {
        cluster.register_again(machine, (8, 8192), facts.clone());
    }
    cluster
}

#[test]
fn tasks_leave_unfit_machines_no_faster_than_an_update_goes() {
    let mut web = service("web", 4, "x");
    web.rollout.healthy_for = Millis::minutes(1);
    let mut cluster = losing_its_disks(web);
    let began = cluster.now;
    cluster.until("all have left", |cluster| {
        assert!(cluster.serving("web") >= 3, "{}", cluster.show());
        let mut places = places(cluster, "web").into_iter();
        places.all(|machine| machine == "m2" || machine == "m3")
    });
    // Each is counted on only once it has been healthy for a minute.
    let took = cluster.now.since(began);
    assert!(took >= Millis::minutes(3), "{took}");
}

#[test]
fn a_batch_task_ends_where_it_began() {
    let mut cluster = losing_its_disks(batch("sort", "work", 1));
    let task = cluster.task("sort", 0).id.clone();
    cluster.pass(Millis::minutes(5));
    let row = cluster.task("sort", 0);
    assert_eq!((&row.id, row.state), (&task, TaskState::Running));
}
