"""The typed classes of the spec language.

Generated from Twill's schema by `make docs`; edit `core/model/src/job.rs` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ._runtime import EMPTY, Spec
from .units import DAY, MINUTE, SECOND, GiB, MiB

__all__ = ["CommandCheck", "HttpCheck", "Job", "Limits", "Package", "Resources", "Restart", "Rollout", "Stop", "TcpCheck"]


class Package(Spec):
    """A folder that the task sees read-only, content-addressed: the task restarts only when a file in it changed."""

    path: str
    """The folder, from the folder of the spec; with a leading `//` from the repository's root.

    A change: tasks start again.
    """

    @staticmethod
    def folder(path: str) -> Package:
        """A folder of the repository, at the revision that is evaluated."""
        return Package(path=path)


class Resources(Spec):
    """What one task may use. A machine gives out no more than it has."""

    cpu: float = 0.1
    """Cores a task can count on; idle cores may be borrowed.

    A change: applied to running tasks.
    """
    memory: int = 64 * MiB
    """The most memory a task may hold; a task that needs more is restarted.

    A change: applied to running tasks.
    """
    disk: int = GiB
    """Scratch space kept free for the task.

    A change: depends on the values.
    """
    pids: int = 512
    """How many processes and threads a task may have.

    A change: applied to running tasks.
    """


class Limits(Spec):
    """How the limits of running tasks follow their measured use."""

    mode: Literal["off", "observe", "auto"] = "observe"
    """Whether use is recorded, and whether running tasks get the limits learned from it.

    A change: applied to running tasks.
    """
    cpu_min: float = 0.01
    """The learned CPU limit never falls below this.

    A change: applied to running tasks.
    """
    cpu_max: float | None = None
    """The learned CPU limit never rises above this; `None` means the request.

    A change: applied to running tasks.
    """
    memory_min: int = 16 * MiB
    """The learned memory limit never falls below this.

    A change: applied to running tasks.
    """
    memory_max: int | None = None
    """The learned memory limit never rises above this; `None` means the request.

    A change: applied to running tasks.
    """
    history_min: float = DAY
    """How much history is needed before limits change or are suggested.

    A change: applied to running tasks.
    """
    window: float = 7 * DAY
    """How far back the limits look.

    A change: applied to running tasks.
    """


class HttpCheck(Spec):
    """Healthy when a GET request is answered with a status from 200 to 399."""

    port: str
    """The name of the port to ask.

    A change: applied to running tasks.
    """
    path: str = "/"
    """The path to ask for.

    A change: applied to running tasks.
    """
    every: float = 5 * SECOND
    """The time between two checks.

    A change: applied to running tasks.
    """
    timeout: float = 2 * SECOND
    """The time an answer may take.

    A change: applied to running tasks.
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy.

    A change: applied to running tasks.
    """


class TcpCheck(Spec):
    """Healthy when a connection is accepted."""

    port: str
    """The name of the port to connect to.

    A change: applied to running tasks.
    """
    every: float = 5 * SECOND
    """The time between two checks.

    A change: applied to running tasks.
    """
    timeout: float = 2 * SECOND
    """The time a connection may take.

    A change: applied to running tasks.
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy.

    A change: applied to running tasks.
    """


class CommandCheck(Spec):
    """Healthy when a command, run in the task's sandbox, ends with exit code 0."""

    command: str | Sequence[str]
    """The program and its arguments.

    A change: applied to running tasks.
    """
    every: float = 5 * SECOND
    """The time between two checks.

    A change: applied to running tasks.
    """
    timeout: float = 2 * SECOND
    """The time the command may take.

    A change: applied to running tasks.
    """
    failures: int = 3
    """How many checks in a row must fail before a healthy task counts as unhealthy.

    A change: applied to running tasks.
    """


class Rollout(Spec):
    """How a new version replaces the old one: stage by stage, each only after the one before it is healthy."""

    stages: Sequence[int | str] = (1, "100%",)
    """How far each stage goes: a number of tasks, or a share such as "10%".

    A change: no task notices.
    """
    max_unavailable: int = 1
    """How many tasks may be down at the same time because of the update.

    A change: no task notices.
    """
    healthy_for: float = 5 * SECOND
    """How long a new task must be healthy before it counts.

    A change: no task notices.
    """
    deadline: float = 5 * MINUTE
    """How long a new task may take to become healthy; after that the update halts and the rest keeps its version.

    A change: no task notices.
    """


class Restart(Spec):
    """What happens when a task ends that should not. The wait doubles with each failure in a row."""

    attempts: int = 3
    """How often a batch task is tried again; services are started again without end.

    A change: no task notices.
    """
    delay: float = SECOND
    """The wait before the first restart.

    A change: no task notices.
    """
    delay_max: float = MINUTE
    """The longest wait.

    A change: no task notices.
    """
    reset_after: float = 10 * MINUTE
    """A task that ran this long starts counting its failures anew.

    A change: no task notices.
    """


class Stop(Spec):
    """How a task is asked to end."""

    drain: float = SECOND
    """The time between leaving service discovery and the signal, for requests still under way to others.

    A change: no task notices.
    """
    signal: Literal["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP"] = "SIGTERM"
    """The signal that asks.

    A change: no task notices.
    """
    grace: float = 10 * SECOND
    """The time a task has to end by itself before it is killed.

    A change: no task notices.
    """


class Job(Spec):
    """A job: one command, run as a number of identical tasks."""

    name: str
    """The job's name, unique within its namespace: lower-case letters, digits and `-`.

    A change: the job is removed and made anew.
    """
    namespace: str = "default"
    """Keeps the jobs of one team or environment apart from those of others.

    A change: the job is removed and made anew.
    """
    kind: Literal["service", "batch"] = "service"
    """What kind of job it is: a service runs until it is stopped, a batch job until it has succeeded.

    A change: the job is removed and made anew.
    """
    command: str | Sequence[str]
    """The program and its arguments, as a list or as one text that is split at blanks; no shell reads it.
    May hold `{port:NAME}`, `{task:index}` and `{service:JOB:PORT}`.

    A change: tasks start again.
    """
    env: Mapping[str, str] = EMPTY
    """Environment variables; values may hold the same templates as the command. Nothing is inherited
    from the machine but a plain PATH.

    A change: tasks start again.
    """
    user: str = "nobody"
    """The user that the task runs as. The default has no rights on the machine at all.

    A change: tasks start again.
    """
    packages: Sequence[Package] = ()
    """Folders that the task needs; the first is mounted read-only as its working directory.

    A change: tasks start again.
    """
    replicas: int = 1
    """How many tasks run at the same time.

    A change: tasks are added or removed.
    """
    resources: Resources = Resources()
    """What one task may use.

    A change: applied to running tasks.
    """
    limits: Limits = Limits()
    """How the limits of running tasks follow their measured use.

    A change: applied to running tasks.
    """
    ports: Sequence[str] = ()
    """Names of the TCP ports that each task listens on; the numbers are given out per task.

    A change: tasks start again.
    """
    health: Sequence[HttpCheck | TcpCheck | CommandCheck] = ()
    """How to tell that a task serves. Without checks a task counts as healthy while it runs.

    A change: applied to running tasks.
    """
    rollout: Rollout = Rollout()
    """How a new version replaces the old one.

    A change: no task notices.
    """
    restart: Restart = Restart()
    """What happens when a task ends that should not.

    A change: no task notices.
    """
    stop: Stop = Stop()
    """How a task is asked to end.

    A change: no task notices.
    """
    depends_on: Sequence[str] = ()
    """Jobs of the same namespace that must be healthy before a task of this one starts.

    A change: no task notices.
    """
    owner: str = ""
    """The team that answers for the job.

    A change: no task notices.
    """
    labels: Mapping[str, str] = EMPTY
    """Free text pairs for tools and people; nothing in Twill reads them.

    A change: no task notices.
    """
