"""Takes out of the interpreter what it knows of the machine: its clock, its folders, its time zone.

The kernel refuses what asks the machine; this is for what was learnt before the seal, and so
that an attempt ends as an error that names its line.
"""

from __future__ import annotations

import sys
import time
from types import ModuleType
from typing import Any, NoReturn

from . import errors, imports, policy

_CLOCKS = """
    time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns
    thread_time thread_time_ns clock_gettime clock_gettime_ns clock_getres sleep
""".split()

_FOLDERS = "executable _base_executable prefix base_prefix exec_prefix base_exec_prefix platlibdir _home".split()


def forget() -> None:
    """Called once, in the zygote, when everything is loaded."""
    time.tzset()
    for name in _CLOCKS:
        setattr(time, name, _stopped_clock(f"time.{name}"))
    for name in _FOLDERS:
        setattr(sys, name, "")
    sys.argv[:] = sys.orig_argv[:] = []
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            _forget_file(module)


def _stopped_clock(full: str) -> Any:
    def refuse(*_args: object, **_named: object) -> NoReturn:
        message = f"`{full}` is not available in a spec"
        frame = sys._getframe(1)
        imports.finish_with(errors.at(frame, "spec.nondeterministic", message, policy.CLOCK_HINT))

    return refuse


def _forget_file(module: ModuleType) -> None:
    """Replaces the path of a module of the standard library by its name."""
    facts = module.__dict__
    file = facts.get("__file__")
    if not isinstance(file, str) or not file.startswith("/"):
        return
    facts["__file__"] = _named(module.__name__)
    facts.pop("__cached__", None)
    if "__path__" in facts:
        facts["__path__"] = []
    spec = facts.get("__spec__")
    if spec is not None:
        spec.origin = spec.cached = None
        spec.loader = facts["__loader__"] = None


def _named(name: str) -> str:
    return f"<python>/{name}"
