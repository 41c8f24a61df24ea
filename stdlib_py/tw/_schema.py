"""The typed classes of the spec language.

Generated from Twill's schema by `make docs`; edit `core/model/src/job.rs` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from ._runtime import EMPTY, UNSET, Spec
from .units import DAY, MINUTE, SECOND, GiB, MiB

__all__ = ["Affinity", "ArchiveImage", "Autoscale", "CommandCheck", "Failover", "FolderImage", "Hook", "Hooks", "HttpCheck", "Job", "Limits", "Maintenance", "MetricCheck", "Mixin", "OciImage", "Package", "Requires", "Resources", "Restart", "Rollout", "Runtime", "Schedule", "Secret", "Sidecar", "Spread", "Stop", "TaskControl", "TcpCheck", "Volume"]


class Package(Spec):
    """A folder that the task sees read-only, content-addressed: the task restarts only when a file in it changed."""

    path: str
    """The folder, from the folder of the spec; with a leading `//` from the repository's root.

    A change: tasks start again.
    Example: `path="app"`
    """

    @staticmethod
    def folder(path: str) -> Package:
        """A folder of the repository, at the revision that is evaluated."""
        return Package(path=path)

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            path: str = ...,
        ) -> Self: ...


class FolderImage(Spec):
    """A folder on the machines as the root file system, read-only to the task."""

    path: str
    """The folder; each machine that runs the task must have it.

    A change: tasks start again.
    Example: `path="/srv/images/debian-12"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            path: str = ...,
        ) -> Self: ...


class ArchiveImage(Spec):
    """A tar archive in the repository as the root file system; gzip, xz and zstd are seen by themselves."""

    path: str
    """The file, from the folder of the spec; with a leading `//` from the repository's root.

    A change: tasks start again.
    Example: `path="//images/base.tar.zst"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            path: str = ...,
        ) -> Self: ...


class OciImage(Spec):
    """An image of a registry as the root file system. This release fetches none: a plan refuses the job. Written to an archive,
    as `docker export` does, it is an `ArchiveImage`.
    """

    reference: str
    """Its name, with a tag or better a digest.

    A change: tasks start again.
    Example: `reference="docker.io/library/redis:7.2"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            reference: str = ...,
        ) -> Self: ...


class Runtime(Spec):
    """A platform runtime that the machines keep side by side in several versions, mounted read-only at
    `/runtimes/NAME` with its `bin` on the PATH, so that a package holds the application alone.
    """

    name: str
    """Its name.

    A change: tasks start again.
    Example: `name="python"`
    """
    version: str
    """Its version, as the machines name it.

    A change: tasks start again.
    Example: `version="3.11"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            name: str = ...,
            version: str = ...,
        ) -> Self: ...


class Secret(Spec):
    """A secret that the task reads as a file in memory, at `/secrets/NAME`, as do its hooks and sidecars. Its value
    is set with `tw secret set` and is never in a spec, an environment or a log; a new one is read at the next start.
    """

    name: str
    """Its name in the job's namespace.

    A change: tasks start again.
    Example: `name="database-password"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            name: str = ...,
        ) -> Self: ...


class Sidecar(Spec):
    """A program that runs beside the command, in a sandbox of its own and within the same limits, and ends with it."""

    name: str
    """Its name; its output is kept apart under it.

    A change: tasks start again.
    Example: `name="proxy"`
    """
    command: str | Sequence[str]
    """The program and its arguments.

    A change: tasks start again.
    Example: `command=["./proxy", "--to", "{port:http}"]`
    """
    env: Mapping[str, str] = EMPTY
    """Environment variables beside those of the job.

    A change: tasks start again.
    Example: `env={"MODE": "tls"}`
    """
    volumes: Sequence[str] = ()
    """Which of the job's volumes it sees.

    A change: tasks start again.
    Example: `volumes=["data"]`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            name: str = ...,
            command: str | Sequence[str] = ...,
            env: Mapping[str, str] = ...,
            volumes: Sequence[str] = ...,
        ) -> Self: ...


class Hook(Spec):
    """A command at a certain moment in the life of a task, in the task's sandbox."""

    command: str | Sequence[str]
    """The program and its arguments.

    A change: tasks start again.
    Example: `command=["./migrate", "--check"]`
    """
    timeout: float = 30 * SECOND
    """How long it may take; then it is killed and has failed.

    A change: tasks start again.
    Example: `timeout=2 * MINUTE`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            command: str | Sequence[str] = ...,
            timeout: float = ...,
        ) -> Self: ...


class Hooks(Spec):
    """Commands of one's own around the life of a task."""

    pre_start: Hook | None = None
    """Before the command; where it fails, the task has failed to start.

    A change: tasks start again.
    Example: `pre_start=Hook(command="./migrate")`
    """
    post_start: Hook | None = None
    """Once the command runs; the task is not healthy before it has ended well.

    A change: tasks start again.
    Example: `post_start=Hook(command="./warm-up")`
    """
    pre_stop: Hook | None = None
    """Before the stop signal.

    A change: tasks start again.
    Example: `pre_stop=Hook(command="./leave-cluster")`
    """
    post_stop: Hook | None = None
    """After the command has ended, however it ended.

    A change: tasks start again.
    Example: `post_stop=Hook(command="./clean-up")`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            pre_start: Hook | None = ...,
            post_start: Hook | None = ...,
            pre_stop: Hook | None = ...,
            post_stop: Hook | None = ...,
        ) -> Self: ...


class Resources(Spec):
    """What one task may use. A machine gives out no more than it has."""

    cpu: float = 0.1
    """Cores a task can count on; idle cores may be borrowed. A tenth of a core is enough for what mostly waits.

    A change: applied to running tasks.
    Example: `cpu=0.5`
    """
    memory: int = 64 * MiB
    """The most memory a task may hold; a task that needs more is restarted. Small, so that a job that never asked
    cannot crowd out others.

    A change: applied to running tasks.
    Example: `memory=256 * MiB`
    """
    disk: int = GiB
    """Scratch space kept free for the task; a task that writes more is refused it where the machine bounds disks, and
    restarted elsewhere.

    A change: depends on the values.
    Example: `disk=2 * GiB`
    """
    pids: int = 512
    """How many processes and threads a task may have. It stops a fork bomb long before it hurts the machine.

    A change: applied to running tasks.
    Example: `pids=2048`
    """
    bandwidth: int = 0
    """Network bandwidth kept free for the task on its machine, in bytes per second; 0 keeps none.

    A change: applied to running tasks.
    Example: `bandwidth=10 * MiB`
    """
    whole_cores: bool = False
    """Whether the task gets its cores for itself, which needs a whole number of them: no neighbour shares their
    caches, and none can be borrowed either.

    A change: applied to running tasks.
    Example: `whole_cores=True`
    """
    swap: int = 0
    """Swap beyond the memory, where the machine can limit it. None by default: a task that swaps is slow long
    before anyone notices why.

    A change: applied to running tasks.
    Example: `swap=128 * MiB`
    """
    io_weight: int = 100
    """The task's share of the disk's time against its neighbours, from 1 to 10000, where the machine can share it.

    A change: applied to running tasks.
    Example: `io_weight=200`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            cpu: float = ...,
            memory: int = ...,
            disk: int = ...,
            pids: int = ...,
            bandwidth: int = ...,
            whole_cores: bool = ...,
            swap: int = ...,
            io_weight: int = ...,
        ) -> Self: ...


class Limits(Spec):
    """How the limits of running tasks follow their measured use."""

    mode: Literal["off", "observe", "suggest", "auto"] = "observe"
    """Whether use is recorded, and whether running tasks get the limits learned from it. Observing costs next to
    nothing and changes nothing.

    A change: applied to running tasks.
    Example: `mode="auto"`
    """
    cpu_min: float = 0.01
    """The learned CPU limit never falls below this.

    A change: applied to running tasks.
    Example: `cpu_min=0.1`
    """
    cpu_max: float | None = None
    """The learned CPU limit never rises above this; `None` means the request.

    A change: applied to running tasks.
    Example: `cpu_max=2`
    """
    memory_min: int = 16 * MiB
    """The learned memory limit never falls below this.

    A change: applied to running tasks.
    Example: `memory_min=64 * MiB`
    """
    memory_max: int | None = None
    """The learned memory limit never rises above this; `None` means the request.

    A change: applied to running tasks.
    Example: `memory_max=2 * GiB`
    """
    history_min: float = DAY
    """How much history is needed before limits change or are suggested. A day holds one peak of a daily pattern.

    A change: applied to running tasks.
    Example: `history_min=2 * DAY`
    """
    window: float = 7 * DAY
    """How far back the limits look. A week holds a weekend.

    A change: applied to running tasks.
    Example: `window=14 * DAY`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            mode: Literal["off", "observe", "suggest", "auto"] = ...,
            cpu_min: float = ...,
            cpu_max: float | None = ...,
            memory_min: int = ...,
            memory_max: int | None = ...,
            history_min: float = ...,
            window: float = ...,
        ) -> Self: ...


class Autoscale(Spec):
    """Lets the number of tasks follow the load: their CPU, or a number that a health check reads. `replicas` is where it
    begins. More tasks come at once, fewer one after the other.
    """

    min: int = 1
    """There are never fewer tasks than this, and never fewer than one.

    A change: no task notices.
    Example: `min=2`
    """
    max: int
    """There are never more tasks than this.

    A change: no task notices.
    Example: `max=20`
    """
    cpu_percent: int = 60
    """The share of its requested CPU, in percent, that a task should use; the rest is room for a burst while new
    tasks start.

    A change: no task notices.
    Example: `cpu_percent=50`
    """
    metric: str | None = None
    """Follows this number instead of CPU: the metric of one of the job's `MetricCheck`s, or its rise where the check has
    `over`.

    A change: no task notices.
    Example: `metric="requests_total", each=100`
    """
    each: float | None = None
    """How much of the metric each task should have.

    A change: no task notices.
    Example: `each=100, metric="requests_total"`
    """
    down_after: float = 5 * MINUTE
    """How long the load must have been lower before tasks are taken away.

    A change: no task notices.
    Example: `down_after=10 * MINUTE`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            min: int = ...,
            max: int = ...,
            cpu_percent: int = ...,
            metric: str | None = ...,
            each: float | None = ...,
            down_after: float = ...,
        ) -> Self: ...


class Requires(Spec):
    """What a machine must have to run a task of the job. A task on a machine that no longer satisfies it moves."""

    os: str = ""
    """The operating system, as `ID` in the machine's os-release; empty takes any.

    A change: applied to running tasks.
    Example: `os="debian"`
    """
    os_version: str = ""
    """The range that its version must be in.

    A change: applied to running tasks.
    Example: `os_version=">=12"`
    """
    kernel: str = ""
    """The range that the kernel's version must be in.

    A change: applied to running tasks.
    Example: `kernel=">=6.1, <7"`
    """
    labels: Mapping[str, str] = EMPTY
    """Labels that the machine must have, with their values.

    A change: applied to running tasks.
    Example: `labels={"disk": "nvme"}`
    """
    profile: str | None = None
    """The host profile (settings of hardware, kernel and system) that the machine must be in.

    A change: applied to running tasks.
    Example: `profile="huge-pages"`
    """
    region: str | None = None
    """The region that the machine must be in; by default any.

    A change: applied to running tasks.
    Example: `region="north"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            os: str = ...,
            os_version: str = ...,
            kernel: str = ...,
            labels: Mapping[str, str] = ...,
            profile: str | None = ...,
            region: str | None = ...,
        ) -> Self: ...


class Spread(Spec):
    """Spreads the tasks over parts of the fleet, at placement and after failures."""

    over: Literal["machine", "rack", "cluster", "datacenter", "region"]
    """What they are spread over.

    A change: applied to running tasks.
    Example: `over="rack"`
    """
    at_least: int = 2
    """The number of such parts that must have tasks; with fewer tasks than that, each has one of its own.

    A change: applied to running tasks.
    Example: `at_least=3`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            over: Literal["machine", "rack", "cluster", "datacenter", "region"] = ...,
            at_least: int = ...,
        ) -> Self: ...


class Affinity(Spec):
    """Keeps tasks near to, or apart from, those of a job."""

    job: str
    """The other job, of the same namespace; the job's own name means its own tasks.

    A change: applied to running tasks.
    Example: `job="redis"`
    """
    within: Literal["machine", "rack", "cluster", "datacenter", "region"] = "machine"
    """How near is near.

    A change: applied to running tasks.
    Example: `within="rack"`
    """
    required: bool = False
    """Whether a task rather waits than runs elsewhere; otherwise it is a wish.

    A change: applied to running tasks.
    Example: `required=True`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            job: str = ...,
            within: Literal["machine", "rack", "cluster", "datacenter", "region"] = ...,
            required: bool = ...,
        ) -> Self: ...


class Schedule(Spec):
    """Runs a batch job again and again."""

    cron: str
    """Minute, hour, day of the month, month, day of the week, as in a crontab.

    A change: no task notices.
    Example: `cron="30 2 * * *"`
    """
    time_zone: str = "UTC"
    """The time zone in which that is meant, by its IANA name. UTC has no hour that is skipped or comes twice.

    A change: no task notices.
    Example: `time_zone="Europe/Berlin"`
    """
    overlap: Literal["skip", "queue", "replace"] = "skip"
    """What happens when the run before has not ended.

    A change: no task notices.
    Example: `overlap="queue"`
    """
    missed: Literal["skip", "run_once"] = "skip"
    """What becomes of runs that were missed.

    A change: no task notices.
    Example: `missed="run_once"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            cron: str = ...,
            time_zone: str = ...,
            overlap: Literal["skip", "queue", "replace"] = ...,
            missed: Literal["skip", "run_once"] = ...,
        ) -> Self: ...


class Rollout(Spec):
    """How a new version replaces the old one: stage by stage, each only after the one before it is healthy."""

    stages: Sequence[int | str] = (1, "100%",)
    """How far each stage goes: a number of tasks, a share such as "10%", or a part of the fleet: "machine", "rack",
    "cluster", "datacenter" or "region" is all tasks in the one in which the update began, and the tasks nearest
    to it go first. One task first: a version that cannot start harms no more than one.

    A change: no task notices.
    Example: `stages=[1, "10%", "100%"]`
    """
    max_unavailable: int = 1
    """How many tasks may be down at the same time because of what Twill does.

    A change: no task notices.
    Example: `max_unavailable=2`
    """
    max_surge: int = 0
    """How many tasks beyond `replicas` may run during an update of a service, so that new ones start before old ones
    end: where there is room for them, no more tasks are down than of these run, and `replicas` keep serving.
    Where there is none, `max_unavailable` may be down. More than `max_unavailable` are never used, as no update
    replaces more at a time.

    A change: no task notices.
    Example: `max_surge=1`
    """
    healthy_for: float = 5 * SECOND
    """How long a new task must be healthy before it counts.

    A change: no task notices.
    Example: `healthy_for=30 * SECOND`
    """
    bake: float = 0
    """How long a whole stage must be healthy before the next one begins: time for what shows only under load.

    A change: no task notices.
    Example: `bake=10 * MINUTE`
    """
    deadline: float = 5 * MINUTE
    """How long a new task may take to become healthy; after that it has failed.

    A change: no task notices.
    Example: `deadline=10 * MINUTE`
    """
    failures_max: int = 0
    """How many new tasks may fail before the update counts as failed. They count as down, so that more than that
    must be allowed to be.

    A change: no task notices.
    Example: `failures_max=0`
    """
    on_failure: Literal["halt", "rollback"] = "halt"
    """What follows a failed update.

    A change: no task notices.
    Example: `on_failure="rollback"`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            stages: Sequence[int | str] = ...,
            max_unavailable: int = ...,
            max_surge: int = ...,
            healthy_for: float = ...,
            bake: float = ...,
            deadline: float = ...,
            failures_max: int = ...,
            on_failure: Literal["halt", "rollback"] = ...,
        ) -> Self: ...


class Restart(Spec):
    """What happens when a task ends that should not. The wait doubles with each failure in a row."""

    attempts: int = 3
    """How often a batch task is tried again; services are started again without end.

    A change: no task notices.
    Example: `attempts=5`
    """
    delay: float = SECOND
    """The wait before the first restart.

    A change: no task notices.
    Example: `delay=2 * SECOND`
    """
    delay_max: float = MINUTE
    """The longest wait.

    A change: no task notices.
    Example: `delay_max=5 * MINUTE`
    """
    reset_after: float = 10 * MINUTE
    """A task that ran this long starts counting its failures anew.

    A change: no task notices.
    Example: `reset_after=1 * HOUR`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            attempts: int = ...,
            delay: float = ...,
            delay_max: float = ...,
            reset_after: float = ...,
        ) -> Self: ...


class Stop(Spec):
    """How a task is asked to end."""

    drain: float = SECOND
    """The time between leaving service discovery and the signal, for requests still under way to others.

    A change: no task notices.
    Example: `drain=5 * SECOND`
    """
    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"] = "SIGTERM"
    """The signal that asks.

    A change: no task notices.
    Example: `signal="SIGQUIT"`
    """
    grace: float = 10 * SECOND
    """The time a task has to end by itself before it is killed.

    A change: no task notices.
    Example: `grace=30 * SECOND`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            drain: float = ...,
            signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"] = ...,
            grace: float = ...,
        ) -> Self: ...


class TaskControl(Spec):
    """The application has a say in what is done to its tasks: it is offered the pending operations and approves, delays
    or reorders them.
    """

    job: str | None = None
    """The job that answers; by default this one.

    A change: no task notices.
    Example: `job="orchestrator"`
    """
    port: str
    """The port of that job that is asked.

    A change: no task notices.
    Example: `port="control"`
    """
    path: str = "/task-control"
    """The path of the requests.

    A change: no task notices.
    Example: `path="/task-control"`
    """
    deadline: float = 10 * MINUTE
    """How long an operation may be delayed; a controller that is dead or silent delays no longer than this.

    A change: no task notices.
    Example: `deadline=1 * HOUR`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            job: str | None = ...,
            port: str = ...,
            path: str = ...,
            deadline: float = ...,
        ) -> Self: ...


class Failover(Spec):
    """Replaces an at-most-one task that is out of reach, once it surely runs no more."""

    within: float
    """How long a task may be out of reach before it ends itself and another one starts.

    A change: tasks start again.
    Example: `within=1 * MINUTE`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            within: float = ...,
        ) -> Self: ...


class Maintenance(Spec):
    """What becomes of a task whose machine goes into maintenance."""

    endure: float = 0
    """A maintenance announced as no longer than this is waited out: the task stops cleanly and comes back to its
    machine and its volumes. At 0 the task moves.

    A change: no task notices.
    Example: `endure=15 * MINUTE`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            endure: float = ...,
        ) -> Self: ...


class HttpCheck(Spec):
    """Healthy when a GET request is answered with a status from 200 to 399."""

    port: str
    """The name of the port to ask.

    A change: applied to running tasks.
    Example: `port="http"`
    """
    path: str = "/"
    """The path to ask for.

    A change: applied to running tasks.
    Example: `path="/healthz"`
    """
    every: float = 5 * SECOND
    """The time between two checks; less until the first good one. Five seconds notice a failure soon and cost next to
    nothing.

    A change: applied to running tasks.
    Example: `every=5 * SECOND`
    """
    timeout: float = 2 * SECOND
    """The time an answer may take.

    A change: applied to running tasks.
    Example: `timeout=500 * MILLISECOND`
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy: one lost packet is no failure.

    A change: applied to running tasks.
    Example: `failures=5`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            port: str = ...,
            path: str = ...,
            every: float = ...,
            timeout: float = ...,
            failures: int = ...,
        ) -> Self: ...


class TcpCheck(Spec):
    """Healthy when a connection is accepted."""

    port: str
    """The name of the port to connect to.

    A change: applied to running tasks.
    Example: `port="http"`
    """
    every: float = 5 * SECOND
    """The time between two checks; less until the first good one.

    A change: applied to running tasks.
    Example: `every=5 * SECOND`
    """
    timeout: float = 2 * SECOND
    """The time a connection may take.

    A change: applied to running tasks.
    Example: `timeout=1 * SECOND`
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy.

    A change: applied to running tasks.
    Example: `failures=5`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            port: str = ...,
            every: float = ...,
            timeout: float = ...,
            failures: int = ...,
        ) -> Self: ...


class CommandCheck(Spec):
    """Healthy when a command, run in the task's sandbox, ends with exit code 0."""

    command: str | Sequence[str]
    """The program and its arguments.

    A change: applied to running tasks.
    Example: `command=["redis-cli", "ping"]`
    """
    every: float = 5 * SECOND
    """The time between two checks; less until the first good one.

    A change: applied to running tasks.
    Example: `every=30 * SECOND`
    """
    timeout: float = 2 * SECOND
    """The time the command may take.

    A change: applied to running tasks.
    Example: `timeout=10 * SECOND`
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy.

    A change: applied to running tasks.
    Example: `failures=2`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            command: str | Sequence[str] = ...,
            every: float = ...,
            timeout: float = ...,
            failures: int = ...,
        ) -> Self: ...


class MetricCheck(Spec):
    """Healthy while a number that the task counts stays within its bounds: clients, exceptions, latency. It is read from a
    page or a file in the text format of Prometheus.
    """

    metric: str
    """The name of the metric; of several series the sum counts, so name labels to choose among them.

    A change: applied to running tasks.
    Example: `metric="request_seconds{quantile=\"0.99\"}"`
    """
    port: str | None = None
    """The name of the port that serves the page; without one, `file` is read.

    A change: applied to running tasks.
    Example: `port="http"`
    """
    path: str = "/metrics"
    """The path of the page on that port.

    A change: applied to running tasks.
    Example: `path="/internal/metrics"`
    """
    file: str | None = None
    """A file that the task writes, as the task sees it.

    A change: applied to running tasks.
    Example: `file="/tmp/metrics.prom"`
    """
    above: float | None = None
    """The number is out of bounds above this.

    A change: applied to running tasks.
    Example: `above=0.5`
    """
    below: float | None = None
    """The number is out of bounds below this.

    A change: applied to running tasks.
    Example: `below=1`
    """
    over: float | None = None
    """Bounds the rise within this time instead of the number itself; for counters, which only grow.

    A change: applied to running tasks.
    Example: `over=1 * MINUTE`
    """
    remedy: Literal["restart", "move"] | None = None
    """What is done with a task out of bounds. Nothing by default: a bound that was badly chosen should not end what
    works. No more tasks are ended at once than `Rollout(max_unavailable=…)` allows, and each waits as after a failure.

    A change: applied to running tasks.
    Example: `remedy="restart"`
    """
    every: float = 5 * SECOND
    """The time between two readings; less until the first good one.

    A change: applied to running tasks.
    Example: `every=15 * SECOND`
    """
    timeout: float = 2 * SECOND
    """The time a reading may take.

    A change: applied to running tasks.
    Example: `timeout=1 * SECOND`
    """
    failures: int = 3
    """How many readings in a row must be out of bounds: one burst is no failure.

    A change: applied to running tasks.
    Example: `failures=5`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            metric: str = ...,
            port: str | None = ...,
            path: str = ...,
            file: str | None = ...,
            above: float | None = ...,
            below: float | None = ...,
            over: float | None = ...,
            remedy: Literal["restart", "move"] | None = ...,
            every: float = ...,
            timeout: float = ...,
            failures: int = ...,
        ) -> Self: ...


class Volume(Spec):
    """A folder that outlives the task: the next task of the same index on that machine finds it as it was left."""

    name: str
    """Its name within the job.

    A change: tasks start again.
    Example: `name="data"`
    """
    path: str
    """Where the task sees it.

    A change: tasks start again.
    Example: `path="/var/lib/app"`
    """
    size: int = GiB
    """The most that it may hold.

    A change: applied to running tasks.
    Example: `size=10 * GiB`
    """

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            name: str = ...,
            path: str = ...,
            size: int = ...,
        ) -> Self: ...


class Job(Spec):
    """A job: one command, run as a number of identical tasks."""

    name: str
    """The job's name, unique within its namespace: lower-case letters, digits and `-`.

    A change: the job is removed and made anew.
    Example: `name="web"`
    """
    namespace: str = "default"
    """Keeps the jobs of one team or environment apart from those of others.

    A change: the job is removed and made anew.
    Example: `namespace="staging"`
    """
    kind: Literal["service", "batch", "daemon"] = "service"
    """What kind of job it is: a service runs until it is stopped, a batch job until it has succeeded, a daemon once
    on each machine that satisfies what it requires.

    A change: the job is removed and made anew.
    Example: `kind="batch"`
    """
    command: str | Sequence[str]
    """The program and its arguments, as a list or as one text that is split at blanks; no shell reads it.
    May hold `{port:NAME}`, `{task:index}`, `{service:JOB:PORT}` and `{repo:revision}`; with an image of a registry
    also `{image:command}`, what that starts by itself, and `{image:entrypoint}`, for other arguments.

    A change: tasks start again.
    Example: `command=["./server", "--port", "{port:http}"]`
    """
    env: Mapping[str, str] = EMPTY
    """Environment variables; values may hold the same templates as the command. Nothing is inherited
    from the machine but a plain PATH: what a task sees is in its spec.

    A change: tasks start again.
    Example: `env={"LOG_LEVEL": "info"}`
    """
    user: str = "nobody"
    """The user that the task runs as. The default has no rights on the machine at all.

    A change: tasks start again.
    Example: `user="www-data"`
    """
    workdir: str | None = None
    """The folder in which the command starts; by default that of the first package, or `/tmp`.

    A change: tasks start again.
    Example: `workdir="/srv"`
    """
    packages: Sequence[Package] = ()
    """Folders that the task needs; the first is mounted read-only as its working directory.

    A change: tasks start again.
    Example: `packages=[Package.folder("app")]`
    """
    image: FolderImage | ArchiveImage | OciImage | None = None
    """What the task sees as its root file system; by default the programs and libraries of its machine, which is
    the least to set up and ties the task to what is installed there.

    A change: tasks start again.
    Example: `image=FolderImage(path="/srv/images/debian-12")`
    """
    runtimes: Sequence[Runtime] = ()
    """Platform runtimes that the task needs.

    A change: tasks start again.
    Example: `runtimes=[Runtime(name="python", version="3.11")]`
    """
    secrets: Sequence[Secret] = ()
    """Secrets that the task reads.

    A change: tasks start again.
    Example: `secrets=[Secret(name="database-password")]`
    """
    sidecars: Sequence[Sidecar] = ()
    """Programs that run beside the command.

    A change: tasks start again.
    Example: `sidecars=[Sidecar(name="proxy", command="./proxy")]`
    """
    hooks: Hooks = Hooks()
    """Commands around the life of each task.

    A change: tasks start again.
    Example: `hooks=Hooks(pre_start=Hook(command="./migrate"))`
    """
    init: bool = False
    """Whether a small init runs as process 1 of the task and collects what its children leave behind; for commands
    that start others and do not wait for them.

    A change: tasks start again.
    Example: `init=True`
    """
    replicas: int = 1
    """How many tasks run at the same time.

    A change: tasks are added or removed.
    Example: `replicas=3`
    """
    resources: Resources = Resources()
    """What one task may use.

    A change: applied to running tasks.
    Example: `resources=Resources(cpu=0.5, memory=256 * MiB)`
    """
    limits: Limits = Limits()
    """How the limits of running tasks follow their measured use.

    A change: applied to running tasks.
    Example: `limits=Limits(mode="auto")`
    """
    autoscale: Autoscale | None = None
    """Lets the number of tasks follow the load; without it, it is `replicas`.

    A change: no task notices.
    Example: `autoscale=Autoscale(min=2, max=20)`
    """
    requires: Requires = Requires()
    """What a machine must have to run a task.

    A change: applied to running tasks.
    Example: `requires=Requires(os="debian", kernel=">=6.1")`
    """
    spread: Sequence[Spread] = ()
    """How the tasks are spread over racks, clusters, data centres or regions; they are kept on different machines
    where there is room, with or without it.

    A change: applied to running tasks.
    Example: `spread=[Spread(over="rack", at_least=2)]`
    """
    affinity: Sequence[Affinity] = ()
    """Jobs near to whose tasks these should run.

    A change: applied to running tasks.
    Example: `affinity=[Affinity(job="redis", within="rack")]`
    """
    anti_affinity: Sequence[Affinity] = ()
    """Jobs apart from whose tasks these should run.

    A change: applied to running tasks.
    Example: `anti_affinity=[Affinity(job="batch-sort", required=True)]`
    """
    bandwidth_heavy: bool = False
    """Whether the tasks use so much network that no two of them should be behind one rack's switch.

    A change: applied to running tasks.
    Example: `bandwidth_heavy=True`
    """
    priority: int = 50
    """Who goes first where there is not room for all, from 0 to 100; a job may displace others of lower priority.
    Half-way by default, with room on both sides.

    A change: no task notices.
    Example: `priority=80`
    """
    allowance: str | None = None
    """The allowance that the job is charged to: a plan that would go above what the cluster's operators have set for
    it is refused. Nothing that runs is stopped for it.

    A change: no task notices.
    Example: `allowance="shop-team"`
    """
    schedule: Schedule | None = None
    """When a batch job runs; without it, once.

    A change: no task notices.
    Example: `schedule=Schedule(cron="30 2 * * *")`
    """
    parallelism: int | None = None
    """How many tasks of a batch job may run at the same time; by default all.

    A change: no task notices.
    Example: `parallelism=10`
    """
    timeout: float | None = None
    """How long one try of a batch task may take before it is stopped and counts as failed.

    A change: no task notices.
    Example: `timeout=2 * HOUR`
    """
    depends_on: Sequence[str] = ()
    """Jobs of the same namespace that must be healthy before a task of this one starts.

    A change: no task notices.
    Example: `depends_on=["redis"]`
    """
    rollout: Rollout = Rollout()
    """How a new version replaces the old one.

    A change: no task notices.
    Example: `rollout=Rollout(stages=[1, "10%", "100%"])`
    """
    restart: Restart = Restart()
    """What happens when a task ends that should not.

    A change: no task notices.
    Example: `restart=Restart(delay=5 * SECOND)`
    """
    stop: Stop = Stop()
    """How a task is asked to end.

    A change: no task notices.
    Example: `stop=Stop(grace=30 * SECOND)`
    """
    task_control: TaskControl | None = None
    """Gives the application a say in restarts, updates, moves and maintenance of its tasks.

    A change: no task notices.
    Example: `task_control=TaskControl(port="control")`
    """
    at_most_one: bool = False
    """Whether there must never be two running tasks of one index, not even while a machine is out of reach: the
    index then waits until the old task has surely ended.

    A change: tasks start again.
    Example: `at_most_one=True`
    """
    failover: Failover | None = None
    """Lets an at-most-one task that is out of reach end itself after a time, so that another can start.

    A change: tasks start again.
    Example: `failover=Failover(within=1 * MINUTE)`
    """
    maintenance: Maintenance = Maintenance()
    """What becomes of a task whose machine goes into maintenance.

    A change: no task notices.
    Example: `maintenance=Maintenance(endure=15 * MINUTE)`
    """
    ports: Sequence[str] = ()
    """Names of the TCP ports that each task listens on; the numbers are given out per task.

    A change: tasks start again.
    Example: `ports=["http"]`
    """
    health: Sequence[HttpCheck | TcpCheck | CommandCheck | MetricCheck] = ()
    """How to tell that a task serves. Without checks a task counts as healthy while it runs.

    A change: applied to running tasks.
    Example: `health=[HttpCheck(port="http", path="/healthz")]`
    """
    owner: str = ""
    """The team that answers for the job.

    A change: no task notices.
    Example: `owner="shop-team"`
    """
    labels: Mapping[str, str] = EMPTY
    """Free text pairs for tools and people; nothing in Twill reads them.

    A change: no task notices.
    Example: `labels={"tier": "frontend"}`
    """
    volumes: Sequence[Volume] = ()
    """Folders that outlive the task.

    A change: tasks start again.
    Example: `volumes=[Volume(name="data", path="/var/lib/app", size=10 * GiB)]`
    """

    def mix(self, *mixins: Mixin) -> Self:
        """Returns a copy into which the fields of `mixins` are merged, one after the other.

        An object is merged field by field, a dict key by key, a list is appended to;
        everything else is replaced. Where two mixins say something, the later one wins.
        """
        return self._mix(mixins)

    if TYPE_CHECKING:

        def replace(  # type: ignore[override]
            self,
            *,
            name: str = ...,
            namespace: str = ...,
            kind: Literal["service", "batch", "daemon"] = ...,
            command: str | Sequence[str] = ...,
            env: Mapping[str, str] = ...,
            user: str = ...,
            workdir: str | None = ...,
            packages: Sequence[Package] = ...,
            image: FolderImage | ArchiveImage | OciImage | None = ...,
            runtimes: Sequence[Runtime] = ...,
            secrets: Sequence[Secret] = ...,
            sidecars: Sequence[Sidecar] = ...,
            hooks: Hooks = ...,
            init: bool = ...,
            replicas: int = ...,
            resources: Resources = ...,
            limits: Limits = ...,
            autoscale: Autoscale | None = ...,
            requires: Requires = ...,
            spread: Sequence[Spread] = ...,
            affinity: Sequence[Affinity] = ...,
            anti_affinity: Sequence[Affinity] = ...,
            bandwidth_heavy: bool = ...,
            priority: int = ...,
            allowance: str | None = ...,
            schedule: Schedule | None = ...,
            parallelism: int | None = ...,
            timeout: float | None = ...,
            depends_on: Sequence[str] = ...,
            rollout: Rollout = ...,
            restart: Restart = ...,
            stop: Stop = ...,
            task_control: TaskControl | None = ...,
            at_most_one: bool = ...,
            failover: Failover | None = ...,
            maintenance: Maintenance = ...,
            ports: Sequence[str] = ...,
            health: Sequence[HttpCheck | TcpCheck | CommandCheck | MetricCheck] = ...,
            owner: str = ...,
            labels: Mapping[str, str] = ...,
            volumes: Sequence[Volume] = ...,
        ) -> Self: ...


class Mixin(Spec):
    """Fields that several jobs have in common: `job.mix(mixin)` puts them into a job."""

    name: str = UNSET
    namespace: str = UNSET
    kind: Literal["service", "batch", "daemon"] = UNSET
    command: str | Sequence[str] = UNSET
    env: Mapping[str, str] = UNSET
    user: str = UNSET
    workdir: str | None = UNSET
    packages: Sequence[Package] = UNSET
    image: FolderImage | ArchiveImage | OciImage | None = UNSET
    runtimes: Sequence[Runtime] = UNSET
    secrets: Sequence[Secret] = UNSET
    sidecars: Sequence[Sidecar] = UNSET
    hooks: Hooks = UNSET
    init: bool = UNSET
    replicas: int = UNSET
    resources: Resources = UNSET
    limits: Limits = UNSET
    autoscale: Autoscale | None = UNSET
    requires: Requires = UNSET
    spread: Sequence[Spread] = UNSET
    affinity: Sequence[Affinity] = UNSET
    anti_affinity: Sequence[Affinity] = UNSET
    bandwidth_heavy: bool = UNSET
    priority: int = UNSET
    allowance: str | None = UNSET
    schedule: Schedule | None = UNSET
    parallelism: int | None = UNSET
    timeout: float | None = UNSET
    depends_on: Sequence[str] = UNSET
    rollout: Rollout = UNSET
    restart: Restart = UNSET
    stop: Stop = UNSET
    task_control: TaskControl | None = UNSET
    at_most_one: bool = UNSET
    failover: Failover | None = UNSET
    maintenance: Maintenance = UNSET
    ports: Sequence[str] = UNSET
    health: Sequence[HttpCheck | TcpCheck | CommandCheck | MetricCheck] = UNSET
    owner: str = UNSET
    labels: Mapping[str, str] = UNSET
    volumes: Sequence[Volume] = UNSET
