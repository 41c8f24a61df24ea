//! What teams may ask for: what is charged, what is refused and why, and that nothing that runs is ever stopped for it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use tw_model::{AllowanceBand, AllowanceUse, Bytes, Code, Cores, JobSpec, Kind, Millis, Name};
use tw_scheduler::{AllowanceOrder, Event, Refusal, Reply, allowances};

use crate::cluster::{Cluster, batch, id, service};

/// A job of so many tasks of one core and 1 GiB each.
fn job(name: &str, replicas: u32, priority: u32) -> JobSpec {
    let mut job = service(name, replicas, "run");
    job.health.clear();
    job.resources.cpu = Cores(1000);
    job.resources.memory = Bytes::gib(1);
    job.priority = priority;
    job.allowance = Some(name_of("shop"));
    job
}

fn name_of(name: &str) -> Name {
    name.parse().expect("it is a name")
}

fn set(cluster: &mut Cluster, from_priority: u32, cores: u64, memory_gib: u64) -> Reply {
    cluster.decide(Event::Allowance {
        name: name_of("shop"),
        order: AllowanceOrder::Set(AllowanceBand {
            from_priority,
            cpu: Cores(cores * 1000),
            memory: Bytes::gib(memory_gib),
        }),
        by: "ann".to_owned(),
    })
}

fn remove(cluster: &mut Cluster) -> Reply {
    cluster.decide(Event::Allowance {
        name: name_of("shop"),
        order: AllowanceOrder::Remove,
        by: "ann".to_owned(),
    })
}

fn submit(cluster: &mut Cluster, specs: &[JobSpec]) -> Reply {
    cluster.decide(Event::Submit {
        submission: Cluster::submission(specs),
        expected: None,
    })
}

#[track_caller]
fn refused(reply: Reply, code: Code) -> Refusal {
    match reply {
        Reply::Refused(refusal) => {
            assert_eq!(refusal.code, code, "{refusal:?}");
            refusal
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn words_of(reply: Reply) -> String {
    refused(reply, Code::AllowanceExceeded).details.join("\n")
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(&[(32, 65536), (32, 65536)]);
    set(&mut cluster, 0, 10, 64);
    cluster
}

#[test]
fn a_plan_says_what_is_used_and_is_refused_above_it() {
    let mut cluster = cluster();
    let plan = cluster.plan(&[job("web", 6, 50)]);
    let said: Vec<String> = plan
        .allowances
        .iter()
        .map(AllowanceUse::to_string)
        .collect();
    assert_eq!(
        said,
        ["allowance shop: 6 of 10 cores, 6 GiB of 64 GiB of memory"]
    );
    assert!(!plan.is_refused());
    cluster.submit(&[job("web", 6, 50)]);

    let plan = cluster.plan(&[job("sort", 6, 50)]);
    assert!(plan.is_refused());
    let said = words_of(submit(&mut cluster, &[job("sort", 6, 50)]));
    assert_eq!(
        said,
        "allowance shop: 12 of 10 cores, 12 GiB of 64 GiB of memory; over by 2 cores; with 4 tasks of sort it would fit"
    );
    assert!(
        cluster.state.job(&id("sort")).is_none(),
        "nothing was begun"
    );
    // What it advises is right, and nothing larger is.
    words_of(submit(&mut cluster, &[job("sort", 5, 50)]));
    cluster.submit(&[job("sort", 4, 50)]);
    // A job that asks for nothing more goes through, however full the allowance is.
    let mut renamed = job("sort", 4, 50);
    renamed.owner = "shop-team".to_owned();
    cluster.submit(&[renamed]);
}

#[test]
fn larger_tasks_are_advised_to_be_smaller() {
    let mut cluster = cluster();
    cluster.submit(&[job("web", 6, 50)]);
    let mut larger = job("web", 6, 50);
    larger.resources.cpu = Cores(3000);
    let said = words_of(submit(&mut cluster, &[larger.clone()]));
    assert!(
        said.ends_with("over by 8 cores; with 1.666 cores and 1 GiB of memory for each task of web it would fit"),
        "{said}"
    );
    larger.resources.cpu = Cores(1666);
    cluster.submit(&[larger]);
}

#[test]
fn a_band_counts_its_priority_and_above() {
    let mut cluster = cluster();
    set(&mut cluster, 80, 2, 64);
    cluster.submit(&[job("web", 2, 90)]);
    let said = words_of(submit(&mut cluster, &[job("api", 1, 80)]));
    assert_eq!(
        said,
        "allowance shop from priority 80: 3 of 2 cores, 3 GiB of 64 GiB of memory; over by 1 cores"
    );
    // Below that priority there is room, and raising the priority later is growth of the band.
    cluster.submit(&[job("api", 1, 79)]);
    words_of(submit(&mut cluster, &[job("api", 1, 80)]));
    // The whole counts all of them.
    let said = words_of(submit(&mut cluster, &[job("sort", 9, 10)]));
    assert!(said.starts_with("allowance shop: 12 of 10 cores"), "{said}");
}

#[test]
fn an_allowance_below_what_runs_stops_nothing_and_lets_nothing_grow() {
    let mut cluster = cluster();
    cluster.submit(&[job("web", 6, 50)]);
    cluster.settle("web");
    let before: Vec<_> = cluster.job("web").tasks().cloned().collect();
    assert!(matches!(set(&mut cluster, 0, 3, 64), Reply::Reviewed));
    cluster.pass(Millis::minutes(5));
    let after: Vec<_> = cluster.job("web").tasks().cloned().collect();
    assert_eq!(before, after, "no row has changed");
    let found = &allowances(&cluster.state)[0];
    assert_eq!(
        (found.after.cpu, found.band.cpu),
        (Cores(6000), Cores(3000))
    );

    // A task that fails comes back, an update goes on, and a machine that is lost is replaced: none of it asks for more.
    let crashed = cluster.task("web", 0).id.clone();
    cluster.exited(&crashed, 1);
    cluster.pass(Millis::seconds(10));
    assert_eq!(cluster.serving("web"), 6, "{}", cluster.show());
    let mut updated = job("web", 6, 50);
    updated.command.0.push("--new".to_owned());
    cluster.submit(&[updated.clone()]);
    cluster.settle("web");
    assert_eq!(cluster.serving("web"), 6);

    // Nothing new until it is below, and less is always welcome.
    let said = words_of(submit(&mut cluster, &[updated.clone(), job("api", 1, 50)]));
    assert!(said.contains("7 of 3 cores"), "{said}");
    updated.replicas = 4;
    let plan = cluster.submit(&[updated.clone()]);
    assert!(
        plan.allowances[0]
            .to_string()
            .ends_with("over by 1 cores, and no more than before"),
        "{}",
        plan.allowances[0]
    );
    updated.replicas = 5;
    let said = words_of(submit(&mut cluster, &[updated.clone()]));
    assert!(said.ends_with("with 4 tasks of web it would fit"), "{said}");
    updated.replicas = 2;
    cluster.submit(&[updated]);
    cluster.submit(&[job("api", 1, 50)]);
}

#[test]
fn a_job_is_charged_for_all_it_may_become() {
    let mut cluster = cluster();
    let mut scaled = job("web", 2, 50);
    scaled.autoscale = serde_json::from_value(json!({"min": 2, "max": 11})).expect("it is right");
    let said = words_of(submit(&mut cluster, &[scaled]));
    assert!(
        said.ends_with("with 10 tasks at most of web it would fit"),
        "{said}"
    );
    let mut wide = batch("sort", "run", 3);
    wide.replicas = 100;
    wide.parallelism = Some(4);
    wide.resources.cpu = Cores(1000);
    wide.allowance = Some(name_of("shop"));
    cluster.submit(&[wide]);
    let mut daemon = job("watch", 1, 50);
    daemon.kind = Kind::Daemon;
    let plan = cluster.submit(&[daemon]);
    assert_eq!(
        plan.allowances[0].after.cpu,
        Cores(6000),
        "4 at a time, and 2 machines"
    );
}

#[test]
fn what_does_not_exist_is_refused_and_what_is_charged_is_not_removed() {
    let mut cluster = cluster();
    let mut other = job("web", 1, 50);
    other.allowance = Some(name_of("shopp"));
    let found = refused(submit(&mut cluster, &[other]), Code::AllowanceNotFound);
    assert_eq!(
        (found.message.as_str(), found.hint.as_str()),
        (
            "web is charged to shopp, and there is no such allowance",
            "there are shop"
        )
    );
    cluster.submit(&[job("web", 1, 50)]);
    let found = refused(remove(&mut cluster), Code::RequestInvalid);
    assert_eq!(found.message, "these jobs are charged to shop: web");
    cluster.stop("web");
    assert!(matches!(remove(&mut cluster), Reply::Reviewed));
    refused(remove(&mut cluster), Code::AllowanceNotFound);
    // What was stopped begins again only where it is charged to something.
    refused(
        submit(&mut cluster, &[job("web", 1, 50)]),
        Code::AllowanceNotFound,
    );
}

/// What is charged to a band, counted without the words of the decision.
fn charged(cluster: &Cluster, from_priority: u32) -> (u64, u64) {
    let specs = cluster.state.jobs().filter(|job| !job.row().stopped);
    let specs = specs.map(|job| job.spec());
    let ours = specs.filter(|spec| spec.allowance.is_some() && spec.priority >= from_priority);
    ours.fold((0, 0), |(cpu, memory), spec| {
        let tasks = u64::from(spec.replicas);
        (
            cpu + spec.resources.cpu.0 * tasks,
            memory + spec.resources.memory.0 * tasks,
        )
    })
}

#[derive(Clone, Debug)]
enum Deed {
    Submit(Vec<JobSpec>),
    Set(u32, u64, u64),
    Stop(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let one = (0_usize..4, 0_u32..8, 1_u64..4, 1_u64..4, 0_u32..3);
    let one = one.prop_map(|(number, replicas, cpu, memory, priority)| {
        let mut job = job(
            &format!("job-{number}"),
            replicas,
            [10, 50, 90][priority as usize],
        );
        job.resources.cpu = Cores(cpu * 500);
        job.resources.memory = Bytes::mib(memory * 256);
        job
    });
    prop_oneof![
        4 => prop::collection::vec(one, 1..3).prop_map(|jobs| {
            let named: BTreeMap<_, _> = jobs.into_iter().map(|job| (job.id(), job)).collect();
            Deed::Submit(named.into_values().collect())
        }),
        1 => (0_usize..2, 0_u64..12, 0_u64..6).prop_map(|(band, cpu, memory)| {
            Deed::Set([0, 50][band], cpu, memory)
        }),
        1 => (0_usize..4).prop_map(Deed::Stop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is submitted, nothing grows above an allowance, nothing within it is refused for it, and a change of the
    /// allowance alone touches no task.
    #[test]
    fn nothing_grows_above_an_allowance(deeds in prop::collection::vec(deed(), 1..16)) {
        let mut cluster = cluster();
        let mut bands = BTreeMap::from([(0, (10_000, 64 << 30))]);
        for deed in deeds {
            let before: BTreeMap<u32, _> = bands.keys().map(|from| (*from, charged(&cluster, *from))).collect();
            match deed {
                Deed::Set(from, cores, memory_gib) => {
                    let rows: Vec<_> = cluster.state.jobs().flat_map(|job| job.tasks()).cloned().collect();
                    set(&mut cluster, from, cores, memory_gib);
                    let now: Vec<_> = cluster.state.jobs().flat_map(|job| job.tasks()).cloned().collect();
                    prop_assert_eq!(rows, now);
                    bands.insert(from, (cores * 1000, memory_gib << 30));
                }
                Deed::Stop(number) => {
                    cluster.stop(&format!("job-{number}"));
                }
                Deed::Submit(jobs) => {
                    let reply = submit(&mut cluster, &jobs);
                    let applied = matches!(reply, Reply::Submitted(_));
                    if !applied {
                        refused(reply, Code::AllowanceExceeded);
                        // As if it were allowed: one of the bands must be the reason.
                        let mut free = Cluster::new(&[(32, 65536)]);
                        set(&mut free, 0, 1000, 1000);
                        free.state = cluster.state.clone();
                        for from in bands.keys() {
                            set(&mut free, *from, 1000, 1000);
                        }
                        free.submit(&jobs);
                        let over = bands.iter().any(|(from, (cpu, memory))| {
                            let (was, is) = (before[from], charged(&free, *from));
                            is.0 > *cpu && is.0 > was.0 || is.1 > *memory && is.1 > was.1
                        });
                        prop_assert!(over, "{:?} {:?}", bands, before);
                    }
                    for (from, (cpu, memory)) in &bands {
                        let (was, is) = (before[from], charged(&cluster, *from));
                        prop_assert!(is.0 <= (*cpu).max(was.0) && is.1 <= (*memory).max(was.1));
                    }
                }
            }
        }
    }
}

#[test]
fn a_record_of_an_allowance_survives() {
    let mut cluster = cluster();
    set(&mut cluster, 50, 4, 8);
    let stored: Vec<_> = cluster.state.records().collect();
    let state = tw_scheduler::State::from_records(stored);
    assert_eq!(allowances(&state), allowances(&cluster.state));
}
