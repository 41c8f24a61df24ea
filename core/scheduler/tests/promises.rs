//! What a plan says is what happens: plans of random changes to random jobs on random fleets, carried out and watched
//! by an observer that sees processes alone.

use proptest::prelude::*;
use serde_json::{Value, json};
use tw_model::{Bytes, Capacity, Cores, Effect, JobId, JobSpec, MachineFacts, Millis};
use tw_scheduler::simulate::{Observed, Performance, Rehearsal, Stage};
use tw_scheduler::{JobPlan, Plan, Submission, TaskPlan, Verdict};

/// Longer than any update of the generated jobs takes.
const LONGEST: Millis = Millis::minutes(6);
/// By so much the steps of the rehearsal and the reports of its machines delay each round of an update.
const SLACK_OF_A_ROUND: Millis = Millis(2500);

/// What is generated: machines, a neighbour that takes room, a job, and the job as it is to be.
#[derive(Clone, Debug)]
struct Case {
    machines: Vec<Stage>,
    neighbour: JobSpec,
    old: JobSpec,
    new: JobSpec,
}

fn stage(number: usize, cores: u64, memory_mib: u64, kind: u8) -> Stage {
    Stage {
        id: format!("m{number}").parse().expect("a name"),
        capacity: Capacity {
            cpu: Cores(cores * 1000),
            memory: Bytes::mib(memory_mib),
            disk: Bytes::gib(20),
            bandwidth: Bytes::mib(100),
            port_first: 20_000,
            port_last: 20_099,
        },
        facts: MachineFacts {
            address: format!("m{number}.example"),
            rack: format!("rack-{}", number % 2),
            labels: [("kind".to_owned(), kind.to_string())].into(),
            ..MachineFacts::default()
        },
    }
}

fn spec(value: Value) -> JobSpec {
    serde_json::from_value(value).expect("the spec is right")
}

fn machines() -> impl Strategy<Value = Vec<Stage>> {
    let one = (1_u64..5, 1_u64..9, 0_u8..2);
    prop::collection::vec(one, 1..5).prop_map(|sizes| {
        let numbered = sizes.into_iter().enumerate();
        let stages =
            numbered.map(|(at, (cores, memory, kind))| stage(at, cores, memory * 256, kind));
        stages.collect()
    })
}

fn job() -> impl Strategy<Value = Value> {
    (1_u32..5, 1_u64..6, 1_u64..6, 1_u32..3, any::<bool>()).prop_map(
        |(replicas, cpu, memory, max_unavailable, checked)| {
            json!({
                "name": "web", "command": ["serve"], "replicas": replicas,
                "resources": {
                    "cpu_millicores": cpu * 200, "memory_bytes": (memory * 64) << 20, "disk_bytes": 2_u64 << 30,
                },
                "ports": ["http"],
                "health": if checked { json!([{"type": "http", "port": "http", "every_ms": 1000}]) } else { json!([]) },
                "rollout": {
                    "stages": [1, "50%", "100%"], "max_unavailable": max_unavailable, "healthy_for_ms": 1000,
                },
                "stop": {"drain_ms": 0},
            })
        },
    )
}

/// One edit: the path of a value as a JSON pointer, and the value.
fn edit() -> impl Strategy<Value = (&'static str, Value)> {
    prop_oneof![
        (0_u32..7).prop_map(|n| ("/replicas", json!(n))),
        (1_u64..20).prop_map(|n| ("/resources/cpu_millicores", json!(n * 200))),
        (1_u64..20).prop_map(|n| ("/resources/memory_bytes", json!((n * 64) << 20))),
        (1_u64..5).prop_map(|n| ("/resources/disk_bytes", json!(n << 30))),
        (0_u8..3).prop_map(|n| ("/env", json!({"N": n.to_string()}))),
        (0_u8..3).prop_map(|n| ("/command", json!(["serve", n.to_string()]))),
        (0_u8..3).prop_map(|n| ("/labels", json!({"n": n.to_string()}))),
        Just(("/owner", json!("ann"))),
        (0_u8..2).prop_map(|n| ("/requires", json!({"labels": {"kind": n.to_string()}}))),
        Just(("/ports", json!(["http", "admin"]))),
        (1_u64..4).prop_map(|n| ("/stop", json!({"drain_ms": 0, "grace_ms": n * 1000}))),
        Just(("/volumes", json!([{"name": "data", "path": "/data"}]))),
        Just((
            "/rollout",
            json!({"stages": ["100%"], "max_unavailable": 4, "healthy_for_ms": 500})
        )),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let edits = prop::collection::vec(edit(), 1..4);
    let neighbour = (1_u32..4, 1_u64..8, 1_u64..8);
    (machines(), job(), edits, neighbour).prop_map(|(machines, old, edits, neighbour)| {
        let mut new = old.clone();
        for (path, value) in edits {
            let name = path.rsplit('/').next().expect("a name");
            let parent = &path[..path.len() - name.len() - 1];
            new.pointer_mut(parent).expect("what holds it")[name] = value;
        }
        let (replicas, cpu, memory) = neighbour;
        let neighbour = json!({
            "name": "neighbour", "command": ["serve"], "replicas": replicas,
            "resources": {"cpu_millicores": cpu * 200, "memory_bytes": (memory * 64) << 20, "disk_bytes": 1 << 20},
        });
        Case {
            machines,
            neighbour: spec(neighbour),
            old: spec(old),
            new: spec(new),
        }
    })
}

/// Plans and submits, and lets the job settle.
fn carry_out(rehearsal: &mut Rehearsal, wanted: &JobSpec) -> (Plan, Performance) {
    let submission = Submission::of(std::slice::from_ref(wanted));
    let plan = rehearsal.plan(&submission).expect("a plan");
    rehearsal
        .submit(submission, &plan)
        .expect("nothing has moved");
    (plan, rehearsal.perform(&wanted.id(), LONGEST))
}

fn check(case: &Case) -> Result<(), TestCaseError> {
    let mut rehearsal = Rehearsal::new(&case.machines);
    let neighbour = case.neighbour.id();
    carry_out(&mut rehearsal, &case.neighbour);
    let (first, seen) = carry_out(&mut rehearsal, &case.old);
    // Only of a job that runs as wanted is it known what an update meets.
    prop_assume!(first.jobs.iter().all(|job| job.verdict == Verdict::Fits));
    prop_assert_eq!(
        seen.after.len() as u32,
        case.old.replicas,
        "it fits, and so it runs"
    );
    let beside = rehearsal.observe(&neighbour);

    let (plan, seen) = carry_out(&mut rehearsal, &case.new);
    prop_assert_eq!(
        &beside,
        &rehearsal.observe(&neighbour),
        "the neighbour was touched"
    );
    let Some(job) = plan.jobs.first() else {
        prop_assert_eq!(&seen.before, &seen.after, "an unchanged job was touched");
        return Ok(());
    };
    fates(job, &seen)?;
    verdict(job, &case.new, &seen)?;
    limits(job, &case.new, &seen)?;
    downtime(job, &case.new, &seen)?;
    duration(job, &seen)
}

/// Every task meets the fate that the plan gave it.
fn fates(job: &JobPlan, seen: &Performance) -> Result<(), TestCaseError> {
    // What has no room in the end may have lost its place on the way there.
    if matches!(job.verdict, Verdict::DoesNotFit { .. }) {
        return Ok(());
    }
    let planned = |index: &u32| job.tasks.iter().find(|task| task.index == *index);
    for (index, old) in &seen.before {
        let (new, task) = (seen.after.get(index), planned(index));
        let found = fate(old, new);
        let said = task.map_or(Fate::Same, promised);
        prop_assert_eq!(found, said, "index {} of {:?}", index, job);
    }
    for index in seen
        .after
        .keys()
        .filter(|index| !seen.before.contains_key(index))
    {
        let started = planned(index).is_some_and(|task| task.effect == Effect::Scale);
        prop_assert!(started, "index {} began and the plan is {:?}", index, job);
    }
    let lasting = |wanted: Fate| {
        let fates = seen
            .before
            .iter()
            .map(|(index, old)| fate(old, seen.after.get(index)));
        fates.filter(|fate| *fate == wanted).count() as u32
    };
    prop_assert_eq!(job.counts.restarted, lasting(Fate::Restarted), "{:?}", job);
    prop_assert_eq!(job.counts.moved, lasting(Fate::Moved), "{:?}", job);
    prop_assert_eq!(job.counts.stopped, lasting(Fate::Gone), "{:?}", job);
    Ok(())
}

/// What became of a process, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Same,
    Restarted,
    Moved,
    Gone,
}

fn fate(old: &Observed, new: Option<&Observed>) -> Fate {
    match new {
        None => Fate::Gone,
        Some(new) if new.task == old.task && new.started_at == old.started_at => Fate::Same,
        Some(new) if new.machine == old.machine => Fate::Restarted,
        Some(_) => Fate::Moved,
    }
}

fn promised(task: &TaskPlan) -> Fate {
    match task.effect {
        Effect::None | Effect::InPlace => Fate::Same,
        Effect::Scale => Fate::Gone,
        Effect::Restart => Fate::Restarted,
        Effect::Move => Fate::Moved,
        // A job that is made anew may find its machines again, or others.
        Effect::Recreate if task.from == task.to => Fate::Restarted,
        Effect::Recreate => Fate::Moved,
    }
}

/// Whether it fits is what comes out.
fn verdict(job: &JobPlan, new: &JobSpec, seen: &Performance) -> Result<(), TestCaseError> {
    match &job.verdict {
        Verdict::DoesNotFit { .. } => {
            let all_run = seen.settled && seen.after.len() as u32 == new.replicas;
            prop_assert!(!all_run, "all run: {:?}", job);
        }
        _ => {
            prop_assert!(seen.settled, "it never settled: {:?}", job);
            prop_assert_eq!(seen.after.len() as u32, new.replicas, "{:?}", job);
        }
    }
    Ok(())
}

/// Every process has the limits of the new version.
fn limits(job: &JobPlan, new: &JobSpec, seen: &Performance) -> Result<(), TestCaseError> {
    if matches!(job.verdict, Verdict::DoesNotFit { .. }) {
        return Ok(());
    }
    for observed in seen.after.values() {
        prop_assert_eq!(&observed.limits, &new.resources, "{}", observed.task);
    }
    Ok(())
}

/// No more tasks are down at a time than the job allows.
fn downtime(job: &JobPlan, new: &JobSpec, seen: &Performance) -> Result<(), TestCaseError> {
    let replaced = job.counts.restarted + job.counts.moved;
    let allowed = match job.effect {
        Effect::Recreate => u32::MAX,
        _ => new.rollout.max_unavailable.min(replaced),
    };
    prop_assert!(
        seen.down_most <= allowed,
        "{} were down, {} may: {:?}",
        seen.down_most,
        allowed,
        job
    );
    Ok(())
}

/// It takes about as long as was said.
fn duration(job: &JobPlan, seen: &Performance) -> Result<(), TestCaseError> {
    if job.stage_durations_ms.is_empty() || matches!(job.verdict, Verdict::DoesNotFit { .. }) {
        return Ok(());
    }
    let said = job
        .stage_durations_ms
        .iter()
        .fold(Millis::ZERO, |sum, stage| sum + *stage);
    let rounds = u64::from(job.counts.restarted + job.counts.moved) + job.stages.len() as u64;
    let most = said + SLACK_OF_A_ROUND * rounds;
    prop_assert!(
        seen.took <= most,
        "{} were said, {} it took: {:?}",
        said,
        seen.took,
        job
    );
    prop_assert!(
        seen.took * 2 + SLACK_OF_A_ROUND >= said,
        "{} were said, {} it took: {:?}",
        said,
        seen.took,
        job
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("TW_PROMISES").ok().and_then(|number| number.parse().ok()).unwrap_or(100),
        max_global_rejects: 100_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_a_plan_says_is_what_happens(case in cases()) {
        check(&case)?;
    }
}

#[test]
fn a_job_that_is_removed_ends_as_planned() {
    let mut rehearsal = Rehearsal::new(&[stage(0, 4, 2048, 0)]);
    let job = spec(json!({"name": "web", "command": ["serve"], "replicas": 3}));
    let id: JobId = job.id();
    carry_out(&mut rehearsal, &job);
    let submission = Submission {
        remove: vec![id.clone()],
        ..Submission::default()
    };
    let plan = rehearsal.plan(&submission).expect("a plan");
    assert_eq!(plan.jobs[0].counts.stopped, 3);
    rehearsal
        .submit(submission, &plan)
        .expect("nothing has moved");
    let seen = rehearsal.perform(&id, LONGEST);
    assert_eq!((seen.before.len(), seen.after.len()), (3, 0));
}

#[test]
fn those_who_give_way_are_those_whom_the_plan_named() {
    let mut rehearsal = Rehearsal::new(&[stage(0, 4, 4096, 0), stage(1, 4, 4096, 0)]);
    let job = |name: &str, replicas: u32, priority: u32| {
        spec(json!({
            "name": name, "command": ["serve"], "replicas": replicas, "priority": priority,
            "resources": {"cpu_millicores": 2000, "memory_bytes": 64 << 20, "disk_bytes": 1 << 20},
        }))
    };
    let low = job("sort", 4, 20);
    carry_out(&mut rehearsal, &low);
    let before = rehearsal.observe(&low.id());
    let (plan, seen) = carry_out(&mut rehearsal, &job("web", 1, 80));
    let Verdict::Preempts { tasks } = &plan.jobs[0].verdict else {
        panic!("{:?}", plan.jobs[0].verdict);
    };
    assert!(seen.settled && seen.after.len() == 1, "{seen:?}");
    let after = rehearsal.observe(&low.id());
    for (index, old) in &before {
        let stays = after.get(index).is_some_and(|new| new.task == old.task);
        assert_eq!(
            stays,
            !tasks.contains(&old.task),
            "{} of {plan:?}",
            old.task
        );
    }
}
