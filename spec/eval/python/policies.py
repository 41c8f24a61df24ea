"""Runs the policies of one file over the jobs that the parent hands over.

The parent answers `input` N with a part of the jobs, from the N-th on, each as a Python expression
with all defaults in place. What goes back first says what ran, then what was found. "whole" says
that the answer depends on which jobs there are: the parent asks again with all of them, where it
handed over some.
"""

from __future__ import annotations

import ast
import collections
import json
from types import CodeType, FunctionType
from typing import Any

import tw.policy
from tw import Job, Spec, SpecError
from tw.policy import Finding, Rule
from tw.testing import _job as made_of

from . import errors, files, imports, sources


def run(path: str) -> bytes:
    """Reports what the policies of the file at `path` find."""
    return files.run(path, _work)


def _work(path: str) -> list[dict[str, Any]]:
    module = files.load(path, imports.compile_source)
    rules = tw.policy.rules()
    reviewed = [_reviewed(path, *call) for call in tw.policy.reviewed()]
    if not rules and not reviewed and (name := _first_function(module.__dict__, path)):
        raise SpecError(
            "policy.broken",
            f"the file has functions and no policy: `{name}` would never be asked",
            hint='write `@policy(owner="team")` above it',
        )
    over_folder = [number for number, rule in enumerate(rules) if rule.is_of_folder]
    found: list[dict[str, Any]] = []
    broken: set[int] = set(over_folder)
    jobs: list[Job] = []
    seen = 0
    before = _memory(module.__dict__)
    while (part := files.asked("input", str(seen))) is not None:
        for text in json.loads(part):
            job = made_of(text)
            for number, rule in enumerate(rules):
                if number not in broken:
                    found += _findings(number, rule, seen, job, broken)
            if over_folder:
                jobs.append(job)
            seen += 1
    for number in over_folder if jobs else ():
        found += _findings_of_folder(number, rules[number], tuple(jobs))
    remembers = _memory(module.__dict__) != before
    ran = {
        "seen": seen, "rules": [_rule(rule) for rule in rules], "reviewed": reviewed,
        "whole": bool(over_folder) or remembers, "remembers": remembers, "over_folder": over_folder,
    }
    return [ran, *found]


_REMEMBERING = (int, float, str, bytes, tuple, list, dict, set, frozenset, collections.deque)


def _memory(names: dict[str, Any]) -> list[str]:
    """Shows the values of a module, by which a policy can remember one job when it judges the next."""
    return [
        f"{name} {value!r}"
        for name, value in names.items()
        if isinstance(value, _REMEMBERING) and not name.startswith("__")
    ]


def _first_function(names: dict[str, Any], path: str) -> str | None:
    """Returns the name of the first public function that the file defines."""
    for name, value in names.items():
        if isinstance(value, FunctionType) and value.__code__.co_filename == path and name[0] != "_":
            return name
    return None


def _rule(rule: Rule) -> dict[str, Any]:
    code = rule.function.__code__
    return {"name": rule.name, "owner": rule.owner, "line": code.co_firstlineno, "file": code.co_filename}


def _reviewed(path: str, owner: str, file: str, line: int) -> dict[str, Any]:
    """Describes a call of `reviewed_commits`, which holds over the folder of `path` also if a module made it."""
    return {"name": "reviewed_commits", "owner": owner, "file": path, "line": line if file == path else 1}


def _findings(
    number: int, rule: Rule, index: int, job: Job, broken: set[int]
) -> list[dict[str, Any]]:
    """Runs one policy over one job; one that raises is not asked again."""
    try:
        findings = tw.policy.review(rule.function, job)
        return [_finding(number, index, finding, rule, job) for finding in findings]
    except BaseException as error:
        broken.add(number)
        described = errors.describe(error)
        if isinstance(error, AssertionError):
            described["message"] += "; to refuse a job write require(condition, message)"
        return [{"rule": number, "job": index, "error": described}]


def _findings_of_folder(number: int, rule: Rule, jobs: tuple[Job, ...]) -> list[dict[str, Any]]:
    """Runs one policy over all jobs together. A finding without a job is about all of them."""
    places = {(job.namespace, job.name): index for index, job in enumerate(jobs)}
    try:
        findings = tw.policy.review(rule.function, jobs)
        return [_finding_of_folder(number, finding, places, jobs) for finding in findings]
    except BaseException as error:
        return [{"rule": number, "job": None, "error": errors.describe(error)}]


def _finding_of_folder(
    number: int, finding: Finding, places: dict[tuple[str, str], int], jobs: tuple[Job, ...]
) -> dict[str, Any]:
    job = finding.job
    if job is not None and (job.namespace, job.name) not in places:
        raise LookupError(f"`{finding.level}` names the job `{job.name}`, which is none of the folder's")
    index = None if job is None else places[job.namespace, job.name]
    return {
        "rule": number, "job": index, "level": finding.level, "message": finding.message,
        "field": finding.field,
    }


def _finding(
    number: int, index: int, finding: Finding, rule: Rule, job: Job
) -> dict[str, Any]:
    if finding.job not in (None, job):
        raise TypeError(f"`{rule.name}` is about one job; what names another is a folder_policy")
    file, line, column, _, _ = _place(*finding.origin)
    return {
        "rule": number, "job": index, "level": finding.level, "message": finding.message,
        "field": finding.field or _field_of(*finding.origin, rule, job),
        "file": file, "line": line, "column": column,
    }


def _place(code: CodeType, instruction: int) -> sources.Place:
    return sources.place(code.co_filename, sources.position(code, instruction))


def _field_of(code: CodeType, instruction: int, rule: Rule, job: Job) -> str | None:
    """Returns the longest field of the job that the condition names, such as `resources.memory`."""
    if not sources.known(code.co_filename):
        return None
    call = sources.call_at(code.co_filename, sources.position(code, instruction))
    parameter = rule.function.__code__.co_varnames[:1]
    if call is None or not call.args or not parameter:
        return None
    named = (_named(node, parameter[0], job) for node in ast.walk(call.args[0]))
    return ".".join(max(named, key=len, default=())) or None


def _named(node: ast.AST, root: str, job: Job) -> tuple[str, ...]:
    """Returns the fields that an expression such as `job.stop.signal.lower` goes through."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id != root:
        return ()
    fields: list[str] = []
    value: object = job
    for name in names:
        if not isinstance(value, Spec) or name not in value._names:
            break
        fields.append(name)
        value = getattr(value, name)
    return tuple(fields)
