"""What a sealed child does: runs a spec, a file of tests or a file of policies, or compiles files."""

from __future__ import annotations

from collections.abc import Callable

from . import compiler, driver, policies, rehearsal, tests

_ROLES: dict[str, Callable[[str], bytes]] = {"test": tests.run, "policy": policies.run}


def run(role: str, path: str, with_references: bool) -> bytes:
    """Runs the file at `path`; returns what it hands over, or sends its error to the parent and ends."""
    if role == "spec":
        return driver.evaluate(path, with_references)
    if role == "compile":
        return compiler.serve()
    driver.subject = role
    return _ROLES[role](path)


def prepare() -> None:
    """Readies the zygote, once everything is loaded."""
    driver.prepare(rehearsal.rehearse)
