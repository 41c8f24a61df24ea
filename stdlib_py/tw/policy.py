"""Policies: rules over evaluated jobs, in a file `POLICY.py` of any folder.

The policies of a folder see every job of the specs below it, after evaluation and with
all defaults filled in. Those of deeper folders come on top; none can be taken away.

    from tw import Job
    from tw.policy import forbid, policy, require, warn

    @policy(owner="platform")
    def has_owner(job: Job) -> None:
        require(job.owner, "every job names its owner")

    @policy(owner="platform")
    def no_root(job: Job) -> None:
        forbid(job.user == "root", "tasks do not run as root")
        warn(job.replicas == 1, "one task alone is down whenever it moves")

A rule over all jobs of the folder together is a `folder_policy`. It always sees all of them, also
where only one of them changes or is asked about:

    from collections.abc import Sequence
    from tw.policy import folder_policy, require

    @folder_policy(owner="web")
    def few_tasks(jobs: Sequence[Job]) -> None:
        tasks = sum(job.replicas for job in jobs)
        require(tasks <= 200, f"this folder has {tasks} tasks; ask before it takes more than 200")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Literal, Never, TypeVar

from ._schema import Job

__all__ = [
    "Finding",
    "Rule",
    "folder_policy",
    "forbid",
    "policy",
    "require",
    "review",
    "reviewed",
    "reviewed_commits",
    "rules",
    "warn",
]

_Function = TypeVar("_Function", bound=Callable[[Job], None])
_FolderFunction = TypeVar("_FolderFunction", bound=Callable[[Sequence[Job]], None])


@dataclass(frozen=True)
class Rule:
    """One policy: a function of a job, or of all jobs of a folder, and the team that answers for it."""

    function: Callable[..., None]
    owner: str
    is_of_folder: bool = False
    """Whether it takes all jobs at once."""

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


@dataclass(frozen=True)
class Finding:
    """What a policy says of a job."""

    level: Literal["require", "forbid", "warn"]
    message: str
    field: str | None
    """The field at fault, such as `resources.memory`; None where the call did not name one."""
    origin: tuple[CodeType, int]
    """The code of the policy and the instruction in it."""
    job: Job | None = None
    """The job that a policy over a folder names; None where it is about all of them."""


_rules: list[Rule] = []
_reviewed: list[tuple[str, str, int]] = []
_findings: list[Finding] | None = None


def policy(*bare: Never, owner: str = "") -> Callable[[_Function], _Function]:
    """Makes a function of a job a policy. `owner` is the team that people ask when it stands in their way."""
    if bare or not isinstance(owner, str) or not owner.strip():
        raise TypeError('a policy names its owner: @policy(owner="team")')

    def register(function: _Function) -> _Function:
        _rules.append(Rule(function, owner))
        return function

    return register


def folder_policy(*bare: Never, owner: str = "") -> Callable[[_FolderFunction], _FolderFunction]:
    """Makes a function of all jobs below the folder a policy. It sees those that do not change, too.

    What it requires or forbids is of all of them, or of the one that the call names with `job=`.
    """
    if bare or not isinstance(owner, str) or not owner.strip():
        raise TypeError('a policy names its owner: @folder_policy(owner="team")')

    def register(function: _FolderFunction) -> _FolderFunction:
        _rules.append(Rule(function, owner, is_of_folder=True))
        return function

    return register


def reviewed_commits(*, owner: str) -> None:
    """Has the controller take jobs of the specs below this folder from a branch that it follows alone.

    Written once, outside of functions. What anyone applies by hand of these jobs is refused from the
    commit on that says so; who may put commits on the branch is for the git server to hold.
    """
    if not isinstance(owner, str) or not owner.strip():
        raise TypeError('reviewed commits have an owner: reviewed_commits(owner="team")')
    frame = sys._getframe(1)
    _reviewed.append((owner, frame.f_code.co_filename, frame.f_lineno))


def reviewed() -> tuple[tuple[str, str, int], ...]:
    """Returns owner, file and line of each call of `reviewed_commits`."""
    return tuple(_reviewed)


def rules() -> tuple[Rule, ...]:
    """Returns the policies registered so far, in the order written."""
    return tuple(_rules)


def require(
    condition: object, message: str, *, field: str | None = None, job: Job | None = None
) -> None:
    """Refuses the job unless `condition` holds."""
    _found("require", not condition, message, field, job)


def forbid(
    condition: object, message: str, *, field: str | None = None, job: Job | None = None
) -> None:
    """Refuses the job if `condition` holds."""
    _found("forbid", bool(condition), message, field, job)


def warn(
    condition: object, message: str, *, field: str | None = None, job: Job | None = None
) -> None:
    """Warns about the job if `condition` holds; it is not refused."""
    _found("warn", bool(condition), message, field, job)


def _found(
    level: Literal["require", "forbid", "warn"],
    applies: bool,
    message: str,
    field: str | None,
    job: Job | None,
) -> None:
    if _findings is None:
        raise RuntimeError(f"{level}() works in a policy that Twill or review() runs")
    if not isinstance(message, str):
        raise TypeError(f"the message of {level}() is text, not a {type(message).__name__}")
    if job is not None and not isinstance(job, Job):
        raise TypeError(f"job= of {level}() is one of the jobs, not a {type(job).__name__}")
    if applies:
        frame = sys._getframe(2)
        _findings.append(Finding(level, message, field, (frame.f_code, frame.f_lasti), job))


def review(
    function: Callable[[Job], None] | Callable[[Sequence[Job]], None], over: Job | Sequence[Job]
) -> tuple[Finding, ...]:
    """Runs one policy over a job, or one over a folder over its jobs, and returns what it finds; for tests."""
    global _findings
    before, _findings = _findings, []
    try:
        function(over)  # type: ignore[arg-type]
        return tuple(_findings)
    finally:
        _findings = before
