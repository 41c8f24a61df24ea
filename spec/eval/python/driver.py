"""Evaluates one spec, in a sealed child that ends with it."""

from __future__ import annotations

import _signal
import builtins
import gc
import io
import posixpath
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import tw.repo
from tw import Job, SpecError
from tw._export import _listeners
from tw._runtime import encode

import _twill_host as host

from . import errors, facts, imports, policy, sources, spans
from .imports import to_json

_OUTPUT_CHARACTERS_MAX = 64 * 1024
_RESULT_BYTES_MAX = 16 * 1024 * 1024 - 1024

subject = "spec"
"""What runs, as errors name it."""

_NO_MEMORY = {
    "error": {
        "code": "spec.memory",
        "message": "the spec needs more memory than an evaluation may use",
    }
}


class _Output(io.StringIO):
    """What a spec prints, up to a bound; past it a last line says so."""

    def write(self, text: str) -> int:
        left = _OUTPUT_CHARACTERS_MAX - self.tell()
        if left > 0:
            super().write(text[:left])
        if 0 <= left < len(text) and not self._is_cut:
            self._is_cut = True
            super().write(f"\n… cut: more than {_OUTPUT_CHARACTERS_MAX:,} characters\n")
        return len(text)

    _is_cut = False


class _Tree:
    """Answers `tw.repo` from the parent's tree."""

    def read(self, path: str) -> bytes | None:
        found = host.ask("read", path)
        return found[2] if found else None

    def list(self, path: str) -> list[str] | None:
        found = host.ask("list", path)
        return found[2].decode().split("\n")[:-1] if found else None

    def exists(self, path: str) -> bool:
        return host.ask("exists", path) is not None


def _out_of_time(_signal_number: int, frame: FrameType | None) -> None:
    imports.finish_with(
        errors.at(
            frame,
            "spec.timeout",
            f"the {subject} used up its processor time",
            "an evaluation takes milliseconds; look for a loop without an end",
        )
    )


def evaluate(path: str, with_references: bool) -> bytes:
    """Runs the spec at `path`; returns its jobs as JSON, or sends its error to the parent and ends."""
    spans.with_references = with_references
    output = sys.stdout = sys.stderr = _Output()
    jobs: list[dict[str, Any]] = []
    _listeners.append(lambda job: jobs.append(encode(job, spans.locate)))
    try:
        _run(path)
        return _result({"jobs": jobs, "output": output.getvalue()})
    except MemoryError as error:
        host.fail(_out_of_memory(error, jobs))
    except BaseException as error:
        host.fail(_failure(error, output))
    raise AssertionError("unreachable")


def _run(path: str) -> None:
    found = host.given()
    if found is None:
        raise SpecError("spec.not_found", f"there is no file `{path}`")
    imports.spec_folder = posixpath.dirname(path)
    main = ModuleType("__main__")
    main.__file__ = path
    main.__package__ = ""
    main.__builtins__ = imports.spec_builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    exec(imports.code_of(path, found[2], found[3]), main.__dict__)


def _result(result: dict[str, Any]) -> bytes:
    encoded = to_json(result)
    if len(encoded) <= _RESULT_BYTES_MAX:
        return encoded
    raise SpecError(
        "spec.output",
        f"the jobs take {len(encoded)} bytes as JSON; at most {_RESULT_BYTES_MAX} are possible",
        hint="split the spec, or move large values into files of a package",
    )


def _failure(error: BaseException, output: _Output) -> bytes:
    described = errors.describe(error)
    return to_json({"error": described, "output": output.getvalue()})


def _out_of_memory(error: MemoryError, jobs: list[dict[str, Any]]) -> bytes:
    jobs.clear()
    try:
        described = errors.describe(error)
        return to_json({"error": described})
    except MemoryError:
        return to_json(_NO_MEMORY)


def _denied_call(_signal_number: int, frame: FrameType | None) -> None:
    """Names the line of a call that the kernel denied; the parent knows which call it was."""
    imports.finish_with(errors.at(frame, "spec.denied", "the spec reached outside its evaluation", None))


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuses what the seal would refuse, too, but with fewer words."""
    if event == "open":
        _refuse_file(arguments[0])
    elif event in policy.AUDITED:
        _refuse(f"`{event}` is not available in a {subject}", policy.AUDITED[event])
    elif event == "import" and arguments[1] is not None:
        hint = "a spec imports from the repository and from the standard library for specs"
        _refuse(f"a {subject} cannot load extension modules", hint)


def _refuse(message: str, hint: str) -> None:
    """Ends the evaluation; where a spec has seen to it that this cannot, the kernel refuses what it asks."""
    try:
        imports.finish_with(errors.at(sys._getframe(2), "spec.denied", message, hint))
    except BaseException:
        return


def _refuse_file(path: object) -> None:
    if isinstance(path, str) and (sources.known(path) or path.startswith("<")):
        # The compiler looks for the line of a syntax error on disk; it goes on without.
        raise PermissionError("a spec opens no files")
    _refuse(f"a {subject} cannot open files", policy.DENIED_BUILTINS["open"])


def prepare(rehearse: Callable[[], None]) -> None:
    """Readies the zygote: everything a spec may need is loaded, nothing more can be."""
    _signal.signal(_signal.SIGPROF, _out_of_time)
    _signal.signal(_signal.SIGSYS, _denied_call)
    tw.repo._tree = _Tree()
    builtins.exit = builtins.quit = sys.exit  # type: ignore[attr-defined]
    imports.spec_builtins.update(exit=sys.exit, quit=sys.exit)
    sys.addaudithook(_audit)
    sys.path.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [f for f in sys.meta_path if "PathFinder" not in repr(f)]
    facts.forget()
    rehearse()
    gc.freeze()
    # Nothing is left to look at; what this does is to empty the lists of free objects, which lie in shared pages.
    gc.collect()
    gc.enable()
    gc.set_threshold(50_000, 20, 20)
