"""Runs one test of a file, or lists its tests.

The parent says which by answering `input`: `{"test": null}`, or the name of a test and
the number of its case. Lists are `{"name", "line", "cases"}`; the verdict on a test is
`{"outcome": "passed"|"failed"|"skipped"|"error", …}`.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import tw.testing
from tw.testing import CASES, LoadError, Skipped

from . import assertions, errors, files, imports

_input: dict[str, Any] = {}


def run(path: str) -> bytes:
    """Does what the parent asks with the file of tests at `path`."""
    assertions.install(imports.spec_builtins)
    tw.testing._loader = _load
    return files.run(path, _work)


def _work(path: str) -> list[dict[str, Any]]:
    _input.update(json.loads(files.asked("input") or b"{}"))
    wanted = _input["test"]
    try:
        module = files.load(path, assertions.compile_test)
        if wanted is None:
            return [_listed(name, value) for name, value in _tests(module.__dict__)]
    except Skipped as skipped:
        return [{"outcome": "skipped", "reason": str(skipped)}]
    except BaseException as error:
        return [{"outcome": "failed", **_failure(error)}]
    test = dict(_tests(module.__dict__))[wanted]
    rows = getattr(test, CASES, [()])
    return [_verdict(test, rows[_input["case"]])]


def _tests(names: dict[str, Any]) -> list[tuple[str, Callable[..., object]]]:
    return [
        (name, value)
        for name, value in names.items()
        if name.startswith("test_") and inspect.isfunction(value)
    ] + [
        (f"{owner}.{name}", _method(value, name))
        for owner, value in names.items()
        if owner.startswith("Test") and inspect.isclass(value)
        for name, method in vars(value).items()
        if name.startswith("test_") and inspect.isfunction(method)
    ]


def _method(owner: type, name: str) -> Callable[..., object]:
    """Returns the method as a test of its own, on an object of its own."""

    @functools.wraps(getattr(owner, name))
    def test(*row: object) -> object:
        return getattr(owner(), name)(*row)

    parameters = [*inspect.signature(getattr(owner, name)).parameters.values()]
    test.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
    return test


def _listed(name: str, test: Callable[..., object]) -> dict[str, Any]:
    rows = getattr(test, CASES, None)
    wanted = [*inspect.signature(test).parameters]
    problem = None
    if inspect.iscoroutinefunction(test):
        problem = f"`{name}` is an async function; there is nothing to wait for in a spec"
    elif wanted and rows is None:
        problem = f"nothing gives `{name}` its argument `{wanted[0]}`; write `@cases(…)` above it"
    return {
        "name": name,
        "line": inspect.unwrap(test).__code__.co_firstlineno,
        "cases": None if rows is None else [", ".join(map(assertions.shown, row)) for row in rows],
        "problem": problem,
    }


def _verdict(test: Callable[..., object], row: tuple[Any, ...]) -> dict[str, Any]:
    try:
        test(*row)
    except Skipped as skipped:
        return {"outcome": "skipped", "reason": str(skipped)}
    except BaseException as error:
        return {"outcome": "failed", **_failure(error)}
    return {"outcome": "passed"}


def _failure(error: BaseException) -> dict[str, Any]:
    described = errors.describe(error)
    explanation = error.args[0] if isinstance(error, AssertionError) and error.args else None
    if isinstance(explanation, assertions.Explanation):
        described.update(code="test.failed", message=str(explanation))
        return {
            "error": described,
            "values": explanation.values,
            "difference": explanation.difference,
        }
    mistakes: list[str] = []
    if isinstance(error, errors.UnknownModule) and error.name == "pytest":
        described["hint"] = "tests of specs have `cases`, `raises` and `skip` of `tw.testing` instead"
    if isinstance(error, LoadError) and len(str(error).splitlines()) > 1:
        described["message"] = "a spec that the test loads has mistakes"
        mistakes = str(error).splitlines()
    elif isinstance(error, LoadError):
        described["message"] = str(error)
    return {"error": described, "values": [], "difference": mistakes}


def _load(path: str, caller: str) -> tuple[str, list[str]]:
    """Has the parent evaluate a spec, sealed like any other."""
    question = json.dumps({"path": path, "from": caller})
    answer = json.loads(files.asked("jobs", question) or b"{}")
    if answer["errors"]:
        raise LoadError(answer["text"], [(error["code"], error["message"]) for error in answer["errors"]])
    return answer["path"], answer["jobs"]
