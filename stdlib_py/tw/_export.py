"""`export`: how a spec hands its jobs to Twill."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ._runtime import SpecError
from ._schema import Job

_UNORDERED_OR_TEXT = (str, bytes, dict, set, frozenset)

_exported: list[Job] = []
_listeners: list[Callable[[Job], None]] = []


def export(*jobs: Job | Iterable[Job]) -> None:
    """Hands jobs over: each argument is a `Job` or an iterable of them."""
    for item in jobs:
        for job in _listed(item):
            _export_one(job)


def _listed(item: object) -> Iterable[object]:
    if isinstance(item, Iterable) and not isinstance(item, _UNORDERED_OR_TEXT):
        return item
    return [item]


def _export_one(job: object) -> None:
    if not isinstance(job, Job):
        raise _no_job(job)
    _exported.append(job)
    for listener in _listeners:
        listener(job)


def _no_job(value: object) -> SpecError:
    found, hint = f"a {type(value).__name__}", "pass a Job(…) or a list of them"
    if value is None:
        found, hint = "None", "a function without `return` gives None; let it return its job"
    elif isinstance(value, type):
        found, hint = f"the class {value.__name__}", f"make one: {value.__name__}(name=…, …)"
    elif callable(value):
        found, hint = "a function", "call it, and export what it returns"
    elif isinstance(value, dict):
        found, hint = "a dict", "write its entries as fields: Job(name=…, command=…)"
    elif isinstance(value, str):
        found = "a text"
    return SpecError("spec.wrong_type", f"export takes jobs, not {found}", hint=hint)


def exported() -> tuple[Job, ...]:
    """Returns what has been exported so far; for tests of specs and shared modules."""
    return tuple(_exported)
