"""The repository's files that this evaluation has run, and places in them."""

from __future__ import annotations

import linecache
from types import CodeType

Place = tuple[str, int, int, int, int]
"""File, line, column, end line, end column: from 1, columns in code points, the end exclusive."""

_lines: dict[str, list[str]] = {}


def add(path: str, source: str) -> None:
    """Makes a file known, so that its frames are recognized and tracebacks show its lines."""
    _lines[path] = source.splitlines(True)
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


def place(path: str, raw: tuple[int | None, int | None, int | None, int | None]) -> Place:
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


_positions: dict[CodeType, list[tuple[int | None, int | None, int | None, int | None]]] = {}


def position(code: CodeType, instruction: int) -> tuple[int | None, int | None, int | None, int | None]:
    """Returns the raw position of an instruction, given by its offset in bytes."""
    table = _positions.get(code)
    if table is None:
        table = _positions[code] = list(code.co_positions())
    index = instruction // 2
    return table[index] if 0 <= index < len(table) else (code.co_firstlineno, None, None, None)
