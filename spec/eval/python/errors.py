"""Turns what went wrong into one error that names the author's line."""

from __future__ import annotations

import keyword
import re
import sys
from types import CodeType, FrameType, TracebackType
from typing import Any

import tw
from tw import SpecError
from tw._runtime import nearest

import _twill_host as host

from . import sources, spans
from .policy import ALLOWED, DENIED

_Calls = list[tuple[CodeType, int, FrameType]]

_MESSAGE_CHARACTERS_MAX = 2000
_CALLS_MAX = 64
_NAMES_MAX = 2000
_MERGE_MARKS = ("<<<<<<< ", ">>>>>>> ")


class UnknownModule(ModuleNotFoundError):
    """An import that leads nowhere."""

    def __init__(self, message: str, hint: str | None, name: str) -> None:
        super().__init__(message, name=name)
        self.hint = hint


def describe(error: BaseException) -> dict[str, Any]:
    """Returns the error JSON of an exception that ended a spec."""
    calls = _calls_of(error.__traceback__)
    if isinstance(error, SyntaxError) and sources.known(error.filename or ""):
        return _syntax(error, calls)
    code, message, hint = _classify(error, calls)
    if isinstance(error, SpecError) and error.origin is not None:
        made = [(c, i) for c, i in error.origin if sources.known(c.co_filename)]
        return _error(code, message, hint, made[::-1], error.argument)
    return _error(code, message, hint, [(c, i) for c, i, _ in calls], getattr(error, "argument", None))


def at(frame: FrameType | None, code: str, message: str, hint: str | None) -> dict[str, Any]:
    """Returns the error JSON of something that happened in `frame`."""
    calls: list[tuple[CodeType, int]] = []
    while frame is not None:
        if sources.known(frame.f_code.co_filename):
            calls.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return _error(code, message, hint, calls[::-1], None)


def _calls_of(traceback: TracebackType | None) -> _Calls:
    """Lists the repository's frames of a traceback, outermost first."""
    calls: _Calls = []
    while traceback is not None:
        frame = traceback.tb_frame
        if sources.known(frame.f_code.co_filename):
            calls.append((frame.f_code, traceback.tb_lasti, frame))
        traceback = traceback.tb_next
    return calls


def _error(
    code: str,
    message: str,
    hint: str | None,
    calls: list[tuple[CodeType, int]],
    argument: str | None,
) -> dict[str, Any]:
    error: dict[str, Any] = {
        "code": code, "file": None, "line": None, "column": None, "end_line": None,
        "end_column": None, "message": message, "hint": hint, "source_line": None,
        "trace": [_frame(*call) for call in _bounded(calls)],
    }
    if calls:
        if code == "spec.unknown_field" and argument:
            calls, passed_by = _passed_on(calls, argument)
            error["trace"] = [_frame(*call) for call in _bounded(calls)]
            error["message"] += passed_by
        _set_place(error, _at_fault(code, *calls[-1], argument))
    return error


def _bounded(calls: list[tuple[CodeType, int]]) -> list[tuple[CodeType, int]]:
    """Leaves out the middle of very many calls."""
    if len(calls) <= _CALLS_MAX:
        return calls
    return calls[: _CALLS_MAX // 2] + calls[-_CALLS_MAX // 2 :]


def _at_fault(code: str, made_by: CodeType, instruction: int, argument: str | None) -> sources.Place:
    path = made_by.co_filename
    raw = sources.position(made_by, instruction)
    place = None
    if argument is not None:
        find = spans.keyword if code == "spec.unknown_field" else spans.value
        place = find(path, raw, argument)
    return place or sources.place(path, raw)


def _passed_on(
    calls: list[tuple[CodeType, int]], argument: str
) -> tuple[list[tuple[CodeType, int]], str]:
    """Finds the call that writes a keyword which came to the innermost one through `**`; says who passed it on."""
    for length in range(len(calls), 0, -1):
        code, instruction = calls[length - 1]
        raw = sources.position(code, instruction)
        if spans.keyword(code.co_filename, raw, argument):
            if length == len(calls):
                return calls, ""
            inner = _frame(*calls[length])
            return calls[:length], f", to which `{inner['function']}` passes it on at {inner['file']}:{inner['line']}"
        if spans.value(code.co_filename, raw, "**") is None:
            break
    return calls, ""


def _set_place(error: dict[str, Any], place: sources.Place) -> None:
    error["file"], error["line"], error["column"], error["end_line"], error["end_column"] = place
    error["source_line"] = sources.line(place[0], place[1])


def _frame(code: CodeType, instruction: int) -> dict[str, Any]:
    file, line, column, _, _ = sources.place(code.co_filename, sources.position(code, instruction))
    return {
        "file": file, "line": line, "column": column,
        "function": code.co_name, "source_line": sources.line(file, line),
    }


def _syntax(error: SyntaxError, calls: _Calls) -> dict[str, Any]:
    file = error.filename or ""
    conflict = _conflict(file)
    if conflict is not None:
        message, hint = "a merge conflict is not resolved here", "keep one side, and delete the lines with <, = and >"
        described = _error("spec.syntax", message, hint, [(c, i) for c, i, _ in calls], None)
        _set_place(described, (file, conflict, 1, conflict, len(sources.line(file, conflict) or "") + 1))
        return described
    line = error.lineno or 1
    column = max(error.offset or 1, 1)
    end_line = error.end_lineno or line
    end_column = error.end_offset or 0
    if end_line == line:
        end_column = max(end_column, column + 1)
    message, hint = _syntax_words(str(error.msg), sources.line(file, line) or "")
    described = _error("spec.syntax", message, hint, [(c, i) for c, i, _ in calls], None)
    _set_place(described, (file, line, column, end_line, max(end_column, 1)))
    return described


def _conflict(file: str) -> int | None:
    """Returns the first line that a merge left in a file that is not Python for it: the mistake that Python names may
    be a bracket far above.
    """
    lines = enumerate(sources.text(file).splitlines(), start=1)
    return next((number for number, line in lines if line.startswith(_MERGE_MARKS)), None)


def _syntax_words(message: str, line: str) -> tuple[str, str | None]:
    """Returns the message and the hint for a line that is not Python."""
    if "tabs and spaces" in message or message == "unindent does not match any outer indentation level":
        return message, "indent with four spaces everywhere"
    if "invalid character" in message:
        return message, "type it again on the keyboard: text stands in plain \" or '"
    if message == "the file is not UTF-8 text":
        return message, "save the file as UTF-8"
    if message == "expected ':'" and re.match(r"\s*else\s+if\b", line):
        return message, "write `elif`"
    if message == "invalid syntax":
        return message, _syntax_hint(line)
    return message, None


def _syntax_hint(line: str) -> str | None:
    """Guesses what a line that is not Python was meant to be."""
    first = line.split(maxsplit=1)[0] if line.strip() else ""
    if " import " in line and first != "from" and nearest(first, ["from"]):
        return "did you mean `from`?"
    if re.match(r"\s*(- )?[\w.-]+:(\s|$)", line):
        return "a spec is Python, not YAML: write Job(name=\"web\", …)"
    if re.search(r"[(,]\s*\w+\s*:", line):
        return "an argument is given with `=`: name=\"web\""
    reserved = [w for w in re.findall(r"[(,]\s*(\w+)\s*=", line) if keyword.iskeyword(w)]
    return f"`{reserved[0]}` is a word of Python and cannot be a name" if reserved else None


def _classify(error: BaseException, calls: _Calls) -> tuple[str, str, str | None]:
    """Returns code, message and hint."""
    if isinstance(error, SpecError):
        return error.code, error.message, error.hint
    if isinstance(error, host.Unanswered):
        return "spec.not_found", str(error), None
    if isinstance(error, UnknownModule):
        return "spec.import", str(error), error.hint
    if isinstance(error, ImportError):
        return _cannot_import(error)
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return "spec.exit", f"the spec left by sys.exit({code})", (
            "a spec ends by reaching its last line; raise an exception to refuse"
        )
    if isinstance(error, MemoryError):
        return "spec.memory", "the spec needs more memory than an evaluation may use", (
            "look for a value or a list that grows without end"
        )
    said, hint = _said(error), _hint(error, calls)
    said = said.removesuffix(f" ({hint})")
    message = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return "spec.exception", message, hint


def _said(error: BaseException) -> str:
    """Returns the text of an exception, as far as it can be had and shown."""
    try:
        text = str(error)
    except BaseException as another:
        return f"its text cannot be shown, for that raises {type(another).__name__}"
    return text if len(text) <= _MESSAGE_CHARACTERS_MAX else text[:_MESSAGE_CHARACTERS_MAX] + "…"


_LATE_BOUND = {"port", "task", "service", "repo", "image"}
"""What stands in braces for values that are known when a task starts."""


def _hint(error: BaseException, calls: _Calls) -> str | None:
    if isinstance(error, NameError) and error.name and calls:
        code, instruction, frame = calls[-1]
        line = sources.line(code.co_filename, sources.position(code, instruction)[0] or 0) or ""
        if re.search(rf"[(,]\s*{re.escape(error.name)}\s*==", line):
            return f"an argument is given with one `=`: {error.name}=…"
        late = re.search(rf"""\b[fF]r?["'].*?(\{{{re.escape(error.name)}(:[^{{}}]*)?\}})""", line)
        if late and error.name in _LATE_BOUND:
            whole = late.group(1)
            return f"{whole} is filled in when a task starts: leave out the f, or write {{{whole}}}"
        return _name_hint(error.name, frame)
    if isinstance(error, (TypeError, AttributeError)):
        known = _operation_hint(str(error), calls)
        if known:
            return known
    if isinstance(error, AttributeError) and isinstance(error.name, str):
        near = nearest(error.name, _safe_dir(error.obj))
        return f"did you mean `{near}`?" if near else None
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        return "no such key; use .get(key, default) where it may be missing"
    if isinstance(error, RecursionError):
        return "a function calls itself without end, or values are nested very deep"
    if isinstance(error, LookupError) and "unknown encoding" in str(error):
        return "specs know the encodings utf-8, utf-16, latin-1, ascii and idna"
    if isinstance(error, ValueError) and "integer string conversion" in str(error):
        return "such a number is no size, time or count; check how it is computed"
    return None


_UNEXPECTED = re.compile(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'")
_DERIVE = "what a job holds does not change; derive a new one with .replace(…)"


def _operation_hint(message: str, calls: _Calls) -> str | None:
    """Returns what helps where an operation does not fit its operands."""
    if message.startswith("'mappingproxy' object does not support item"):
        return f"{_DERIVE}, for example env={{**job.env, \"A\": \"1\"}}"
    if message.startswith("'tuple' object has no attribute"):
        return f"{_DERIVE}, for example ports=[*job.ports, \"admin\"]"
    if "can only concatenate str" in message:
        return 'put values into text with an f-string: f"port {port}"'
    unexpected = _UNEXPECTED.search(message)
    if unexpected and calls:
        return _parameter_hint(*unexpected.groups(), calls[-1][2])
    return None


def _parameter_hint(function: str, argument: str, frame: FrameType) -> str | None:
    code = getattr({**frame.f_globals, **frame.f_locals}.get(function), "__code__", None)
    if not isinstance(code, CodeType):
        return None
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    near = nearest(argument, known)
    return f"did you mean `{near}`?" if near else f"`{function}` takes " + ", ".join(f"`{n}`" for n in known)


def _safe_dir(value: object) -> list[str]:
    try:
        names = [name for name in dir(value) if not name.startswith("_")]
        return names if len(names) <= _NAMES_MAX else []
    except Exception:
        return []


def _name_hint(name: str, frame: FrameType) -> str | None:
    if name in tw.__all__:
        return f"add `from tw import {name}`"
    if name in ALLOWED:
        return f"add `import {name}`"
    known = {*frame.f_locals, *frame.f_globals, *frame.f_builtins}
    near = nearest(name, (known for known in known if not known.startswith("__")))
    of_tw = nearest(name, tw.__all__)
    is_better = of_tw is not None and of_tw.lower() == name.lower() and (near or "").lower() != name.lower()
    if near and not is_better:
        return f"did you mean `{near}`?"
    return f"did you mean `{of_tw}`? add `from tw import {of_tw}`" if of_tw else None


_CANNOT = re.compile(r"cannot import name '([^']+)' from (?:partially initialized module )?'([^']+)'")


def _cannot_import(error: ImportError) -> tuple[str, str, str | None]:
    found = _CANNOT.match(str(error))
    if found is None:
        return "spec.import", str(error), None
    name, module = found.groups()
    message = f"`{module}` has no `{name}`"
    if "circular import" in str(error) or module in sources.loading:
        return "spec.import", message, "the modules import each other; move what both need into a third"
    if name in ALLOWED or name in DENIED:
        advice = f"; {DENIED[name][1]}" if name in DENIED else ""
        return "spec.import", message, f"it is a module of Python's: `import {name}`{advice}"
    near = nearest(name, _safe_dir(sys.modules.get(module)))
    return "spec.import", message, f"did you mean `{near}`?" if near else None
