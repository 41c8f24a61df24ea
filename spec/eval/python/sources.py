"""The repository's files that this evaluation has run, and places in them."""

from __future__ import annotations

import ast
import linecache
from types import CodeType
from typing import Any

from . import compiler

Place = tuple[str, int, int, int, int]
"""File, line, column, end line, end column: from 1, columns in code points, the end exclusive."""

Raw = tuple[int | None, int | None, int | None, int | None]
"""Line, end line, offset, end offset, as code positions have them: offsets in bytes from 0."""

loading: set[str] = set()
"""The modules whose code is running now."""

_lines: dict[str, list[str]] = {}
_marshalled: dict[str, bytes] = {}


def add(path: str, source: str, calls: bytes = b"") -> None:
    """Makes a file known, so that its frames are recognized and tracebacks show its lines.

    `calls` is the marshalled table of its calls, where a compile job has made one.
    """
    _lines[path] = source.splitlines(True)
    _marshalled[path] = calls
    linecache.cache[path] = (len(source), None, _lines[path], path)


def text(path: str) -> str:
    """Returns the source of a known file."""
    return "".join(_lines[path])


def known(path: str) -> bool:
    """Says whether `path` is a file of the repository that has been run."""
    return path in _lines


def line(path: str, number: int) -> str | None:
    """Returns one line without its end, or None if there is none."""
    lines = _lines.get(path, [])
    return lines[number - 1].rstrip("\r\n") if 0 < number <= len(lines) else None


def column(path: str, number: int, offset_bytes: int) -> int:
    """Turns a byte offset into a line to a column."""
    found = line(path, number) or ""
    if found.isascii():
        return offset_bytes + 1
    return len(found.encode()[:offset_bytes].decode(errors="replace")) + 1


def place(path: str, raw: Raw) -> Place:
    """Turns a code position (line, end line, offset, end offset) into a place."""
    start, end, offset, end_offset = raw
    start = start or 1
    end = end or start
    return (
        path,
        start,
        column(path, start, offset or 0),
        end,
        column(path, end, end_offset or 0),
    )


_positions: dict[int, tuple[CodeType, list[Raw]]] = {}
"""By the identity of the code, whose hash would be computed from all of it; it is kept, so that no other has it."""


def position(code: CodeType, instruction: int) -> Raw:
    """Returns the raw position of an instruction, given by its offset in bytes."""
    known = _positions.get(id(code))
    if known is None:
        known = _positions[id(code)] = (code, list(code.co_positions()))
    table = known[1]
    index = instruction // 2
    return table[index] if 0 <= index < len(table) else (code.co_firstlineno, None, None, None)


_tables: dict[str, compiler.Calls] = {}


def arguments_at(path: str, raw: Raw) -> dict[str, compiler.Span] | None:
    """Returns where the arguments of the call at `raw` are written; None if it has no keywords."""
    table = _tables.get(path)
    if table is None:
        calls = _marshalled[path]
        table = compiler.calls(calls) if calls else compiler.calls_of(tree(path), text(path))
        _tables[path] = table
    return table.get(raw)


_trees: dict[str, ast.Module] = {}
_calls: dict[str, dict[Raw, ast.Call]] = {}


def tree(path: str) -> ast.Module:
    """Returns the syntax tree of a known file."""
    if path not in _trees:
        _trees[path] = ast.parse(text(path))
    return _trees[path]


def place_of(path: str, node: Any) -> Place:
    """Returns the place of a node of the file's syntax tree."""
    return place(path, (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset))


def call_at(path: str, raw: Raw) -> ast.Call | None:
    """Returns the call whose instruction has the position `raw`."""
    table = _calls.get(path)
    if table is None:
        table = _calls[path] = _calls_of(path)
    return table.get(raw)


def _calls_of(path: str) -> dict[Raw, ast.Call]:
    found: dict[Raw, ast.Call] = {}
    stack: list[Any] = [tree(path)]
    while stack:
        node = stack.pop()
        if type(node) is ast.Call:
            found.update((position, node) for position in compiler.positions(node))
        for name in node._fields:
            child = getattr(node, name)
            if type(child) is list:
                stack.extend(item for item in child if isinstance(item, ast.AST))
            elif isinstance(child, (ast.expr, ast.stmt)):
                stack.append(child)
            elif isinstance(child, ast.arguments):
                stack.extend(d for d in (*child.defaults, *child.kw_defaults) if d is not None)
    return found


def forget() -> None:
    """Knows no file any more."""
    for known_of in (_lines, _marshalled, _tables, _trees, _calls, _positions):
        known_of.clear()  # type: ignore[attr-defined]
