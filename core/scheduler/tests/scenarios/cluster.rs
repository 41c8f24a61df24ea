//! A small cluster, for scenarios.

use serde_json::{Value, json};
use tw_model::{
    Bytes, Capacity, Code, Cores, Desired, Exit, JobId, JobSpec, Kind, MachineFacts, Millis, Phase,
    SourceRef, TaskId, TaskRecord, TaskReport, TaskState, Timestamp,
};
use tw_scheduler::{
    Event, JobState, Plan, Reply, State, StopLimiter, Submission, SubmittedJob, assignments, plan,
    step,
};

/// A spec from JSON with every default filled in.
pub(crate) fn spec(value: Value) -> JobSpec {
    serde_json::from_value(value).expect("the spec is right")
}

/// A service of a kind that most scenarios use: checked, quick to update.
pub(crate) fn service(name: &str, replicas: u32, command: &str) -> JobSpec {
    spec(json!({
        "name": name, "command": [command], "replicas": replicas, "ports": ["http"],
        "resources": {"cpu_millicores": 500, "memory_bytes": 256 << 20, "disk_bytes": 1 << 20},
        "health": [{"type": "http", "port": "http"}],
        "rollout": {"stages": [1, "50%", "100%"], "healthy_for_ms": 2000, "deadline_ms": 60_000},
        "restart": {"delay_ms": 1000, "delay_max_ms": 16_000},
    }))
}

pub(crate) fn id(name: &str) -> JobId {
    name.parse().expect("it is a name")
}

/// State, time and agents.
///
/// The command of a task says how it behaves: `sick` never passes a check, `crash` exits with 1 at once, `missing`
/// cannot start, `done` exits with 0 at once; all others run, and pass their checks.
pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) now: Timestamp,
    pub(crate) seed: u64,
    /// Machines whose agents say nothing.
    pub(crate) silent: Vec<String>,
    seq: u64,
}

impl Cluster {
    /// Machines `m0`, `m1`, ... with so many cores and mebibytes of memory.
    pub(crate) fn new(machines: &[(u64, u64)]) -> Cluster {
        let mut cluster = Cluster {
            state: State::default(),
            now: Timestamp(1_700_000_000_000_000),
            seed: 1,
            silent: Vec::new(),
            seq: 0,
        };
        for (number, size) in machines.iter().enumerate() {
            cluster.register(&format!("m{number}"), "boot-1", *size, Vec::new());
        }
        cluster
    }

    pub(crate) fn register(
        &mut self,
        machine: &str,
        boot: &str,
        (cores, memory_mib): (u64, u64),
        reports: Vec<TaskReport>,
    ) -> Reply {
        self.register_as(
            machine,
            boot,
            (cores, memory_mib),
            reports,
            MachineFacts::default(),
        )
    }

    /// A machine that says of itself where it is and what it has.
    pub(crate) fn register_as(
        &mut self,
        machine: &str,
        boot: &str,
        (cores, memory_mib): (u64, u64),
        reports: Vec<TaskReport>,
        facts: MachineFacts,
    ) -> Reply {
        self.decide(Event::AgentRegistered {
            machine: machine.parse().expect("it is a name"),
            boot_id: boot.to_owned(),
            agent: "agent".to_owned(),
            heard_ago: None,
            uptime: Millis(0),
            capacity: Capacity {
                cpu: Cores(cores * 1000),
                memory: Bytes::mib(memory_mib),
                disk: Bytes::gib(100),
                bandwidth: Bytes::mib(100),
                port_first: 20_000,
                port_last: 20_099,
            },
            facts: Box::new(MachineFacts {
                address: format!("{machine}.example"),
                ..facts
            }),
            reports,
        })
    }

    /// An agent that says something else of its machine than before, with the tasks that run there.
    pub(crate) fn register_again(
        &mut self,
        machine: &str,
        size: (u64, u64),
        facts: MachineFacts,
    ) -> Reply {
        let on_it = |row: &&TaskRecord| row.machine.as_ref().is_some_and(|m| m.as_str() == machine);
        let rows = self.state.jobs().flat_map(JobState::tasks).filter(on_it);
        let running = rows.filter(|row| row.state == TaskState::Running);
        let reports = running.map(|row| TaskReport {
            seq: self.seq + 1,
            task: row.id.clone(),
            phase: Phase::Running {
                started_at: row.started_at.expect("it runs"),
            },
        });
        let reports = reports.collect();
        self.seq += 1;
        self.register_as(machine, "boot-1", size, reports, facts)
    }

    /// Decides and applies; the state is what its rows say at every step.
    pub(crate) fn decide(&mut self, event: Event) -> Reply {
        self.seed += 1;
        let decision = step(&self.state, &event, self.now, self.seed);
        for txn in &decision.txns {
            self.state.apply(txn);
        }
        decision.reply
    }

    /// Decides, lets a limiter that counts time in milliseconds hold back stops, and applies the rest. Returns how many
    /// it held back.
    pub(crate) fn decide_within(
        &mut self,
        limiter: &mut StopLimiter,
        event: &Event,
        at: u64,
    ) -> u32 {
        self.seed += 1;
        let mut decision = step(&self.state, event, self.now, self.seed);
        let withheld = limiter.admit(&self.state, &mut decision, at);
        for txn in &decision.txns {
            self.state.apply(txn);
        }
        withheld
    }

    pub(crate) fn submission(specs: &[JobSpec]) -> Submission {
        let jobs = specs.iter().map(|spec| SubmittedJob {
            spec: spec.clone(),
            source: SourceRef::default(),
        });
        Submission {
            jobs: jobs.collect(),
            by: "ann".to_owned(),
            ..Submission::default()
        }
    }

    pub(crate) fn plan(&self, specs: &[JobSpec]) -> Plan {
        plan(&self.state, &Cluster::submission(specs), self.now, 0).expect("the plan is possible")
    }

    pub(crate) fn submit(&mut self, specs: &[JobSpec]) -> Plan {
        let submission = Cluster::submission(specs);
        let expected = None;
        match self.decide(Event::Submit {
            submission,
            expected,
        }) {
            Reply::Submitted(plan) => *plan,
            other => panic!("not submitted: {other:?}"),
        }
    }

    /// The wish that a job ends.
    pub(crate) fn removal(name: &str) -> Event {
        let submission = Submission {
            remove: vec![id(name)],
            by: "ann".to_owned(),
            ..Submission::default()
        };
        Event::Submit {
            submission,
            expected: None,
        }
    }

    pub(crate) fn stop(&mut self, name: &str) -> Reply {
        self.decide(Cluster::removal(name))
    }

    /// Reports of one machine under its current epoch.
    pub(crate) fn report(&mut self, task: &TaskId, phase: Phase) -> Reply {
        self.seq += 1;
        let seq = self.seq;
        self.report_as(task, phase, seq)
    }

    pub(crate) fn report_as(&mut self, task: &TaskId, phase: Phase, seq: u64) -> Reply {
        let row = self.state.task(task).expect("the task exists");
        let machine = row.machine.clone().expect("the task has a machine");
        let epoch = self
            .state
            .machine(&machine)
            .expect("the machine exists")
            .epoch;
        let task = task.clone();
        self.decide(Event::Reports {
            machine,
            epoch,
            reports: vec![TaskReport { seq, task, phase }],
        })
    }

    pub(crate) fn exited(&mut self, task: &TaskId, code: i32) -> Reply {
        let (at, detail) = (self.now, String::new());
        let exit = Exit {
            code: Some(code),
            ..Exit::default()
        };
        self.report(task, Phase::Exited { exit, at, detail })
    }

    /// Lets time pass in steps of half a second; the agents do their work in each.
    pub(crate) fn pass(&mut self, time: Millis) {
        for _ in 0..time.0 / 500 {
            self.now = self.now.plus(Millis(500));
            self.decide(Event::Tick);
            self.work();
        }
    }

    /// Passes time until something holds; at most ten minutes.
    pub(crate) fn until(&mut self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        for _ in 0..1200 {
            if holds(self) {
                return;
            }
            self.pass(Millis(500));
        }
        panic!("never happened: {what}\n{}", self.show());
    }

    /// Every agent does what its rows say.
    pub(crate) fn work(&mut self) {
        let machines: Vec<_> = self.state.machines().map(|row| row.id.clone()).collect();
        for machine in machines {
            if self.silent.iter().any(|name| name == machine.as_str()) {
                continue;
            }
            let rows: Vec<(TaskRecord, JobSpec)> = assignments(&self.state, &machine)
                .map(|(row, spec)| (row.clone(), (**spec).clone()))
                .collect();
            for (row, spec) in rows {
                self.work_on(&row, &spec);
            }
        }
    }

    fn work_on(&mut self, row: &TaskRecord, spec: &JobSpec) {
        let (started_at, command) = (self.now, spec.command.0[0].clone());
        if row.desired == Desired::Stop {
            self.exited(&row.id, 143);
            return;
        }
        match (row.state, command.as_str()) {
            (TaskState::Starting, "missing") => {
                let (code, message) = (Code::TaskCommandNotFound, "/bin/missing".to_owned());
                let at = self.now;
                self.report(&row.id, Phase::NeverStarted { code, message, at });
            }
            (TaskState::Starting, _) => {
                self.report(&row.id, Phase::Running { started_at });
            }
            (TaskState::Running, "crash") => {
                self.exited(&row.id, 1);
            }
            (TaskState::Running, "done") => {
                self.exited(&row.id, 0);
            }
            (TaskState::Running, command) if !spec.health.is_empty() => {
                let healthy = command != "sick";
                if row.healthy != Some(healthy) {
                    let detail = "status 500".to_owned();
                    self.report(
                        &row.id,
                        Phase::Health {
                            healthy,
                            detail,
                            remedy: Default::default(),
                        },
                    );
                }
            }
            _ => {}
        }
    }

    pub(crate) fn job(&self, name: &str) -> &JobState {
        self.state.job(&id(name)).expect("the job exists")
    }

    /// The newest row of an index.
    pub(crate) fn task(&self, name: &str, index: u32) -> &TaskRecord {
        self.job(name).latest(index).expect("the index has a row")
    }

    pub(crate) fn machine_of(&self, name: &str, index: u32) -> String {
        let machine = self.task(name, index).machine.as_ref();
        machine.map(|name| name.to_string()).unwrap_or_default()
    }

    /// How many tasks of a job serve.
    pub(crate) fn serving(&self, name: &str) -> usize {
        let job = self.job(name);
        job.tasks()
            .filter(|row| tw_scheduler::serves(job, row))
            .count()
    }

    /// Whether everything wanted of a job runs, or is done, at its wanted version.
    pub(crate) fn settled(&self, name: &str) -> bool {
        let row = self.job(name).row();
        row.stable_version == row.version && row.rollout.is_none()
    }

    pub(crate) fn settle(&mut self, name: &str) {
        self.until(&format!("{name} is settled"), |cluster| {
            cluster.settled(name)
        });
    }

    /// The kinds of the events of a job, oldest first.
    pub(crate) fn events(&self, name: &str) -> Vec<String> {
        self.state
            .events(&id(name))
            .map(|event| event.kind.clone())
            .collect()
    }

    /// Every job and its newest tasks, for messages.
    pub(crate) fn show(&self) -> String {
        let mut lines = Vec::new();
        for job in self.state.jobs() {
            let row = job.row();
            lines.push(format!(
                "{} version {} {:?}",
                row.id, row.version, row.rollout
            ));
            for row in job.latest_of_each() {
                let (state, machine) = (row.state, row.machine.as_ref());
                let machine = machine.map(|name| name.to_string()).unwrap_or_default();
                lines.push(format!(
                    "  {} v{} {state} {machine} {}",
                    row.id, row.version, row.reason
                ));
            }
        }
        lines.join("\n")
    }
}

/// A batch job of one task.
pub(crate) fn batch(name: &str, command: &str, attempts: u32) -> JobSpec {
    let mut job = service(name, 1, command);
    job.kind = Kind::Batch;
    job.health.clear();
    job.restart.attempts = attempts;
    job
}
