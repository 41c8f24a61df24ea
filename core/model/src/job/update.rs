//! How a job changes: updates, restarts, stops, maintenance, and who has a say in them.

use crate::*;

choice! {
    /// What follows an update whose new tasks are not healthy.
    pub enum OnFailure {
        /// The update halts where it is; the tasks not yet reached keep their version.
        Halt = "halt",
        /// The tasks that have the new version go back to the last one that was healthy.
        Rollback = "rollback",
    }
}

spec! {
    /// How a new version replaces the old one: stage by stage, each only after the one before it is healthy.
    pub struct Rollout {
        /// How far each stage goes: a number of tasks, a share such as "10%", or a part of the fleet: "machine", "rack",
        /// "cluster", "datacenter" or "region" is all tasks in the one in which the update began, and the tasks nearest
        /// to it go first. One task first: a version that cannot start harms no more than one.
        /// Example: `stages=[1, "10%", "100%"]`
        stages: Box<[Stage]> = Box::from([Stage::Tasks(1), Stage::Percent(100)]) => none;
        /// How many tasks may be down at the same time because of what Twill does.
        /// Example: `max_unavailable=2`
        max_unavailable: u32 = 1 => none;
        /// How many tasks beyond `replicas` may run during an update of a service, so that new ones start before old ones
        /// end: where there is room for them, no more tasks are down than of these run, and `replicas` keep serving.
        /// Where there is none, `max_unavailable` may be down. More than `max_unavailable` are never used, as no update
        /// replaces more at a time.
        /// Example: `max_surge=1`
        max_surge: u32 = 0 => none;
        /// How long a new task must be healthy before it counts.
        /// Example: `healthy_for=30 * SECOND`
        healthy_for as "healthy_for_ms": Millis = Millis::seconds(5) => none;
        /// How long a whole stage must be healthy before the next one begins: time for what shows only under load.
        /// Example: `bake=10 * MINUTE`
        bake as "bake_ms": Millis = Millis::ZERO => none;
        /// How long a new task may take to become healthy; after that it has failed.
        /// Example: `deadline=10 * MINUTE`
        deadline as "deadline_ms": Millis = Millis::minutes(5) => none;
        /// How many new tasks may fail before the update counts as failed. They count as down, so that more than that
        /// must be allowed to be.
        /// Example: `failures_max=0`
        failures_max: u32 = 0 => none;
        /// What follows a failed update.
        /// Example: `on_failure="rollback"`
        on_failure: OnFailure = OnFailure::Halt => none;
    }
    check check_rollout;
}

spec! {
    /// What happens when a task ends that should not. The wait doubles with each failure in a row.
    pub struct Restart {
        /// How often a batch task is tried again; services are started again without end.
        /// Example: `attempts=5`
        attempts: u32 = 3 => none;
        /// The wait before the first restart.
        /// Example: `delay=2 * SECOND`
        delay as "delay_ms": Millis = Millis::seconds(1) => none;
        /// The longest wait.
        /// Example: `delay_max=5 * MINUTE`
        delay_max as "delay_max_ms": Millis = Millis::minutes(1) => none;
        /// A task that ran this long starts counting its failures anew.
        /// Example: `reset_after=1 * HOUR`
        reset_after as "reset_after_ms": Millis = Millis::minutes(10) => none;
    }
    check check_restart;
}

choice! {
    /// A signal that asks a task to end.
    pub enum Signal {
        /// The usual request.
        Term = "SIGTERM",
        /// As from a keyboard.
        Int = "SIGINT",
        /// nginx ends gracefully on this one.
        Quit = "SIGQUIT",
        /// A closed terminal.
        Hup = "SIGHUP",
        /// The first signal that programs may use as they like.
        Usr1 = "SIGUSR1",
        /// The second one.
        Usr2 = "SIGUSR2",
    }
}

spec! {
    /// How a task is asked to end.
    pub struct Stop {
        /// The time between leaving service discovery and the signal, for requests still under way to others.
        /// Example: `drain=5 * SECOND`
        drain as "drain_ms": Millis = Millis::seconds(1) => none;
        /// The signal that asks.
        /// Example: `signal="SIGQUIT"`
        signal: Signal = Signal::Term => none;
        /// The time a task has to end by itself before it is killed.
        /// Example: `grace=30 * SECOND`
        grace as "grace_ms": Millis = Millis::seconds(10) => none;
    }
}

spec! {
    /// Replaces an at-most-one task that is out of reach, once it surely runs no more.
    pub struct Failover {
        /// How long a task may be out of reach before it ends itself and another one starts.
        /// Example: `within=1 * MINUTE`
        within as "within_ms": Millis => restart;
    }
    check check_failover;
}

spec! {
    /// The application has a say in what is done to its tasks: it is offered the pending operations and approves, delays
    /// or reorders them.
    pub struct TaskControl {
        /// The job that answers; by default this one.
        /// Example: `job="orchestrator"`
        job: Option<Name> = None => none;
        /// The port of that job that is asked.
        /// Example: `port="control"`
        port: PortName => none;
        /// The path of the requests.
        /// Example: `path="/task-control"`
        path: String = "/task-control".to_owned() => none;
        /// How long an operation may be delayed; a controller that is dead or silent delays no longer than this.
        /// Example: `deadline=1 * HOUR`
        deadline as "deadline_ms": Millis = Millis::minutes(10) => none;
    }
}

spec! {
    /// What becomes of a task whose machine goes into maintenance.
    pub struct Maintenance {
        /// A maintenance announced as no longer than this is waited out: the task stops cleanly and comes back to its
        /// machine and its volumes. At 0 the task moves.
        /// Example: `endure=15 * MINUTE`
        endure as "endure_ms": Millis = Millis::ZERO => none;
    }
}

fn check_rollout(rollout: &Rollout, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if rollout.max_unavailable == 0 {
        let message = "with max_unavailable=0 no task could ever be replaced".to_owned();
        return decoder.bad_value(
            &at.field("max_unavailable"),
            message,
            Some("1 is the least".to_owned()),
        );
    }
    if rollout.failures_max >= rollout.max_unavailable {
        let message = format!(
            "failures_max={} leaves no task that may be down beside the failed ones",
            rollout.failures_max
        );
        let hint = format!("add max_unavailable={}, or more", rollout.failures_max + 1);
        return decoder.bad_value(&at.field("failures_max"), message, Some(hint));
    }
    Some(())
}

fn check_restart(restart: &Restart, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if restart.delay == Millis::ZERO || restart.delay_max < restart.delay {
        let message = format!(
            "the waits before restarts go from {} to {}",
            restart.delay, restart.delay_max
        );
        let hint = Some("delay must be above 0 and at most delay_max".to_owned());
        return decoder.bad_value(&at.field("delay_ms"), message, hint);
    }
    Some(())
}

fn check_failover(failover: &Failover, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if failover.within < Millis::seconds(5) {
        return decoder.bad_value(
            &at.field("within_ms"),
            format!(
                "{} is shorter than a network may hang; 5s is the least",
                failover.within
            ),
            Some("times are in seconds: write 30 * SECOND".to_owned()),
        );
    }
    Some(())
}
