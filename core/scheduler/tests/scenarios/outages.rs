//! Machines that keep going away, tasks that keep failing on a machine, and a large part of the fleet lost at once.

use tw_model::{Ailment, MachineFacts, MachineId, MachineState, Millis, TaskState};
use tw_scheduler::lease::Tenure;
use tw_scheduler::{Broker, Event, PendingWhy, SchedulerConfig, State, steadiness, why_pending};

use super::cluster::{Cluster, service};

fn name(machine: &str) -> MachineId {
    machine.parse().expect("it is a name")
}

fn lose(cluster: &mut Cluster, machine: &str, silent: u32) {
    cluster.silent.push(machine.to_owned());
    let machine = name(machine);
    cluster.decide(Event::MachineLost { machine, silent });
}

/// The machine is heard of again: the same boot and the same agent.
fn back(cluster: &mut Cluster, machine: &str) {
    cluster.silent.retain(|silent| silent != machine);
    cluster.register(machine, "boot-1", (8, 8192), Vec::new());
}

/// As `back`, with an agent that still knows every task of its machine.
fn back_with_tasks(cluster: &mut Cluster, machine: &str) {
    let rows: Vec<_> = cluster.state.tasks_on(&name(machine)).cloned().collect();
    let reports = rows.iter().map(|row| tw_model::TaskReport {
        seq: row.report_seq + 1,
        task: row.id.clone(),
        phase: tw_model::Phase::Running {
            started_at: row.started_at.unwrap_or(cluster.now),
        },
    });
    let reports = reports.collect();
    cluster.silent.retain(|silent| silent != machine);
    cluster.register(machine, "boot-1", (8, 8192), reports);
}

fn spared(cluster: &Cluster) -> Vec<String> {
    let machines = cluster.state.machines().filter(|row| row.spares_tasks());
    machines.map(|row| row.id.to_string()).collect()
}

/// How many tasks of a job have ended as lost.
fn given_up(cluster: &Cluster, job: &str) -> usize {
    let rows = cluster.job(job).tasks();
    rows.filter(|row| row.state == TaskState::Lost).count()
}

/// Ten machines with three tasks each.
fn thirty_on_ten() -> Cluster {
    let mut cluster = Cluster::new(&[(8, 8192); 10]);
    let mut web = service("web", 30, "web");
    web.rollout.max_unavailable = 10;
    cluster.submit(&[web]);
    cluster.settle("web");
    cluster
}

#[test]
fn a_machine_that_keeps_going_away_is_taken_last_until_that_is_long_ago() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    for _ in 0..2 {
        lose(&mut cluster, "m1", 1);
        cluster.pass(Millis::seconds(20));
        back(&mut cluster, "m1");
    }
    let now = cluster.now;
    let unsteady = |cluster: &Cluster, now| {
        let m1 = cluster.state.machine(&name("m1")).unwrap();
        steadiness::is_unsteady(m1, now)
    };
    assert!(unsteady(&cluster, now));
    // What is stored says it as well: a new controller goes on where the old one was.
    cluster.state = State::from_records(cluster.state.records());
    assert!(unsteady(&cluster, now));
    cluster.submit(&[service("web", 6, "web")]);
    cluster.settle("web");
    let on_m1 = (0..6).filter(|index| cluster.machine_of("web", *index) == "m1");
    assert_eq!(on_m1.count(), 0, "{}", cluster.show());
    // Where nobody else has room it is better than nothing.
    cluster.submit(&[service("more", 34, "web")]);
    cluster.until("all run", |cluster| cluster.serving("more") == 34);
    assert!((0..34).any(|index| cluster.machine_of("more", index) == "m1"));
    cluster.now = cluster.now.plus(Millis::minutes(30));
    assert!(!unsteady(&cluster, cluster.now));
}

#[test]
fn a_machine_that_is_drained_may_go_away() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    let order = tw_scheduler::DrainOrder::Begin {
        reason: "kernel".to_owned(),
        within: None,
        lasts: None,
    };
    cluster.decide(Event::Drain {
        machines: vec![name("m1")],
        order,
        by: "ann".to_owned(),
    });
    for boot in ["boot-2", "boot-3", "boot-4"] {
        cluster.register("m1", boot, (8, 8192), Vec::new());
    }
    assert_eq!(cluster.state.machine(&name("m1")).unwrap().flaps, None);
}

#[test]
fn a_machine_on_which_tasks_of_a_job_keep_failing_is_taken_last_by_that_job() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192), (8, 8192)]);
    let mut web = service("web", 2, "web");
    web.health.clear();
    cluster.submit(&[web]);
    cluster.settle("web");
    let bad = cluster.machine_of("web", 0);
    for _ in 0..2 {
        let task = cluster.task("web", 0).id.clone();
        cluster.exited(&task, 1);
        cluster.pass(Millis(500));
        if cluster.task("web", 0).state == TaskState::Pending {
            let task = cluster.task("web", 0).id.clone();
            let why = why_pending(&cluster.state, &task, cluster.now);
            if let Some(PendingWhy::Backoff { avoided, .. }) = &why
                && !avoided.is_empty()
            {
                let said = why.as_ref().map(ToString::to_string).unwrap_or_default();
                assert!(said.contains(&format!("kept failing on {bad}")), "{said}");
            }
        }
        cluster.until("it runs again", |cluster| {
            cluster.task("web", 0).state == TaskState::Running
        });
    }
    assert_ne!(cluster.machine_of("web", 0), bad);
    // Another task of the job is kept from it as well; another job is not.
    let mut more = service("web", 4, "web");
    more.health.clear();
    cluster.submit(&[more, service("api", 3, "web")]);
    cluster.settle("web");
    cluster.settle("api");
    let places = |job: &str, count: u32| -> Vec<String> {
        let indexes = 0..count;
        indexes
            .map(|index| cluster.machine_of(job, index))
            .collect()
    };
    assert!(!places("web", 4).contains(&bad), "{}", cluster.show());
    assert!(places("api", 3).contains(&bad), "{}", cluster.show());
}

#[test]
fn a_few_lost_machines_are_replaced_at_once() {
    let mut cluster = thirty_on_ten();
    lose(&mut cluster, "m0", 1);
    assert_eq!(spared(&cluster), Vec::<String>::new());
    assert_eq!(given_up(&cluster, "web"), 3);
    cluster.until("they run elsewhere", |cluster| cluster.serving("web") == 30);
}

#[test]
fn a_rack_that_comes_back_goes_on_with_its_tasks() {
    let mut cluster = thirty_on_ten();
    for (left, machine) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        lose(&mut cluster, machine, 4 - left as u32);
    }
    assert_eq!(spared(&cluster), ["m0", "m1", "m2", "m3"]);
    cluster.pass(Millis::seconds(20));
    assert_eq!(given_up(&cluster, "web"), 0);
    assert_eq!(
        cluster.serving("web"),
        18,
        "nobody is sent to them meanwhile"
    );
    let row = cluster.job("web").tasks().find(|row| {
        row.machine
            .as_ref()
            .is_some_and(|machine| machine.as_str() == "m0")
    });
    let reason = &row.expect("m0 has a task").reason;
    assert!(reason.contains("together with many others"), "{reason}");
    for machine in ["m0", "m1", "m2", "m3"] {
        back_with_tasks(&mut cluster, machine);
    }
    cluster.until("they serve again", |cluster| cluster.serving("web") == 30);
    assert_eq!(given_up(&cluster, "web"), 0);
    assert_eq!(spared(&cluster), Vec::<String>::new());
    let incarnations = cluster.job("web").tasks().count();
    assert_eq!(incarnations, 30, "nothing was started twice");
    // To go together with others says nothing of a machine.
    assert!(cluster.state.machines().all(|row| row.flaps.is_none()));
}

#[test]
fn a_rack_that_stays_away_is_replaced_one_machine_after_the_other() {
    let mut cluster = thirty_on_ten();
    for (left, machine) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        lose(&mut cluster, machine, 4 - left as u32);
    }
    let mut steps = vec![(0, 0)];
    for second in 1..90 {
        cluster.pass(Millis::seconds(1));
        let lost = given_up(&cluster, "web");
        if lost != steps.last().unwrap().1 {
            steps.push((second, lost));
        }
    }
    let counts: Vec<usize> = steps.iter().map(|(_, lost)| *lost).collect();
    assert_eq!(counts, [0, 3, 6, 9, 12], "{steps:?}");
    assert!(steps[1].0 >= 29, "{steps:?}");
    // Three tasks, and six machines that take one each in ten seconds.
    let gaps: Vec<i32> = steps[1..]
        .windows(2)
        .map(|two| two[1].0 - two[0].0)
        .collect();
    assert!(gaps.iter().all(|gap| (5..=6).contains(gap)), "{steps:?}");
    cluster.until("all run elsewhere", |cluster| cluster.serving("web") == 30);
}

#[test]
fn what_is_left_of_an_outage_is_replaced_at_once_when_most_of_it_is_back() {
    let mut cluster = thirty_on_ten();
    for (left, machine) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        lose(&mut cluster, machine, 4 - left as u32);
    }
    for machine in ["m0", "m1", "m2"] {
        back_with_tasks(&mut cluster, machine);
    }
    cluster.pass(Millis::seconds(1));
    assert_eq!(given_up(&cluster, "web"), 3);
    assert_eq!(spared(&cluster), Vec::<String>::new());
}

#[test]
fn a_controller_that_was_away_does_not_make_up_for_it_at_once() {
    let mut cluster = thirty_on_ten();
    for (left, machine) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        lose(&mut cluster, machine, 4 - left as u32);
    }
    cluster.state = State::from_records(cluster.state.records());
    cluster.now = cluster.now.plus(Millis::minutes(3));
    cluster.decide(Event::Tick);
    assert!(given_up(&cluster, "web") <= 3, "{}", cluster.show());
    cluster.until("all run elsewhere", |cluster| cluster.serving("web") == 30);
}

#[test]
fn a_kept_task_that_is_not_wanted_any_more_ends_at_once() {
    let mut cluster = thirty_on_ten();
    for (left, machine) in ["m0", "m1", "m2", "m3"].into_iter().enumerate() {
        lose(&mut cluster, machine, 4 - left as u32);
    }
    cluster.submit(&[service("web", 1, "web")]);
    cluster.pass(Millis::seconds(5));
    let live = cluster
        .job("web")
        .tasks()
        .filter(|row| !row.state.is_terminal());
    assert_eq!(live.count(), 1, "{}", cluster.show());
}

#[test]
fn machines_that_went_with_the_first_count_although_their_time_is_not_over() {
    let cluster = Cluster::new(&[(8, 8192); 10]);
    let mut broker = Broker::new(&SchedulerConfig::default(), Tenure::WhileAlive, 0);
    for number in 0..10 {
        // Heartbeats come within a second of each other; six machines go on.
        let last = if number < 4 {
            1_000 + number * 200
        } else {
            11_000
        };
        broker.heard(&name(&format!("m{number}")), last);
    }
    let due = broker.due(&cluster.state, 11_050);
    assert!(
        matches!(&due[..], [Event::MachineLost { silent: 4, .. }]),
        "{due:?}"
    );
    let lost = cluster
        .state
        .machines()
        .filter(|row| row.state == MachineState::Lost);
    assert_eq!(lost.count(), 0);
}

fn ail(cluster: &mut Cluster, machine: &str, ailments: &[Ailment]) {
    let machine = name(machine);
    cluster.decide(Event::Ailing {
        epoch: cluster.state.machine(&machine).unwrap().epoch,
        ailments: ailments.iter().copied().collect(),
        machine,
    });
}

#[test]
fn a_machine_that_something_ails_is_taken_last_for_as_long_as_that_counts() {
    let mut cluster = Cluster::new(&[(1, 1024), (4, 4096)]);
    ail(&mut cluster, "m0", &[Ailment::DiskFull]);
    // By itself the smaller one, which it fills best, would come first.
    cluster.submit(&[service("one", 1, "x")]);
    assert_eq!(cluster.machine_of("one", 0), "m1");
    ail(&mut cluster, "m0", &[]);
    cluster.pass(Millis::minutes(14));
    cluster.submit(&[service("two", 1, "x")]);
    assert_eq!(
        cluster.machine_of("two", 0),
        "m1",
        "it may be so again soon"
    );
    // One that registers again is as it was.
    cluster.register_again("m0", (1, 1024), MachineFacts::default());
    cluster.submit(&[service("three", 1, "x")]);
    assert_eq!(cluster.machine_of("three", 0), "m1");
    cluster.pass(Millis::minutes(2));
    cluster.submit(&[service("four", 1, "x")]);
    assert_eq!(cluster.machine_of("four", 0), "m0");
}

#[test]
fn where_all_machines_are_ailing_tasks_run_there_and_those_that_wait_say_so() {
    let mut cluster = Cluster::new(&[(1, 1024), (1, 1024)]);
    ail(&mut cluster, "m0", &[Ailment::DiskReadOnly]);
    ail(
        &mut cluster,
        "m1",
        &[Ailment::DiskReadOnly, Ailment::MemoryShort],
    );
    cluster.submit(&[service("web", 5, "x")]);
    let waits = cluster.task("web", 4).id.clone();
    let why = why_pending(&cluster.state, &waits, cluster.now)
        .unwrap()
        .to_string();
    let said = "disk read-only on 2, short of memory on 1";
    assert!(why.contains(said), "{why}");
    cluster.pass(Millis::seconds(5));
    assert_eq!(cluster.serving("web"), 4);
    // What was said in another epoch does not count.
    cluster.decide(Event::Ailing {
        machine: name("m0"),
        epoch: 7,
        ailments: Default::default(),
    });
    assert_eq!(
        cluster.state.machine(&name("m0")).unwrap().ailments[0].until,
        None
    );
}
