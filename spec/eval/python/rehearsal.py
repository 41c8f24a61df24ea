"""Evaluates a small spec in the zygote, over and over, before any child is forked.

What the interpreter learns on the way (specialized instructions, method caches, interned names) is then in the
memory that children share; each of them would otherwise write it into pages of its own. Nothing of the
rehearsal stays that a spec could see.
"""

from __future__ import annotations

import linecache
import sys

from tw import _export

from . import compiler, driver, imports, sources, spans

_ROUNDS = 3

_FILES = {
    "rehearsal/shared.py": b"""
from tw import HttpCheck, Job, MiB, Resources, SECOND


def service(name, *, replicas=2, memory=64 * MiB, **more):
    return Job(
        name=name,
        command=["./server", "--port", "{port:http}"],
        replicas=replicas,
        resources=Resources(cpu=0.5, memory=memory),
        ports=["http"],
        env={"LEVEL": "info"},
        health=[HttpCheck(port="http", path="/healthz", every=5 * SECOND)],
        **more,
    )
""",
    "rehearsal.tw": b"""
from rehearsal.shared import service
from tw import Job, MiB, Package, export, repo

names = [f"job-{index}" for index in range(4)]
export(service(name, replicas=3, memory=128 * MiB) for name in names)
if not repo.exists("absent"):
    export(Job(name="last", command="sleep 60", packages=[Package.folder("app")]).replace(replicas=5))
""",
}


class _Host:
    """Stands in for the parent."""

    def __init__(self) -> None:
        modules = [path for path in _FILES if path.endswith(".py")]
        self._code = {path: compiler.compiled(_FILES[path]) for path in modules}

    def ask(self, question: str, path: str) -> tuple[str, str, bytes, bytes] | None:
        if question == "module" and path == "rehearsal":
            return ("namespace", path, b"", b"")
        file = path + ".py" if question == "module" else path
        return ("module", file, _FILES[file], self._code.get(file, b"")) if file in _FILES else None

    def given(self) -> tuple[str, str, bytes, bytes] | None:
        return self.ask("spec", "rehearsal.tw")

    def fail(self, error: bytes) -> None:
        raise AssertionError(f"the rehearsal ended with {error.decode()}")


def rehearse() -> None:
    """Runs the rehearsal and takes its traces away."""
    real = driver.host
    streams = sys.stdout, sys.stderr, sys.modules["__main__"]
    driver.host = imports.host = _Host()  # type: ignore[attr-defined,assignment]
    try:
        for _ in range(_ROUNDS):
            driver.evaluate("rehearsal.tw", False)
            _forget()
    finally:
        driver.host = imports.host = real  # type: ignore[attr-defined]
        sys.stdout, sys.stderr, sys.modules["__main__"] = streams


def _forget() -> None:
    for name in imports._repository:
        sys.modules.pop(name, None)
    for traces in (imports._repository, _export._exported, _export._listeners, linecache.cache):
        traces.clear()
    sources.forget()
    spans.forget()
    spans.with_references = False
    imports.spec_folder = ""
