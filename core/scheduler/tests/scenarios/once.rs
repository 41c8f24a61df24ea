//! Tasks of which there must never be two, and who may speak for a machine.

use serde_json::json;
use tw_model::{Code, Desired, JobSpec, MachineId, Millis, Phase, TaskReport, TaskState};
use tw_scheduler::{Event, Reply, StopLimiter, StopLimits};

use crate::cluster::{Cluster, service, spec};

fn name(machine: &str) -> MachineId {
    machine.parse().expect("a name")
}

/// One task of each kind, all on `m0`; `m1` has room for all of them.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[plain(), waits(), fails_over()]);
    for job in ["plain", "waits", "fails-over"] {
        cluster.settle(job);
    }
    cluster.register("m1", "boot-1", (8, 8192), Vec::new());
    cluster
}

fn plain() -> JobSpec {
    service("plain", 1, "one")
}

fn waits() -> JobSpec {
    JobSpec {
        at_most_one: true,
        ..service("waits", 1, "one")
    }
}

fn fails_over() -> JobSpec {
    let failover = json!({
        "name": "x", "command": ["x"], "at_most_one": true, "failover": {"within_ms": 30_000}
    });
    JobSpec {
        at_most_one: true,
        failover: spec(failover).failover,
        ..service("fails-over", 1, "one")
    }
}

fn lose(cluster: &mut Cluster, machine: &str) {
    cluster.silent.push(machine.to_owned());
    cluster.decide(Event::MachineLost {
        machine: name(machine),
        silent: 1,
    });
}

fn terms_over(cluster: &mut Cluster, machine: &str, silence: Millis) {
    cluster.decide(Event::TermsOver {
        machine: name(machine),
        silence,
    });
}

fn incarnation(cluster: &Cluster, job: &str) -> u64 {
    cluster.task(job, 0).id.incarnation
}

#[test]
fn silence_replaces_some_and_the_end_of_a_term_others_and_a_fence_the_rest() {
    let mut cluster = cluster();
    lose(&mut cluster, "m0");
    cluster.until("the plain task is replaced", |cluster| {
        incarnation(cluster, "plain") == 2
    });
    let task = cluster.task("waits", 0);
    assert_eq!(
        (task.state, task.healthy),
        (TaskState::Running, Some(false))
    );
    assert!(task.reason.contains("tw machines fence"), "{}", task.reason);

    terms_over(&mut cluster, "m0", Millis(29_000));
    assert_eq!(incarnation(&cluster, "fails-over"), 1, "its term may go on");
    terms_over(&mut cluster, "m0", Millis(30_000));
    cluster.settle("fails-over");
    assert_eq!(cluster.machine_of("fails-over", 0), "m1");

    cluster.pass(Millis::minutes(30));
    assert_eq!(incarnation(&cluster, "waits"), 1, "nobody vouched for it");
    let fence = |machine: &str| Event::Fence {
        machine: name(machine),
        by: "ann".to_owned(),
    };
    let Reply::Refused(refusal) = cluster.decide(fence("m1")) else {
        panic!("a machine that is there was fenced");
    };
    assert!(refusal.message.contains("within reach"), "{refusal}");
    let reply = cluster.decide(fence("m0"));
    assert!(matches!(reply, Reply::Fence { tasks: 1 }), "{reply:?}");
    cluster.settle("waits");
    assert_eq!(cluster.machine_of("waits", 0), "m1");
}

#[test]
fn a_task_goes_on_when_its_machine_comes_back_and_ends_when_that_has_restarted() {
    let mut cluster = cluster();
    lose(&mut cluster, "m0");
    cluster.pass(Millis::minutes(5));
    cluster.silent.clear();
    cluster.register("m0", "boot-1", (8, 8192), Vec::new());
    cluster.settle("waits");
    assert_eq!(
        (
            incarnation(&cluster, "waits"),
            cluster.task("waits", 0).restarts
        ),
        (1, 0)
    );
    // Its end of an earlier silence says nothing of a machine that is back.
    terms_over(&mut cluster, "m0", Millis::hours(1));
    assert_eq!(incarnation(&cluster, "fails-over"), 1);

    lose(&mut cluster, "m0");
    cluster.silent.clear();
    cluster.register("m0", "boot-2", (8, 8192), Vec::new());
    cluster.settle("waits");
    cluster.settle("fails-over");
    assert_eq!(
        (
            incarnation(&cluster, "waits"),
            incarnation(&cluster, "fails-over")
        ),
        (2, 2)
    );
}

#[test]
fn a_stop_waits_for_a_task_that_is_out_of_reach() {
    let mut cluster = cluster();
    lose(&mut cluster, "m0");
    cluster.stop("waits");
    cluster.pass(Millis::minutes(1));
    assert_eq!(cluster.task("waits", 0).state, TaskState::Stopping);
    cluster.silent.clear();
    cluster.register("m0", "boot-1", (8, 8192), Vec::new());
    cluster.until("it ends", |cluster| {
        cluster.task("waits", 0).state == TaskState::Done
    });
}

/// What becomes of a registration of `m0`.
fn registers(
    cluster: &mut Cluster,
    boot: &str,
    agent: &str,
    heard_ago: Option<Millis>,
    ports: (u16, u16),
) -> Reply {
    registers_at(cluster, (boot, agent), (heard_ago, Millis(0)), ports)
}

/// The same by an agent that says how long its boot has lasted.
fn registers_at(
    cluster: &mut Cluster,
    (boot, agent): (&str, &str),
    (heard_ago, uptime): (Option<Millis>, Millis),
    ports: (u16, u16),
) -> Reply {
    let capacity = cluster
        .state
        .machine(&name("m0"))
        .expect("it is there")
        .capacity
        .clone();
    cluster.decide(Event::AgentRegistered {
        machine: name("m0"),
        boot_id: boot.to_owned(),
        agent: agent.to_owned(),
        capacity: tw_model::Capacity {
            port_first: ports.0,
            port_last: ports.1,
            ..capacity
        },
        facts: Box::default(),
        heard_ago,
        uptime,
        reports: Vec::new(),
    })
}

const PORTS: (u16, u16) = (20_000, 20_099);

#[test]
fn two_that_go_by_one_name_are_told_apart() {
    let mut cluster = cluster();
    let now = Some(Millis(500));
    let before = cluster.state.clone();
    for (boot, agent) in [("boot-2", "agent"), ("boot-1", "another")] {
        let Reply::Refused(refusal) = registers(&mut cluster, boot, agent, now, PORTS) else {
            panic!("{boot} and {agent} were let in beside the one that is there");
        };
        assert_eq!(refusal.code, Code::AgentIdentity);
    }
    assert!(
        cluster.state.records().eq(before.records()),
        "a refusal changes nothing"
    );

    // The same agent once more is nothing new.
    assert!(matches!(
        registers(&mut cluster, "boot-1", "agent", now, PORTS),
        Reply::Registered { epoch: 1 }
    ));
    assert!(matches!(
        registers(&mut cluster, "boot-2", "agent", Some(Millis(9000)), PORTS),
        Reply::Registered { epoch: 2 }
    ));
    let late = registers(&mut cluster, "boot-1", "agent", None, PORTS);
    assert!(
        matches!(late, Reply::Refused(_)),
        "a boot never comes back: {late:?}"
    );
}

#[test]
fn a_registration_that_comes_late_denies_no_task() {
    let mut cluster = cluster();
    let mut says =
        |boot, uptime| registers_at(&mut cluster, (boot, "agent"), (None, Millis(uptime)), PORTS);
    assert!(matches!(says("boot-1", 5000), Reply::Registered { .. }));
    assert!(matches!(says("boot-1", 9000), Reply::Registered { .. }));
    // What it held then is not what it holds now; nor is a copy of the newest.
    for uptime in [5000, 8999, 9000] {
        let Reply::Refused(refusal) = says("boot-1", uptime) else {
            panic!("what was said {uptime} ms after the boot was believed after 9 s");
        };
        assert_eq!(refusal.code, Code::AgentIdentity);
        assert!(refusal.message.contains("up for 9000 ms"), "{refusal}");
    }
    assert!(matches!(says("boot-1", 9001), Reply::Registered { .. }));
    // Another boot counts anew.
    assert!(matches!(says("boot-2", 100), Reply::Registered { .. }));
    assert!(matches!(says("boot-2", 99), Reply::Refused(_)));
}

#[test]
fn an_agent_with_an_empty_folder_does_not_speak_for_what_ran() {
    let mut cluster = cluster();
    let reply = registers(&mut cluster, "boot-1", "another", Some(Millis(9000)), PORTS);
    assert!(matches!(reply, Reply::Registered { epoch: 2 }), "{reply:?}");
    cluster.settle("plain");
    assert_eq!(incarnation(&cluster, "plain"), 2);
    cluster.pass(Millis::minutes(10));
    assert_eq!(incarnation(&cluster, "waits"), 1);
    // The machine is there, and yet nobody can reach that task: someone who looked may vouch for its end.
    cluster.decide(Event::Fence {
        machine: name("m0"),
        by: "ann".to_owned(),
    });
    cluster.settle("waits");
    assert_eq!(incarnation(&cluster, "waits"), 2);
    assert_eq!(
        incarnation(&cluster, "plain"),
        2,
        "what the new agent runs goes on"
    );
}

#[test]
fn nonsense_is_refused_and_said() {
    let mut cluster = cluster();
    for (boot, ports, words) in [
        ("", PORTS, "its boot is ''"),
        ("boot-1", (30_000, 20_000), "its ports are 30000 to 20000"),
        ("boot-1", (0, 20_000), "its ports are 0"),
    ] {
        let Reply::Refused(refusal) = registers(&mut cluster, boot, "agent", None, ports) else {
            panic!("{words} was believed");
        };
        assert_eq!(refusal.code, Code::AgentNonsense);
        assert!(refusal.message.contains(words), "{refusal}");
    }
    let reply = cluster.register("m9", "boot-1", (0, 8192), Vec::new());
    assert!(
        matches!(reply, Reply::Refused(_)),
        "a machine without cores: {reply:?}"
    );
    let reply = cluster.register("m9", "boot-1", (1_000_000, 8192), Vec::new());
    assert!(
        matches!(reply, Reply::Refused(_)),
        "a million cores: {reply:?}"
    );
}

/// A machine that comes back while the stop of its task is held back: the decision that takes the task into the new
/// epoch asks it to end as well.
#[test]
fn a_stop_that_is_held_back_takes_nothing_else_with_it() {
    let mut cluster = cluster();
    lose(&mut cluster, "m0");
    let stop = Cluster::removal("waits");
    // A limiter that has just begun grants nothing.
    let mut limiter = StopLimiter::new(StopLimits::default(), 0);
    assert_eq!(cluster.decide_within(&mut limiter, &stop, 0), 1);
    let m0 = cluster.state.machine(&name("m0")).unwrap().clone();
    let row = cluster.task("waits", 0).clone();
    let back = Event::AgentRegistered {
        machine: m0.id.clone(),
        boot_id: m0.boot_id.clone(),
        agent: m0.identity.agent.clone(),
        capacity: m0.capacity.clone(),
        facts: Box::new(m0.facts.clone()),
        heard_ago: None,
        uptime: Millis(1),
        reports: vec![TaskReport {
            seq: row.report_seq + 1,
            task: row.id.clone(),
            phase: Phase::Health {
                healthy: false,
                detail: "status 500".to_owned(),
                remedy: Default::default(),
            },
        }],
    };
    assert_eq!(cluster.decide_within(&mut limiter, &back, 0), 1);
    cluster.silent.clear();
    let epoch = cluster.state.machine(&m0.id).unwrap().epoch;
    let held = cluster.task("waits", 0).clone();
    assert_eq!((held.desired, held.machine_epoch), (Desired::Run, epoch));
    assert_eq!(held.report_seq, row.report_seq + 1, "its report counts");
    cluster.until("its agent has ended it", |cluster| {
        cluster.task("waits", 0).state == TaskState::Done
    });
}
