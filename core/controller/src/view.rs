//! What is durable, folded from the store's rows. Everything that leaves the controller is read from here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use tw_api::{Assignment, SubmittedJob};
use tw_model::{
    Endpoint, EventRecord, Incarnation, JobId, JobRecord, JobSpec, MachineId, MachineRecord,
    MachineState, Name, PlanRecord, Record, RecordKey, RepositoryRecord, TaskId, TaskRecord,
    TaskState, Version, VersionRecord,
};

/// All rows, in the order in which they are asked for.
#[derive(Default)]
pub(crate) struct View {
    jobs: BTreeMap<JobId, JobView>,
    machines: BTreeMap<MachineId, MachineRecord>,
    by_machine: BTreeMap<MachineId, BTreeSet<TaskId>>,
    repositories: BTreeMap<Name, Arc<RepositoryRecord>>,
    plans: BTreeMap<String, Arc<PlanRecord>>,
}

/// The rows of one job.
#[derive(Default)]
pub(crate) struct JobView {
    pub(crate) record: Option<JobRecord>,
    pub(crate) versions: BTreeMap<Version, Arc<VersionRecord>>,
    pub(crate) tasks: BTreeMap<(u32, Incarnation), Arc<TaskRecord>>,
    pub(crate) events: BTreeMap<u64, Arc<EventRecord>>,
}

/// What a row that changed may mean to those who follow.
#[derive(Default)]
pub(crate) struct Touched {
    /// Tasks by the machine that has, or had, them.
    pub(crate) tasks: Vec<(MachineId, TaskId)>,
    /// Jobs whose endpoints may be others now.
    pub(crate) jobs: BTreeSet<JobId>,
    /// Machines whose own rows changed.
    pub(crate) machines: BTreeSet<MachineId>,
    pub(crate) events: Vec<Arc<EventRecord>>,
}

impl View {
    pub(crate) fn from_records(records: impl IntoIterator<Item = Record>) -> View {
        let mut view = View::default();
        let mut touched = Touched::default();
        for record in records {
            view.put(record, &mut touched);
        }
        view
    }

    pub(crate) fn put(&mut self, record: Record, touched: &mut Touched) {
        match record {
            Record::Job(row) => {
                let job = self.jobs.entry(row.id.clone()).or_default();
                job.record = Some(row);
            }
            Record::Version(row) => {
                let job = self.jobs.entry(row.job.clone()).or_default();
                job.versions.insert(row.version, row);
            }
            Record::Task(row) => self.put_task(row, touched),
            Record::Machine(row) => {
                touched.machines.insert(row.id.clone());
                self.machines.insert(row.id.clone(), row);
            }
            Record::Event(row) => {
                touched.events.push(Arc::clone(&row));
                let job = self.jobs.entry(row.job.clone()).or_default();
                job.events.insert(row.seq, row);
            }
            Record::Repository(row) => {
                self.repositories.insert(row.name.clone(), row);
            }
            Record::Plan(row) => {
                self.plans.insert(row.digest.clone(), row);
            }
            // What is used of it is asked of the scheduler's state.
            Record::Allowance(_) => {}
        }
    }

    fn put_task(&mut self, row: Arc<TaskRecord>, touched: &mut Touched) {
        let id = row.id.clone();
        touched.jobs.insert(id.job.clone());
        if let Some(machine) = &row.machine {
            touched.tasks.push((machine.clone(), id.clone()));
            let held = self.by_machine.entry(machine.clone()).or_default();
            held.insert(id.clone());
        }
        let job = self.jobs.entry(id.job.clone()).or_default();
        let before = job.tasks.insert((id.index, id.incarnation), row);
        let now = &job.tasks[&(id.index, id.incarnation)].machine;
        if let Some(old) = before.and_then(|row| row.machine.clone())
            && now.as_ref() != Some(&old)
        {
            self.release(&old, &id, touched);
        }
    }

    pub(crate) fn delete(&mut self, key: &RecordKey, touched: &mut Touched) {
        match key {
            RecordKey::Job(id) => self.change_job(id, |job| job.record = None),
            RecordKey::Version(id, version) => {
                self.change_job(id, |job| drop(job.versions.remove(version)));
            }
            RecordKey::Event(id, seq) => self.change_job(id, |job| drop(job.events.remove(seq))),
            RecordKey::Task(id) => {
                touched.jobs.insert(id.job.clone());
                let mut machine = None;
                self.change_job(&id.job, |job| {
                    let gone = job.tasks.remove(&(id.index, id.incarnation));
                    machine = gone.and_then(|row| row.machine.clone());
                });
                if let Some(machine) = machine {
                    self.release(&machine, id, touched);
                }
            }
            RecordKey::Machine(id) => {
                touched.machines.insert(id.clone());
                self.machines.remove(id);
            }
            RecordKey::Repository(name) => {
                self.repositories.remove(name);
            }
            RecordKey::Plan(digest) => {
                self.plans.remove(digest);
            }
            RecordKey::Allowance(_) => {}
        }
    }

    fn change_job(&mut self, id: &JobId, change: impl FnOnce(&mut JobView)) {
        let Some(job) = self.jobs.get_mut(id) else {
            return;
        };
        change(job);
        if job.is_empty() {
            self.jobs.remove(id);
        }
    }

    fn release(&mut self, machine: &MachineId, task: &TaskId, touched: &mut Touched) {
        touched.tasks.push((machine.clone(), task.clone()));
        if let Some(held) = self.by_machine.get_mut(machine) {
            held.remove(task);
        }
    }

    /// The job, if it has been applied.
    pub(crate) fn job(&self, id: &JobId) -> Option<(&JobRecord, &JobView)> {
        let job = self.jobs.get(id)?;
        Some((job.record.as_ref()?, job))
    }

    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&JobRecord, &JobView)> {
        self.jobs
            .values()
            .filter_map(|job| Some((job.record.as_ref()?, job)))
    }

    pub(crate) fn task(&self, id: &TaskId) -> Option<&TaskRecord> {
        let job = self.jobs.get(&id.job)?;
        job.tasks.get(&(id.index, id.incarnation)).map(Arc::as_ref)
    }

    pub(crate) fn machine(&self, id: &MachineId) -> Option<&MachineRecord> {
        self.machines.get(id)
    }

    pub(crate) fn machines(&self) -> impl Iterator<Item = &MachineRecord> {
        self.machines.values()
    }

    /// The repositories that are followed, by name.
    pub(crate) fn repositories(&self) -> impl Iterator<Item = &Arc<RepositoryRecord>> {
        self.repositories.values()
    }

    /// One repository.
    pub(crate) fn repository(&self, name: &Name) -> Option<&Arc<RepositoryRecord>> {
        self.repositories.get(name)
    }

    /// The plans of commits that are kept, by digest.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &Arc<PlanRecord>> {
        self.plans.values()
    }

    /// One plan of a commit.
    pub(crate) fn plan(&self, digest: &str) -> Option<&Arc<PlanRecord>> {
        self.plans.get(digest)
    }

    /// The rows of the tasks that a machine has, ended ones included.
    pub(crate) fn tasks_on<'a>(
        &'a self,
        machine: &MachineId,
    ) -> impl Iterator<Item = &'a TaskRecord> + use<'a> {
        let held = self.by_machine.get(machine).into_iter().flatten();
        held.filter_map(|id| self.task(id))
    }

    /// All that a machine's agent is to know of.
    pub(crate) fn assignments(&self, machine: &MachineId) -> Vec<Assignment> {
        let tasks = self.tasks_on(machine);
        tasks
            .filter_map(|row| self.assignment(machine, &row.id))
            .collect()
    }

    /// What a machine's agent is to know of a task; none when nothing of the task belongs there.
    ///
    /// A live row of an older machine epoch is never delivered: its task is known or declared to have
    /// ended. Rows of ended tasks are, so that their logs are kept.
    pub(crate) fn assignment(&self, machine: &MachineId, task: &TaskId) -> Option<Assignment> {
        let row = self.task(task)?;
        let epoch = self.machines.get(machine)?.epoch;
        let belongs = row.machine.as_ref() == Some(machine)
            && (row.machine_epoch == epoch || row.state.is_terminal());
        let job = self.jobs.get(&task.job)?;
        let version = job.versions.get(&row.version)?;
        belongs.then(|| Assignment {
            task: row.clone(),
            spec: Arc::clone(&version.spec),
            plan: version.plan.clone(),
            revision: version.source.revision.clone(),
        })
    }

    /// Where the services are that the live tasks of a machine name.
    pub(crate) fn endpoints_for(&self, machine: &MachineId) -> Vec<Endpoint> {
        let named: BTreeSet<JobId> = self
            .tasks_on(machine)
            .filter(|row| !row.state.is_terminal())
            .filter_map(|row| self.spec(row))
            .flat_map(|spec| spec.services())
            .collect();
        named.iter().flat_map(|job| self.endpoints(job)).collect()
    }

    /// Where the healthy tasks of a job listen, on each of its ports.
    pub(crate) fn endpoints(&self, job: &JobId) -> impl Iterator<Item = Endpoint> {
        let tasks = self
            .jobs
            .get(job)
            .into_iter()
            .flat_map(|job| job.tasks.values());
        tasks.filter(|row| self.serves(row)).flat_map(|row| {
            let host = self.address(row);
            row.ports.iter().filter_map(move |(port, number)| {
                Some(Endpoint {
                    job: row.id.job.clone(),
                    port: port.clone(),
                    task: row.id.clone(),
                    address: socket_address(host.as_ref()?, *number),
                })
            })
        })
    }

    /// The digests of all packages that a version names, old versions included.
    pub(crate) fn packages(&self) -> HashSet<String> {
        let versions = self.jobs.values().flat_map(|job| job.versions.values());
        versions
            .flat_map(|version| &version.spec.packages)
            .map(|package| package.digest.0.clone())
            .collect()
    }

    /// Whether a task runs, is to run on, and passes its checks, if it has any.
    pub(crate) fn serves(&self, row: &TaskRecord) -> bool {
        let checked = self.spec(row).is_some_and(|spec| !spec.health.is_empty());
        let machine = row
            .machine
            .as_ref()
            .and_then(|machine| self.machine(machine));
        machine.is_some_and(|machine| machine.state == MachineState::Up)
            && row.state == TaskState::Running
            && row.desired == tw_model::Desired::Run
            && (row.healthy == Some(true) || (row.healthy.is_none() && !checked))
    }

    /// Where a task's machine is reached.
    pub(crate) fn address(&self, row: &TaskRecord) -> Option<String> {
        let machine = self.machines.get(row.machine.as_ref()?)?;
        Some(machine.facts.address.clone())
    }

    /// The spec that a task runs.
    pub(crate) fn spec(&self, row: &TaskRecord) -> Option<&Arc<JobSpec>> {
        let job = self.jobs.get(&row.id.job)?;
        Some(&job.versions.get(&row.version)?.spec)
    }
}

impl JobView {
    fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.versions.is_empty()
            && self.tasks.is_empty()
            && self.events.is_empty()
    }

    /// The version that is wanted.
    pub(crate) fn wanted(&self) -> Option<&VersionRecord> {
        self.versions
            .get(&self.record.as_ref()?.version)
            .map(Arc::as_ref)
    }

    /// A version as it was submitted.
    pub(crate) fn submitted(&self, version: Version) -> Option<SubmittedJob> {
        let row = self.versions.get(&version)?;
        Some(SubmittedJob {
            spec: (*row.spec).clone(),
            source: row.source.clone(),
        })
    }

    /// One task an index, the one that holds it: the newest live one, else the newest.
    pub(crate) fn holders(&self) -> Vec<&TaskRecord> {
        let mut holders: BTreeMap<u32, &TaskRecord> = BTreeMap::new();
        for row in self.tasks.values() {
            let holder = holders.entry(row.id.index).or_insert(row);
            // Rows come in the order of their incarnations.
            if !row.state.is_terminal() || holder.state.is_terminal() {
                *holder = row;
            }
        }
        holders.into_values().collect()
    }
}

/// Writes an address and a port as one text, IPv6 in brackets.
fn socket_address(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}
