"""Turns files into code objects and a table of where their calls' arguments are written.

A compile job runs nothing of what it compiles, so one child does many files. What it sends is kept
under the hash of the file, and is unmarshalled only inside sealed children.
"""

from __future__ import annotations

import ast
import codecs
import marshal
import warnings
from types import CodeType
from typing import Any

import _imp
import _twill_host as host

Span = tuple[int, int, int, int]
"""Line, column, end line, end column: from 1, columns in code points, the end exclusive."""

Raw = tuple[int | None, int | None, int | None, int | None]
"""Line, end line, offset, end offset, as code positions have them: offsets in bytes from 0."""

Calls = dict[Raw, dict[str, Span]]
"""Position of a call → name of a keyword argument → where its value is written. `**` stands for what is
spread, `env.KEY` and `ports.0` for values inside a dict or list that is written out."""

_LITERAL_DEPTH_MAX = 3

SOURCE_BYTES_MAX = 1024 * 1024
"""The most bytes a file of code may have."""


def serve() -> bytes:
    """Compiles one blob after the other until the parent has no more."""
    while found := host.ask("blob", ""):
        host.send(compiled(found[2]))
    return b"{}"


def compiled(content: bytes) -> bytes:
    """Returns the marshalled code of a file and its calls; empty where compiling it says anything at all.

    An error or a warning names the file and the line, so it is left to the evaluation, which compiles again.
    """
    if len(content) > SOURCE_BYTES_MAX:
        return b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            source = decoded(content)
            tree = ast.parse(source)
            code = compile(source, "", "exec", dont_inherit=True)
            return marshal.dumps((code, marshal.dumps(calls_of(tree, source))))
    except BaseException:
        return b""


def decoded(content: bytes) -> str:
    """Returns the text of a file; one that is not UTF-8 is a `UnicodeDecodeError`."""
    text = content.decode()
    return text.removeprefix(codecs.BOM_UTF8.decode())


def loaded(code: bytes, path: str) -> tuple[CodeType, bytes]:
    """Returns the code object of the file at `path`, and its calls, still marshalled."""
    found, calls = marshal.loads(code)
    _imp._fix_co_filename(found, path)
    return found, calls


def calls(marshalled: bytes) -> Calls:
    """Returns the table that `loaded` gave."""
    found: Calls = marshal.loads(marshalled)
    return found


def calls_of(tree: ast.Module, source: str) -> Calls:
    """Makes the table of every call in a file that has keyword arguments."""
    place = _Places(source)
    found: Calls = {}
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if type(node) is ast.Call and node.keywords:
            arguments = _arguments(node, place)
            found.update((position, arguments) for position in positions(node))
        for name in node._fields:
            child = getattr(node, name)
            if type(child) is list:
                stack.extend(item for item in child if isinstance(item, ast.AST))
            elif isinstance(child, ast.AST):
                stack.append(child)
    return found


def positions(call: Any) -> list[Raw]:
    """Returns the positions that the instruction of a call may have.

    A method that is called on another line than its object begins on has the position of its name.
    """
    whole = (call.lineno, call.end_lineno, call.col_offset, call.end_col_offset)
    method = call.func
    if type(method) is not ast.Attribute or method.end_lineno == call.lineno:
        return [whole]
    name_offset = method.end_col_offset - len(method.attr)
    return [whole, (method.end_lineno, call.end_lineno, name_offset, call.end_col_offset)]


class _Places:
    """Turns nodes into spans."""

    def __init__(self, source: str) -> None:
        self._lines = None if source.isascii() else source.encode().splitlines()

    def __call__(self, node: Any) -> Span:
        start, end = node.lineno, node.end_lineno
        return (start, self._column(start, node.col_offset), end, self._column(end, node.end_col_offset))

    def _column(self, line: int, offset: int) -> int:
        if self._lines is None:
            return offset + 1
        return len(self._lines[line - 1][:offset].decode(errors="replace")) + 1


def _arguments(call: ast.Call, place: _Places) -> dict[str, Span]:
    found: dict[str, Span] = {}
    for keyword in call.keywords:
        found[keyword.arg or "**"] = place(keyword.value)
        if keyword.arg:
            _literal(keyword.arg, keyword.value, found, place, _LITERAL_DEPTH_MAX)
    return found


def _literal(name: str, node: ast.AST, found: dict[str, Span], place: _Places, depth: int) -> None:
    """Adds the spans of the values inside a list or dict that is written out."""
    if depth == 0:
        return
    if isinstance(node, (ast.List, ast.Tuple)):
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return
        items = [(str(index), item) for index, item in enumerate(node.elts)]
    elif isinstance(node, ast.Dict):
        items = [
            (key.value, value)
            for key, value in zip(node.keys, node.values)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    else:
        return
    for key, value in items:
        found[f"{name}.{key}"] = place(value)
        _literal(f"{name}.{key}", value, found, place, depth - 1)
