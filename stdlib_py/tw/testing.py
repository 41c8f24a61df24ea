"""Tests of specs, beside them in files called `test_*.py` or `*_test.py`.

A test is a function whose name begins with `test_`; it fails by an exception, as a
rule that of an `assert`. `tw test` runs each in a sealed process of its own and shows
both sides of what was compared; `pytest` runs the same files.

    from tw import MiB
    from tw.testing import cases, load

    jobs = load("config.tw")

    def test_memory_is_modest():
        assert jobs["web"].resources.memory <= 256 * MiB

    @cases("web", "worker")
    def test_has_an_owner(name):
        assert jobs[name].owner
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from . import _schema
from ._runtime import nearest
from ._schema import Job

__all__ = ["Caught", "Jobs", "LoadError", "Skipped", "cases", "load", "raises", "skip"]

_Test = TypeVar("_Test", bound=Callable[..., object])

CASES: Final = "__tw_cases__"
"""The attribute in which `cases` leaves its arguments."""


class LoadError(Exception):
    """A spec that does not evaluate. `errors` holds the code and the message of each mistake."""

    def __init__(self, text: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.errors = tuple(errors)

    @property
    def codes(self) -> tuple[str, ...]:
        """The stable codes of the mistakes, such as `spec.unknown_field`."""
        return tuple(code for code, _ in self.errors)


class Skipped(BaseException):
    """Raised by `skip`."""


class Jobs(Sequence[Job]):
    """The jobs of a spec, in the order exported; `jobs["web"]` is the one of that name."""

    def __init__(self, path: str, jobs: Sequence[Job]) -> None:
        self._path = path
        self._jobs = tuple(jobs)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return self._jobs[key]
        for job in self._jobs:
            if key in (job.name, f"{job.namespace}/{job.name}"):
                return job
        names = [job.name for job in self._jobs]
        near = nearest(key, names)
        hint = f"did you mean {near!r}?" if near else f"it has {', '.join(names) or 'none'}"
        raise LookupError(f"{self._path} exports no job {key!r}; {hint}")

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, key: object) -> bool:
        return any(key in (job, job.name) for job in self._jobs)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the jobs."""
        return tuple(job.name for job in self._jobs)

    def __repr__(self) -> str:
        return f"<jobs of {self._path}: {', '.join(self.names) or 'none'}>"


_loader: Callable[[str, str], tuple[str, list[str]]] | None = None
"""Evaluates a spec; (path, folder of the caller) → (path from the root, jobs as Python)."""


def load(path: str) -> Jobs:
    """Evaluates a spec and returns its jobs, with defaults filled in and texts split as Twill does.

    `path` counts from the folder of the calling file, or with a leading `//` from the
    repository's root. A spec with mistakes raises `LoadError`.
    """
    caller = sys._getframe(1).f_globals.get("__file__", "")
    found, texts = (_loader or _load_by_command)(path, caller)
    return Jobs(found, [_job(text) for text in texts])


def _job(text: str) -> Job:
    """Makes the job that Twill wrote down as a Python expression."""
    made = eval(text, {"__builtins__": {}, **_names()})
    assert isinstance(made, Job)
    return made


def _names() -> dict[str, Any]:
    from . import units

    known = {name: getattr(_schema, name) for name in _schema.__all__}
    return {**vars(units), **known}


def _load_by_command(path: str, caller: str) -> tuple[str, list[str]]:
    """Asks the program `tw`, for tests that pytest runs."""
    import json
    import os
    import shutil
    import subprocess

    program = os.environ.get("TW") or shutil.which("tw")
    if program is None:
        raise LoadError("load() needs the program `tw` on PATH, or named in the variable TW")
    folder = os.path.dirname(os.path.abspath(caller))
    wanted = path
    if path.startswith("//"):
        folder = _root(folder)
        wanted = path[2:]
    ran = subprocess.run(
        [program, "eval", "--python", "--json", wanted],
        cwd=folder, capture_output=True, text=True, check=False,
    )
    try:
        answer = json.loads(ran.stdout)
    except ValueError:
        raise LoadError(ran.stderr.strip() or f"`tw eval {wanted}` printed no JSON") from None
    if answer["errors"]:
        errors = [(error["code"], error["message"]) for error in answer["errors"]]
        raise LoadError(ran.stderr.strip() or "\n".join(f"{c}: {m}" for c, m in errors), errors)
    return wanted, answer["python"]


def _root(folder: str) -> str:
    from .repo import _git_root

    return _git_root(folder)


def skip(reason: str) -> None:
    """Ends the test without a verdict."""
    if "pytest" in sys.modules:
        sys.modules["pytest"].skip(reason)
    raise Skipped(reason)


def cases(*arguments: object) -> Callable[[_Test], _Test]:
    """Runs a test once for each argument; a tuple fills several parameters."""

    def mark(test: _Test) -> _Test:
        parameters = [*inspect.signature(test).parameters]
        rows = [_row(test, parameters, argument) for argument in arguments]
        setattr(test, CASES, rows)
        if "pytest" not in sys.modules:
            return test
        marked: _Test = sys.modules["pytest"].mark.parametrize(parameters, rows)(test)
        return marked

    return mark


def _row(test: Callable[..., object], parameters: list[str], argument: object) -> tuple[Any, ...]:
    row = argument if isinstance(argument, tuple) and len(parameters) != 1 else (argument,)
    if len(row) != len(parameters):
        raise TypeError(
            f"{test.__name__} takes {len(parameters)} arguments, and one of its cases has {len(row)}"
        )
    return row


class Caught:
    """What `raises` caught."""

    value: BaseException
    """The exception itself; set once the block has ended."""


@contextmanager
def raises(expected: type[BaseException], match: str | None = None) -> Iterator[Caught]:
    """Expects the block to raise `expected`, with a text in which the pattern `match` is found."""
    caught = Caught()
    try:
        yield caught
    except expected as error:
        caught.value = error
        if match is not None and not re.search(match, str(error)):
            raise AssertionError(
                f"{type(error).__name__} does not say {match!r}; it says: {error}"
            ) from error
        return
    raise AssertionError(f"nothing raised {expected.__name__}")
