//! The fault matrix: at every named place of a start and a stop, each process is killed, alone and all
//! together. Afterwards what is told of the task is true, said once, and nothing is left.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;
use tokio::task::Id;
use tw_agent::failpoint;
use tw_api::{AgentEvent, Assignment};
use tw_model::{Desired, Exit, Phase, TaskId};

use crate::common::PATIENCE;
use crate::machine::{Machine, assignment};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Task,
    Helper,
    Agent,
    All,
}

/// How a task may be said to have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// As it does when it is asked to.
    ByItself,
    Killed,
    HelperLost,
    NeverStarted,
}

/// What the task of every cell ends with when it gets its signal.
const EXIT_CODE: i32 = 3;

fn place(point: &str) -> usize {
    failpoint::ALL
        .iter()
        .position(|name| *name == point)
        .expect("a failpoint")
}

/// What may truly be said of a task after the fault.
fn allowed(point: &str, victim: Victim) -> Vec<Ending> {
    use Ending::*;
    let at = place(point);
    let is_before = |name: &str| at < place(name);
    // Killed by its own grace in this cell.
    let asked = if point == "helper.kill_sent" {
        Killed
    } else {
        ByItself
    };
    let runs = !is_before("helper.command_runs") && is_before("helper.signal_sent");
    // The helper goes on while its agent is held.
    let is_helper_free = point == "agent.stop_sent";
    match victim {
        Victim::Agent if is_before("agent.folder_prepared") => vec![ByItself],
        Victim::Agent if is_before("agent.helper_spawned") => vec![NeverStarted],
        // The next agent does not wait for ever for a helper that has not said a word yet.
        Victim::Agent if is_before("helper.locked") => vec![ByItself, NeverStarted],
        Victim::Agent => vec![asked],
        // A launcher sits in the task's cgroup before its command does.
        Victim::Task if matches!(point, "helper.leaf_created" | "helper.limits_set") => {
            vec![ByItself, NeverStarted]
        }
        Victim::Task if point == "agent.helper_spawned" => vec![ByItself, Killed, NeverStarted],
        // The stop is on its way and the end may come first.
        Victim::Task if is_helper_free => vec![ByItself, Killed],
        Victim::Helper | Victim::All if is_helper_free => vec![ByItself, HelperLost],
        Victim::Task if runs => vec![Killed],
        // It was ending already: by its signal or by the kill.
        Victim::Task if is_before("helper.end_seen") && !is_before("helper.signal_sent") => {
            vec![ByItself, Killed]
        }
        // Nothing of it runs here.
        Victim::Task => vec![asked],
        _ if !is_before("helper.end_recorded") => vec![asked],
        Victim::Helper if is_before("agent.helper_spawned") => vec![ByItself],
        Victim::Helper if is_before("helper.start_recorded") => vec![NeverStarted, HelperLost],
        Victim::Helper | Victim::All if !is_before("helper.start_recorded") => vec![HelperLost],
        _ if is_before("agent.folder_prepared") => vec![ByItself],
        _ => vec![NeverStarted, HelperLost],
    }
}

fn ending(phase: &Phase) -> Option<Ending> {
    match phase {
        Phase::NeverStarted { .. } => Some(Ending::NeverStarted),
        Phase::Exited { detail, .. } if detail.contains("task.helper_lost") => {
            Some(Ending::HelperLost)
        }
        Phase::Exited { exit, .. } if exit.code == Some(EXIT_CODE) => Some(Ending::ByItself),
        // Asked to end before its shell had set the trap.
        Phase::Exited {
            exit: Exit {
                signal: Some(15), ..
            },
            ..
        } => Some(Ending::ByItself),
        Phase::Exited {
            exit: Exit {
                signal: Some(9), ..
            },
            ..
        } => Some(Ending::Killed),
        Phase::Exited { .. } => panic!("an end that nothing in this test brings: {phase:?}"),
        _ => None,
    }
}

/// One cell of the matrix.
struct Cell {
    point: &'static str,
    victim: Victim,
    machine: Machine,
    task: Assignment,
}

impl Cell {
    fn new(point: &'static str, victim: Victim) -> Cell {
        let (on_term, grace_ms) = match point {
            "helper.kill_sent" => ("", 100),
            _ => ("exit 3", 20_000),
        };
        let script = format!("trap '{on_term}' TERM; echo ready; while :; do sleep 0.02; done");
        let task = assignment(
            "web",
            json!({
                "command": ["sh", "-c", script],
                "stop": {"drain_ms": 0, "signal": "SIGTERM", "grace_ms": grace_ms},
            }),
        );
        Cell {
            point,
            victim,
            machine: Machine::without_agent(),
            task,
        }
    }

    fn id(&self) -> &TaskId {
        &self.task.task.id
    }

    fn marker(&self) -> PathBuf {
        self.machine.folder.path().join(self.point)
    }

    async fn run(mut self) {
        let folder = self.machine.folder.path().to_owned();
        self.machine.start_with(&[
            ("TW_FAILPOINT", self.point.as_ref()),
            ("TW_FAILPOINT_FOLDER", folder.as_os_str()),
        ]);
        self.machine
            .snapshot(std::slice::from_ref(&self.task))
            .await;
        self.lead_to_the_place().await;
        let held: i32 = std::fs::read_to_string(self.marker())
            .unwrap()
            .parse()
            .unwrap_or_default();
        assert!(held > 0, "{}: nobody is held", self.point);
        self.strike();
        std::fs::write(folder.join(format!("{}.go", self.point)), "").unwrap();
        if self.machine.agent.is_none() {
            self.machine.start();
        }
        self.bring_to_its_end().await;
        self.check().await;
    }

    async fn lead_to_the_place(&mut self) {
        let is_of_the_start = place(self.point) < place("agent.stop_wanted");
        if !is_of_the_start {
            self.machine.running(&self.id().clone()).await;
            self.wait_until("the task prints", || self.is_ready()).await;
            self.task.task.desired = Desired::Stop;
            self.machine.assign(&self.task).await;
        }
        if self.point == "agent.folder_removed" {
            self.ended().await;
            self.forget().await;
        }
        let marker = self.marker();
        self.wait_until("somebody gets to the place", || {
            std::fs::metadata(&marker).is_ok_and(|found| found.len() > 0)
        })
        .await;
        if self.point == "agent.helper_spawned" {
            let folder = self.machine.task_folder(self.id());
            self.wait_until("the helper has its task", || {
                !helpers_of(&folder).is_empty()
            })
            .await;
        }
        if matches!(
            self.point,
            "agent.helper_connected" | "agent.running_reported"
        ) {
            // So that what is asked of the task later finds its handler in place.
            self.wait_until("the task prints", || self.is_ready()).await;
        }
    }

    fn is_ready(&self) -> bool {
        let log = self.machine.task_folder(self.id()).join("log");
        let frame = tw_agent::log::LogReader::open(&log).next_frame();
        frame.is_ok_and(|frame| frame.is_some())
    }

    /// `kill -9`, by handles that cannot reach anyone else.
    fn strike(&mut self) {
        let leaf = self.id().folder_name();
        let task = self.machine.tree().processes(&leaf).unwrap_or_default();
        let helpers = helpers_of(&self.machine.task_folder(self.id()));
        if matches!(self.victim, Victim::Agent | Victim::All) {
            self.machine.kill();
        }
        if matches!(self.victim, Victim::Helper | Victim::All) {
            helpers.iter().for_each(kill);
        }
        if matches!(self.victim, Victim::Task | Victim::All) {
            task.into_iter()
                .filter_map(open)
                .for_each(|task| kill(&task));
        }
    }

    async fn bring_to_its_end(&mut self) {
        self.task.task.desired = Desired::Stop;
        let is_of_the_start = place(self.point) < place("agent.stop_wanted");
        if is_of_the_start && self.victim != Victim::Task {
            // What survived, or began again, first runs.
            self.task.task.desired = Desired::Run;
        }
        if self.point == "agent.folder_removed" {
            return;
        }
        self.machine
            .snapshot(std::slice::from_ref(&self.task))
            .await;
        if self.task.task.desired == Desired::Run {
            self.running_or_ended().await;
            self.task.task.desired = Desired::Stop;
            self.machine.assign(&self.task).await;
        }
        self.ended().await;
    }

    async fn running_or_ended(&self) {
        let is_running = |phase: &Phase| matches!(phase, Phase::Running { .. });
        self.machine
            .controller
            .report(self.id(), |report| {
                (is_running(&report.phase) || ending(&report.phase).is_some()).then_some(())
            })
            .await;
        let has_ended = || {
            self.machine
                .controller
                .reports_of(self.id())
                .iter()
                .any(|phase| ending(phase).is_some())
        };
        self.wait_until("the task prints", || has_ended() || self.is_ready())
            .await;
    }

    async fn ended(&self) -> Ending {
        self.machine
            .controller
            .report(self.id(), |report| ending(&report.phase))
            .await
    }

    async fn forget(&self) {
        let task = self.id().clone();
        self.machine
            .controller
            .say(AgentEvent::Forget { task })
            .await;
    }

    /// What was said is allowed, and always the same; and in the end nothing is left.
    async fn check(&self) {
        let (point, victim) = (self.point, self.victim);
        let said: Vec<Ending> = self
            .machine
            .controller
            .reports_of(self.id())
            .iter()
            .filter_map(ending)
            .collect();
        let first = said.first().copied();
        assert!(
            said.iter().all(|ending| Some(*ending) == first),
            "{point}, {victim:?} killed: {said:?}"
        );
        let allowed = allowed(point, victim);
        assert!(
            first.is_some_and(|ending| allowed.contains(&ending)),
            "{point}, {victim:?} killed: {first:?} is not one of {allowed:?}"
        );
        self.machine.snapshot(&[]).await;
        let folder = self.machine.task_folder(self.id());
        self.wait_until("nothing is left", || {
            !folder.exists()
                && helpers_of(&folder).is_empty()
                && self.machine.leaves_of_nobody().is_empty()
        })
        .await;
    }

    async fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(
                Instant::now() < deadline,
                "{}, {:?}: waited in vain until {what}",
                self.point,
                self.victim
            );
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

/// Every helper of the task in `folder`, also one that has recorded nothing yet.
fn helpers_of(folder: &Path) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let named = || {
            let is_helper = std::fs::read_link(entry.path().join("exe"))
                .is_ok_and(|program| program.ends_with("tw-helper"));
            is_helper && std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder)
        };
        if named()
            && let Some(handle) = open(pid)
            && named()
        {
            found.push(handle);
        }
    }
    found
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

fn kill(process: &OwnedFd) {
    // It may have gone by itself.
    let _gone = pidfd_send_signal(process, Signal::KILL);
}

/// Runs every cell of a victim, a few at a time.
async fn row(victim: Victim) {
    const AT_ONCE: usize = 6;
    let only = std::env::var("TW_FAULT_POINT").ok();
    let cells = failpoint::ALL
        .into_iter()
        .filter(|point| only.as_deref().is_none_or(|only| only == *point));
    let mut runs = tokio::task::JoinSet::new();
    let mut places = HashMap::new();
    let mut failed = Vec::new();
    for point in cells {
        if runs.len() >= AT_ONCE {
            failed.extend(failure(runs.join_next_with_id().await, &places));
        }
        places.insert(runs.spawn_local(Cell::new(point, victim).run()).id(), point);
    }
    while !runs.is_empty() {
        failed.extend(failure(runs.join_next_with_id().await, &places));
    }
    assert!(
        failed.is_empty(),
        "{victim:?}: {failed:?} failed; each has said how"
    );
}

type Joined = Option<Result<(Id, ()), tokio::task::JoinError>>;

fn failure(cell: Joined, places: &HashMap<Id, &'static str>) -> Option<&'static str> {
    let error = cell?.err()?;
    places.get(&error.id()).copied()
}

fn on_a_thread(victim: Victim) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, row(victim));
}

#[test]
fn a_killed_task_is_reported_as_such_at_every_place() {
    on_a_thread(Victim::Task);
}

#[test]
fn a_killed_helper_is_reported_as_such_at_every_place() {
    on_a_thread(Victim::Helper);
}

#[test]
fn a_killed_agent_loses_nothing_at_any_place() {
    on_a_thread(Victim::Agent);
}

#[test]
fn all_killed_at_once_leave_the_truth_and_nothing_else() {
    on_a_thread(Victim::All);
}

/// Kills what is ready for starts: the nursery, the spares, or both. Answers handles on them.
fn kill_prepared(machine: &Machine, nursery: bool, spares: bool) -> Vec<OwnedFd> {
    let spares = if spares { machine.spares() } else { Vec::new() };
    let nursery = machine.nursery().filter(|_| nursery);
    let killed: Vec<OwnedFd> = spares.into_iter().chain(nursery).filter_map(open).collect();
    killed.iter().for_each(kill);
    killed
}

/// A start that comes before it may be given to a spare that is about to go.
fn wait_for_the_end_of(process: &OwnedFd) {
    let mut polled = [PollFd::new(process, PollFlags::IN)];
    poll(&mut polled, None).unwrap();
}

/// A task that ends by itself when it is asked to.
fn lasting(number: u64) -> Assignment {
    let script = "trap 'exit 3' TERM; while :; do sleep 0.02; done";
    let mut task = assignment("web", json!({"command": ["sh", "-c", script]}));
    task.task.id.incarnation = number;
    task
}

/// Asks every task to end, has it forgotten, and sees that nothing is left; answers how they ended.
async fn end_all(machine: &Machine, tasks: Vec<Assignment>) -> Vec<Ending> {
    let mut endings = Vec::new();
    for mut task in tasks {
        let id = task.task.id.clone();
        (task.task.desired, task.task.version) = (Desired::Stop, 2);
        machine.assign(&task).await;
        endings.push(
            machine
                .controller
                .report(&id, |report| ending(&report.phase))
                .await,
        );
        machine
            .controller
            .say(AgentEvent::Forget { task: id })
            .await;
    }
    let deadline = Instant::now() + PATIENCE;
    let tasks = machine.state().join("tasks");
    // What a killed spare had reserved goes with a later start, or when the next agent begins.
    let leaves = || {
        let mut leaves = machine.leaves_of_nobody();
        leaves.retain(|leaf| !leaf.starts_with("spare-"));
        leaves
    };
    while std::fs::read_dir(&tasks).unwrap().count() > 0 || !leaves().is_empty() {
        assert!(Instant::now() < deadline, "left: {:?}", leaves());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    endings
}

#[tokio::test]
async fn a_nursery_and_spares_that_die_between_starts_cost_no_task() {
    let machine = Machine::new();
    let mut tasks = Vec::new();
    for (number, (nursery, spares)) in (1..).zip([(true, false), (false, true), (true, true)]) {
        let task = lasting(number);
        machine.assign(&task).await;
        machine.running(&task.task.id).await;
        tasks.push(task);
        let killed = kill_prepared(&machine, nursery, spares);
        killed.iter().for_each(wait_for_the_end_of);
        // More than there are spares.
        for extra in 0..6 {
            let task = lasting(100 * number + extra);
            machine.assign(&task).await;
            tasks.push(task);
        }
        for task in &tasks {
            machine.running(&task.task.id).await;
            assert!(machine.started(&task.task.id).task.is_alive().unwrap());
        }
    }
    let endings = end_all(&machine, tasks).await;
    assert!(
        endings.iter().all(|ending| *ending == Ending::ByItself),
        "{endings:?}"
    );
}

#[tokio::test]
async fn a_nursery_and_spares_that_die_at_starts_leave_the_truth_and_nothing_else() {
    let machine = Machine::new();
    let mut tasks = Vec::new();
    for number in 1..=30 {
        let task = lasting(number);
        machine.assign(&task).await;
        tasks.push(task);
        tokio::time::sleep(Duration::from_millis(number % 7)).await;
        kill_prepared(&machine, number % 3 == 0, number % 2 == 0);
    }
    for task in &tasks {
        let is_decided =
            |phase: &Phase| matches!(phase, Phase::Running { .. }) || ending(phase).is_some();
        let id = &task.task.id;
        machine
            .controller
            .report(id, |report| is_decided(&report.phase).then_some(()))
            .await;
    }
    let endings = end_all(&machine, tasks).await;
    let lost = [Ending::NeverStarted, Ending::HelperLost];
    assert!(
        endings
            .iter()
            .all(|it| *it == Ending::ByItself || lost.contains(it)),
        "{endings:?}"
    );
    let next = lasting(1000);
    machine.assign(&next).await;
    machine.running(&next.task.id).await;
    assert_eq!(end_all(&machine, vec![next]).await, [Ending::ByItself]);
}
