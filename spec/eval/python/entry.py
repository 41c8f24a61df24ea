"""What a sealed child does: runs a spec, a file of tests or a file of policies, or compiles files."""

from __future__ import annotations

from collections.abc import Callable

from . import compiler, driver, policies, tests

_ROLES: dict[str, Callable[[str], None]] = {"test": tests.run, "policy": policies.run}


def run(role: str, path: str, with_references: bool) -> None:
    """Runs the file at `path` and sends what it hands over, or its error, to the parent."""
    if role == "spec":
        driver.evaluate(path, with_references)
    elif role == "compile":
        compiler.serve()
    else:
        driver.subject = role
        _ROLES[role](path)


def prepare() -> None:
    """Readies the zygote, once everything is loaded."""
    compiler.rehearse()
    driver.prepare()
