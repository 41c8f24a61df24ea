"""Runs a file of the repository that is not a spec, and reports on it."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tw import SpecError

import _twill_host as host

from . import driver, errors, imports


def run(path: str, work: Callable[[str], list[dict[str, Any]]]) -> bytes:
    """Has `work` done and captures what is printed; returns its report, or sends its error to the parent and ends."""
    output = sys.stdout = sys.stderr = driver._Output()
    try:
        return imports.to_json({"jobs": work(path), "output": output.getvalue()})
    except BaseException as error:
        host.fail(imports.to_json({"error": errors.describe(error), "output": output.getvalue()}))
    raise AssertionError("unreachable")


def load(path: str, compiled: Callable[[str, bytes], Any]) -> ModuleType:
    """Runs the file at `path` as a module of its own name."""
    found = host.ask("read", path)
    if found is None:
        raise SpecError("spec.not_found", f"there is no file `{path}`")
    imports.spec_folder = posixpath.dirname(path)
    module = ModuleType(posixpath.basename(path).removesuffix(".py"))
    module.__file__ = path
    module.__package__ = ""
    module.__builtins__ = imports.spec_builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    exec(compiled(path, found[2]), module.__dict__)
    return module


def asked(what: str, about: str = "") -> bytes | None:
    """Returns the parent's answer to a question of its own kind."""
    found = host.ask(what, about)
    return found[2] if found else None
