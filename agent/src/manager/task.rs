//! Tasks: one actor each, from its assignment to the day it is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tw_api::Assignment;
use tw_model::{Code, Desired, Digest, Exit, Image, Phase, TaskId, TaskState, Timestamp, Version};

use super::cores::WholeCores;
use super::folder::{self, TaskFolder};
use super::helper_link::{self, HelperLink};
use super::launch::{self, Refusal};
use super::{Agent, HELPERS_LEAF, health, lease, secret};
use crate::failpoint;
use crate::helper::protocol::{Reply, Request};
use crate::helper::record::{
    self, EXIT_FILE, ExitRecord, Outcome, STARTED_FILE, StartedRecord, TermEnd,
};
use crate::helper::{lock, prepare_folder, spare};
use crate::log::LogCounts;
use crate::process::boot_ms;
use crate::sandbox::{Ended, Stage, StartError};

/// How long killed processes may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a start waits for the endpoints of the services that its command names.
const SERVICES_WITHIN: Duration = Duration::from_secs(5);

/// The tasks that this agent holds.
#[derive(Debug, Default)]
pub(super) struct Tasks(Mutex<BTreeMap<TaskId, Handle>>);

#[derive(Debug)]
struct Handle {
    orders: watch::Sender<Orders>,
}

/// What is wanted of a task; the newest word counts.
#[derive(Clone, Debug)]
struct Orders {
    /// None for a task that was found in the state folder until the controller says something of it.
    assignment: Option<Arc<Assignment>>,
    /// Nothing may run, and nothing shall be left.
    forget: bool,
}

impl Orders {
    fn wants_stop(&self) -> bool {
        let stop = |assignment: &Arc<Assignment>| {
            assignment.task.desired == Desired::Stop || assignment.task.state.is_terminal()
        };
        self.forget || self.assignment.as_ref().is_some_and(stop)
    }

    /// Whether the stop is not one that the task may take its time for.
    fn wants_kill(&self) -> bool {
        self.forget
            || self
                .assignment
                .as_ref()
                .is_some_and(|assignment| assignment.task.state.is_terminal())
    }
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn forget(&self, task: &TaskId) {
        if let Some(handle) = self.lock().get(task) {
            handle.orders.send_modify(|orders| orders.forget = true);
        }
    }

    /// Writes the endpoints into every task that names services.
    pub(super) fn refresh_endpoints(&self, agent: &Agent) {
        let folder = agent.config.tasks_folder();
        for (task, handle) in self.lock().iter() {
            let assignment = handle.orders.borrow().assignment.clone();
            let Some(assignment) = assignment else {
                continue;
            };
            let run = TaskFolder::of(&folder, task).run();
            if run.is_dir()
                && let Err(cause) = agent.endpoints.write(&assignment.spec, &run)
            {
                tracing::warn!(%task, %cause, "cannot write the endpoints");
            }
        }
    }

    fn remove(&self, task: &TaskId) {
        self.lock().remove(task);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes over every task of the agent before this one.
pub(super) fn adopt(agent: &Arc<Agent>) -> anyhow::Result<()> {
    for task in folder::list(&agent.config.tasks_folder())? {
        let folder = TaskFolder::of(&agent.config.tasks_folder(), &task);
        let assignment = folder.assignment().unwrap_or_else(|cause| {
            tracing::warn!(%task, %cause, "the record of the assignment cannot be read");
            None
        });
        // Said before anything is awaited: the registration that follows must name every task that is here.
        agent.reports.add(&task, recorded_phase(&folder));
        agent.cores.adopt(&task, folder.path());
        begin(agent, task, assignment.map(Arc::new), true);
    }
    remove_strays(agent);
    Ok(())
}

/// What the records of an earlier agent say; whether it still holds is found out next.
fn recorded_phase(folder: &TaskFolder) -> Phase {
    if let Ok(Some(exit)) = record::read::<ExitRecord>(folder.path(), EXIT_FILE) {
        return phase_of(&exit);
    }
    match record::read::<StartedRecord>(folder.path(), STARTED_FILE) {
        Ok(Some(started)) => Phase::Running {
            started_at: Timestamp(started.started_at_us),
        },
        _ => Phase::Starting,
    }
}

/// Ends what runs in cgroups of the agent's that belong to no task it has a folder of.
fn remove_strays(agent: &Agent) {
    let known: BTreeSet<String> = agent.tasks.lock().keys().map(TaskId::folder_name).collect();
    for leaf in agent.tree.leaves().unwrap_or_default() {
        if leaf == HELPERS_LEAF || known.contains(&leaf) || spare::is_reserved_by_living(&leaf) {
            continue;
        }
        let removed = agent
            .tree
            .kill(&leaf)
            .and_then(|()| agent.tree.remove(&leaf, KILL_PATIENCE));
        match removed {
            Ok(()) => tracing::info!(leaf, "removed a cgroup that was nobody's"),
            Err(cause) => {
                tracing::warn!(leaf, cause = %crate::error::chain(&cause), "cannot remove a cgroup")
            }
        }
    }
}

/// Takes all that is assigned: what is new begins, what is not there is forgotten.
pub(super) fn take_snapshot(agent: &Arc<Agent>, assignments: Vec<Assignment>) {
    let named: BTreeSet<TaskId> = assignments
        .iter()
        .map(|assignment| assignment.task.id.clone())
        .collect();
    let needed: BTreeSet<Digest> = assignments
        .iter()
        .flat_map(|assignment| {
            let packages = assignment.spec.packages.iter();
            let image = match &assignment.spec.image {
                Some(Image::Archive(archive)) => Some(archive.digest.clone()),
                _ => None,
            };
            packages.map(|package| package.digest.clone()).chain(image)
        })
        .collect();
    let held: Vec<TaskId> = agent.tasks.lock().keys().cloned().collect();
    for task in held.iter().filter(|task| !named.contains(task)) {
        tracing::info!(%task, "not assigned any more");
        agent.tasks.forget(task);
    }
    for assignment in assignments {
        assign(agent, assignment);
    }
    if let Err(cause) = agent.packages.collect(&needed) {
        tracing::warn!(%cause, "cannot remove unused packages");
    }
}

/// Takes one assignment: a new task, or a new word on one that is held.
pub(super) fn assign(agent: &Arc<Agent>, assignment: Assignment) {
    let (task, assignment) = (assignment.task.id.clone(), Arc::new(assignment));
    if let Some(handle) = agent.tasks.lock().get(&task) {
        handle
            .orders
            .send_modify(|orders| orders.assignment = Some(assignment));
        return;
    }
    if !assignment.task.state.is_terminal() {
        begin(agent, task, Some(assignment), false);
    }
}

fn begin(agent: &Arc<Agent>, task: TaskId, assignment: Option<Arc<Assignment>>, found: bool) {
    let (orders, received) = watch::channel(Orders {
        assignment,
        forget: false,
    });
    agent.tasks.lock().insert(task.clone(), Handle { orders });
    let folder = TaskFolder::of(&agent.config.tasks_folder(), &task);
    let actor = Actor {
        agent: Arc::clone(agent),
        task,
        folder,
        orders: received,
        is_adopted: found,
        recorded: None,
    };
    tokio::spawn(actor.run());
}

/// One task's life on this machine.
struct Actor {
    agent: Arc<Agent>,
    task: TaskId,
    folder: TaskFolder,
    orders: watch::Receiver<Orders>,
    /// Whether it was found in the state folder.
    is_adopted: bool,
    /// The version of the assignment in the folder, if this agent has written it.
    recorded: Option<Version>,
}

impl Actor {
    async fn run(mut self) {
        let link = match self.is_adopted {
            true => self.reattach().await,
            false => self.start().await,
        };
        let mut unwritten = None;
        if let Some(mut link) = link {
            let end = self.keep(&mut link).await;
            failpoint::reach("agent.end_heard");
            match end {
                // The helper waits, and keeps the record, until a disk takes it.
                Some(record) if !self.folder.path().join(EXIT_FILE).exists() => {
                    self.report_record(&record);
                    unwritten = Some(link);
                }
                _ => {
                    self.bury(Outcome::HelperLost).await;
                    self.report_end();
                }
            }
            failpoint::reach("agent.end_reported");
        }
        self.agent.resources.remove(&self.task);
        self.remove_leaf().await;
        self.agent.cores.take_back(&self.task);
        self.folder.remove_scratch_aside().await;
        failpoint::reach("agent.scratch_removed");
        self.wait_until_forgotten().await;
        if let Some(mut link) = unwritten {
            let _helper_may_be_gone = link.send(&Request::Acknowledge).await;
        }
        if let Err(cause) = self.folder.remove() {
            tracing::warn!(task = %self.task, %cause, "cannot remove what is left");
        }
        failpoint::reach("agent.folder_removed");
        self.agent.reports.forget(&self.task);
        self.agent.tasks.remove(&self.task);
    }

    fn report(&self, phase: Phase) {
        self.agent.reports.add(&self.task, phase);
    }

    /// Starts a task that has never been here. None when it will never run; that is reported then.
    async fn start(&mut self) -> Option<HelperLink> {
        let orders = self.orders.borrow().clone();
        let assignment = orders.assignment.clone()?;
        if assignment.task.state == TaskState::Running {
            self.kill_leaf_surely().await;
            self.report(lost("its folder on this machine is gone"));
            return None;
        }
        if orders.wants_stop() {
            self.never_started(Refusal::new(
                Code::TaskStartFailed,
                "it was stopped before it began",
            ));
            return None;
        }
        failpoint::reach("agent.assigned");
        self.report(Phase::Starting);
        failpoint::reach("agent.starting_reported");
        match self.launch(&assignment).await {
            Ok(link) => Some(link),
            Err(LaunchError::Refused(refusal)) => {
                self.never_started(refusal);
                None
            }
            // The helper may have said why before it went.
            Err(LaunchError::HelperLost(why)) => {
                self.bury_lost(why).await;
                self.report_end();
                None
            }
        }
    }

    async fn launch(&mut self, assignment: &Assignment) -> Result<HelperLink, LaunchError> {
        let (task, version) = (&self.task, assignment.task.version);
        tracing::info!(%task, version, plan = assignment.plan, "starting");
        let mut packages = Vec::new();
        for package in &assignment.spec.packages {
            packages.push(self.agent.packages.get(&package.digest).await?);
        }
        if let Some(Image::Archive(archive)) = &assignment.spec.image {
            self.agent.packages.get(&archive.digest).await?;
        }
        let secrets = secret::fetch(&self.agent, assignment).await?;
        self.wait_for_services(assignment).await;
        let term = self.wait_for_grant(assignment).await?;
        let cores = self.agent.cores.give(task, &assignment.spec)?;
        let mut record = launch::record(&self.agent, assignment, self.folder.path(), &packages)?;
        record.term = term;
        record.cores = cores;
        record.proto = record.lowest_proto();
        self.folder.create(&assignment.spec)?;
        let prepared = prepare_folder(self.folder.path(), &record).map_err(anyhow::Error::from);
        prepared
            .inspect(|()| failpoint::reach("agent.folder_prepared"))
            .and_then(|()| match record.sandbox.has_own_root {
                true => self
                    .folder
                    .copy_root(&record.sandbox.base, &assignment.spec),
                false => Ok(()),
            })
            .and_then(|()| WholeCores::note(self.folder.path(), &record.cores))
            .and_then(|()| self.folder.write_assignment(assignment))?;
        self.recorded = Some(assignment.task.version);
        failpoint::reach("agent.assignment_written");
        self.agent
            .endpoints
            .begin(&assignment.spec, &self.folder.run())
            .map_err(|cause| Refusal::from(anyhow::Error::from(cause)))?;
        let handed_over = secrets.as_ref().map(AsFd::as_fd);
        let started = helper_link::start(&self.agent.spares, self.folder.path(), handed_over).await;
        started.map_err(|cause| {
            let said =
                std::fs::read_to_string(self.folder.path().join("helper.log")).unwrap_or_default();
            LaunchError::HelperLost(format!("its helper did not start: {cause} {said}"))
        })
    }

    /// An assignment may come a moment before the endpoints that it waited for. Those that do not come are
    /// named when the command is put together.
    async fn wait_for_services(&self, assignment: &Assignment) {
        let deadline = tokio::time::Instant::now() + SERVICES_WITHIN;
        while !launch::knows_services(&self.agent, assignment)
            && !self.orders.borrow().wants_stop()
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn count_start_failure(&self) {
        let failures = &self.agent.counts.start_failures;
        failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A task that fails over begins only while it may run: under a grant of the controller, and if it is still to start.
    async fn wait_for_grant(&self, assignment: &Assignment) -> Result<Option<TermEnd>, Refusal> {
        let grants = self.agent.grants.follow();
        loop {
            let granted = *grants.borrow();
            match lease::term_end(&assignment.spec, granted.unwrap_or(0)) {
                None => return Ok(None),
                Some(_) if self.orders.borrow().wants_stop() => {
                    return Err(Refusal::new(
                        Code::TaskStartFailed,
                        "it was stopped before it began",
                    ));
                }
                Some(end) if boot_ms() < end.signal_at_ms => return Ok(Some(end)),
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Passes a grant on to the helper of a task that fails over.
    async fn prolong(&self, link: &mut HelperLink, orders: &Orders, granted: Option<u64>) {
        let Some((assignment, granted)) = orders.assignment.as_ref().zip(granted) else {
            return;
        };
        if let Some(term) = lease::term_end(&assignment.spec, granted)
            && link.proto >= 3
        {
            let _helper_may_be_gone = link.send(&Request::Prolong { term }).await;
        }
    }

    fn never_started(&self, refusal: Refusal) {
        self.count_start_failure();
        tracing::info!(task = %self.task, code = %refusal.code, message = refusal.message, "not started");
        self.report(Phase::NeverStarted {
            code: refusal.code,
            message: refusal.message,
            at: now(),
        });
    }

    /// Finds the task of an earlier agent: alive by its helper, ended by its record, or cut off from it.
    async fn reattach(&mut self) -> Option<HelperLink> {
        if let Some(link) = helper_link::find(self.folder.path()).await {
            return Some(link);
        }
        let why = "its agent ended while it was being started";
        self.bury_lost(why.to_owned()).await;
        self.report_end();
        None
    }

    /// Buries a task whose helper went without a word: before its command ran, for the reason `why`, or after.
    async fn bury_lost(&self, why: String) {
        let outcome = match record::read::<StartedRecord>(self.folder.path(), STARTED_FILE) {
            Ok(None) => Outcome::NeverStarted(StartError {
                stage: Stage::Lost,
                errno: None,
                message: why,
            }),
            _ => Outcome::HelperLost,
        };
        self.bury(outcome).await;
    }

    /// Follows a task with a live helper until it has ended. Answers the record of its end, if the helper
    /// said it.
    async fn keep(&mut self, link: &mut HelperLink) -> Option<Box<ExitRecord>> {
        let mut applied = self.orders.borrow_and_update().clone();
        let mut checks = None;
        // A helper of protocol 1 has no hooks to wait for, and does not say when it is ready.
        let mut is_ready = link.proto < 2;
        if is_ready {
            checks = Some(self.become_ready(&applied));
        }
        let mut asked = Asked::Nothing;
        let mut grants = self.agent.grants.follow();
        grants.mark_changed();
        let end = loop {
            asked = self.ask_to_end(link, &applied, asked).await;
            tokio::select! {
                said = link.next() => match said {
                    Ok(Some(Reply::Ended { record })) => break Some(record),
                    Ok(None) | Err(_) => break None,
                    Ok(Some(Reply::Ready)) if !is_ready => {
                        is_ready = true;
                        checks = Some(self.become_ready(&applied));
                    }
                    Ok(Some(Reply::OutOfMemory { record })) => {
                        tracing::warn!(task = %self.task, %record, "out of memory; it is asked to end");
                    }
                    Ok(Some(_)) => {}
                },
                Ok(()) = grants.changed() => {
                    let granted = *grants.borrow_and_update();
                    self.prolong(link, &applied, granted).await;
                }
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        break None;
                    }
                    let newest = self.orders.borrow_and_update().clone();
                    if is_ready && version(&newest) != version(&applied) {
                        checks.replace(self.follow_spec(&newest)).iter().for_each(AbortHandle::abort);
                    }
                    applied = newest;
                }
            }
        };
        checks.iter().for_each(AbortHandle::abort);
        end
    }

    /// The task runs, and what was to be done after its start has been done.
    fn become_ready(&mut self, orders: &Orders) -> AbortHandle {
        if !self.is_adopted {
            self.agent.counts.starts.fetch_add(1, Ordering::Relaxed);
        }
        // It runs, whatever has become of the record.
        let started = record::read::<StartedRecord>(self.folder.path(), STARTED_FILE);
        let started_at = started.ok().flatten().map(|it| Timestamp(it.started_at_us));
        self.report(Phase::Running {
            started_at: started_at.unwrap_or_else(now),
        });
        failpoint::reach("agent.running_reported");
        self.follow_spec(orders)
    }

    /// Applies a spec to the running task: its limits, its checks, and the record for the next agent.
    fn follow_spec(&mut self, orders: &Orders) -> AbortHandle {
        let Some(assignment) = orders.assignment.clone() else {
            return tokio::spawn(async {}).abort_handle();
        };
        if self.recorded != Some(assignment.task.version) {
            match self.folder.write_assignment(&assignment) {
                Ok(()) => self.recorded = Some(assignment.task.version),
                Err(cause) => {
                    self.recorded = None;
                    tracing::warn!(task = %self.task, %cause, "cannot record the assignment");
                }
            }
        }
        if let Err(cause) = self.folder.bound(&assignment.spec) {
            tracing::warn!(task = %self.task, cause = format!("{cause:#}"), "cannot bound its disk");
        }
        if self.owns_leaf() {
            self.limit(&assignment);
        } else {
            tracing::warn!(task = %self.task, "the cgroup of its name is not its own and is not limited");
        }
        let folder = self.folder.path().to_owned();
        tokio::spawn(health::watch(Arc::clone(&self.agent), assignment, folder)).abort_handle()
    }

    /// Holds the task's leaf to what its spec says.
    fn limit(&self, assignment: &Assignment) {
        let cores = &self.agent.cores;
        if let Err(cause) = cores.follow(&self.task, &assignment.spec, self.folder.path()) {
            tracing::warn!(task = %self.task, cause = format!("{cause:#}"), "cannot set its cores");
        }
        self.agent.resources.set(
            &self.task,
            Arc::clone(&assignment.spec),
            assignment.task.version,
        );
    }

    /// Tells the helper to end the task, when that is wanted and not said yet.
    async fn ask_to_end(&self, link: &mut HelperLink, orders: &Orders, asked: Asked) -> Asked {
        if orders.wants_kill() && asked < Asked::Kill {
            let _helper_may_be_gone = link.send(&Request::Kill).await;
            return Asked::Kill;
        }
        if orders.wants_stop() && asked < Asked::Stop {
            self.report(Phase::Stopping);
            failpoint::reach("agent.stop_wanted");
            let _helper_may_be_gone = link.send(&stop_request(orders)).await;
            failpoint::reach("agent.stop_sent");
            return Asked::Stop;
        }
        asked
    }

    /// Makes sure that nothing of a task runs whose helper has gone, and that there is a record of its end:
    /// the helper's own, or `outcome`.
    async fn bury(&self, outcome: Outcome) {
        // Held until the record is written: a helper that comes late finds it and does not begin.
        let held = self.wait_for_lock().await;
        if matches!(
            record::read::<ExitRecord>(self.folder.path(), EXIT_FILE),
            Ok(Some(_))
        ) {
            return;
        }
        if held.is_none() {
            self.kill_helper();
        }
        self.kill_leaf_surely().await;
        tracing::warn!(task = %self.task, ?outcome, "its helper is gone, and the task with it");
        let record = ExitRecord {
            proto: crate::helper::protocol::PROTO,
            outcome,
            ended_at_us: now().0,
            is_oom: false,
            oom: None,
            hooks: Vec::new(),
            usage: Default::default(),
            log: LogCounts::default(),
        };
        if let Err(cause) = record::write_durably(self.folder.path(), EXIT_FILE, &record) {
            tracing::warn!(task = %self.task, %cause, "cannot record the end");
        }
    }

    /// The helper's lock, once it has gone; none when it does not go.
    async fn wait_for_lock(&self) -> Option<OwnedFd> {
        let deadline = tokio::time::Instant::now() + KILL_PATIENCE;
        loop {
            match lock(self.folder.path()) {
                Ok(held) => return Some(held),
                Err(_) if tokio::time::Instant::now() >= deadline => return None,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Ends a helper that lives and cannot be spoken to, by its identity.
    fn kill_helper(&self) {
        let started = record::read::<StartedRecord>(self.folder.path(), STARTED_FILE);
        if let Ok(Some(started)) = started
            && let Ok(Some(helper)) = started.helper.open()
        {
            // It may go by itself in this moment.
            let _gone = pidfd_send_signal(&helper, Signal::KILL);
        }
    }

    /// Removes what a helper that was killed could not.
    async fn remove_leaf(&self) {
        let leaf = self.task.folder_name();
        // A helper that has told the end removes the leaf itself, unless it is killed in between.
        if self.agent.tree.id(&leaf).is_ok() && self.wait_for_lock().await.is_some() {
            self.kill_leaf().await;
        }
    }

    /// As [`Actor::kill_leaf`], and does not go on before nothing is left of a task of which there must not be two: its
    /// end is about to be told.
    async fn kill_leaf_surely(&self) {
        let only_one = self
            .orders
            .borrow()
            .assignment
            .as_ref()
            .is_none_or(|it| it.spec.at_most_one);
        while !self.kill_leaf().await && only_one {
            tokio::time::sleep(KILL_PATIENCE).await;
        }
    }

    /// Whether the leaf of the task's name is the one that its helper made. A group of that name and another number is
    /// somebody else's, and the task's own has gone.
    fn owns_leaf(&self) -> bool {
        let started = record::read::<StartedRecord>(self.folder.path(), STARTED_FILE);
        match (started, self.agent.tree.id(&self.task.folder_name())) {
            (Ok(Some(started)), Ok(found)) => started.cgroup_id == found,
            // It is not known yet, or not there.
            _ => true,
        }
    }

    /// Answers whether nothing is left of the task.
    async fn kill_leaf(&self) -> bool {
        if !self.owns_leaf() {
            tracing::warn!(task = %self.task, "the cgroup of its name is not its own and is left alone");
            return true;
        }
        let (tree, leaf) = (Arc::clone(&self.agent.tree), self.task.folder_name());
        let killed = tokio::task::spawn_blocking(move || {
            tree.kill(&leaf)?;
            tree.remove(&leaf, KILL_PATIENCE)
        });
        match killed.await {
            Ok(Ok(())) => true,
            Ok(Err(cause)) => {
                tracing::warn!(task = %self.task, %cause, "cannot end what is left of it");
                false
            }
            Err(_) => false,
        }
    }

    fn report_end(&self) {
        match record::read::<ExitRecord>(self.folder.path(), EXIT_FILE) {
            Ok(Some(record)) => self.report_record(&record),
            Ok(None) => self.report(lost("there is no record of its end")),
            Err(cause) => self.report(lost(&format!(
                "the record of its end cannot be read: {cause}"
            ))),
        }
    }

    fn report_record(&self, record: &ExitRecord) {
        if matches!(record.outcome, Outcome::NeverStarted(_)) {
            self.count_start_failure();
        }
        if let Some(oom) = &record.oom {
            self.agent.resources.record_oom(&self.task, oom.at_us);
        }
        self.report(phase_of(record));
    }

    async fn wait_until_forgotten(&mut self) {
        // An error means that the agent ends, and then nothing is forgotten.
        if self.orders.wait_for(|orders| orders.forget).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why a start came to nothing.
enum LaunchError {
    /// There was nothing that a helper could have been started for.
    Refused(Refusal),
    HelperLost(String),
}

impl<E: Into<Refusal>> From<E> for LaunchError {
    fn from(cause: E) -> LaunchError {
        LaunchError::Refused(cause.into())
    }
}

/// What the helper has been asked already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    Stop,
    Kill,
}

fn version(orders: &Orders) -> Option<u64> {
    orders
        .assignment
        .as_ref()
        .map(|assignment| assignment.task.version)
}

fn stop_request(orders: &Orders) -> Request {
    let Some(assignment) = &orders.assignment else {
        return Request::Kill;
    };
    let stop = &assignment.spec.stop;
    // Only what listens has callers to wait for.
    let after_ms = if assignment.spec.ports.is_empty() {
        0
    } else {
        stop.drain.0
    };
    Request::Stop {
        signal: launch::signal_number(stop.signal),
        after_ms,
        grace_ms: stop.grace.0,
    }
}

/// What a record of a task's end means to the controller.
fn phase_of(record: &ExitRecord) -> Phase {
    let at = Timestamp(record.ended_at_us);
    match &record.outcome {
        Outcome::NeverStarted(error) => {
            let missing = error.stage == Stage::Command && error.errno == Some(libc::ENOENT);
            let code = match error.stage {
                Stage::Command if missing => Code::TaskCommandNotFound,
                Stage::Lost => Code::TaskHelperLost,
                _ => Code::TaskStartFailed,
            };
            Phase::NeverStarted {
                code,
                message: error.message.clone(),
                at,
            }
        }
        Outcome::HelperLost => Phase::Exited {
            exit: Exit::default(),
            at,
            detail: format!(
                "{}: its helper died, and the task with it",
                Code::TaskHelperLost
            ),
        },
        Outcome::Ended {
            how,
            was_killed,
            term_over,
            ..
        } => {
            let (code, signal) = match how {
                Ended::Code(code) => (Some(i32::from(*code)), None),
                Ended::Signal(signal) => (None, Some(i32::from(*signal))),
            };
            let killed = if *was_killed {
                "killed after its grace"
            } else {
                ""
            };
            let oom = record.oom.iter().map(ToString::to_string);
            let failed_hooks = record.hooks.iter().filter(|hook| !hook.is_success());
            let words: Vec<String> =
                oom.chain(failed_hooks.map(ToString::to_string))
                    .chain((!killed.is_empty()).then(|| killed.to_owned()))
                    .chain(term_over.then(|| {
                        "its term was over: the controller could not be reached".to_owned()
                    }))
                    .collect();
            let detail = words.join("; ");
            Phase::Exited {
                exit: Exit {
                    code,
                    signal,
                    // A child that was killed for its memory is the task's own affair if the task ends well.
                    oom: record.oom.is_some() || record.is_oom && code != Some(0),
                },
                at,
                detail,
            }
        }
    }
}

fn lost(why: &str) -> Phase {
    Phase::Exited {
        exit: Exit::default(),
        at: now(),
        detail: format!("{}: {why}", Code::TaskHelperLost),
    }
}

fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as i64),
    )
}
