"""Which characters of the source a value came from.

Code positions say which call made an object; the syntax tree says which of the
call's characters belong to which keyword argument.
"""

from __future__ import annotations

import ast
from typing import Any

from . import sources

_Call = dict[str, sources.Place]

_calls: dict[str, dict[tuple[int, int, int, int], ast.Call]] = {}
_arguments: dict[int, _Call] = {}
_LITERAL_DEPTH_MAX = 3


def _call_at(path: str, raw: tuple[int | None, int | None, int | None, int | None]) -> ast.Call | None:
    table = _calls.get(path)
    if table is None:
        table = _calls[path] = _calls_of(path)
    return table.get(raw)  # type: ignore[arg-type]


def _calls_of(path: str) -> dict[tuple[int, int, int, int], ast.Call]:
    found = {}
    stack: list[Any] = [ast.parse(sources.text(path))]
    while stack:
        node = stack.pop()
        if type(node) is ast.Call:
            found[node.lineno, node.end_lineno, node.col_offset, node.end_col_offset] = node
        for name in node._fields:
            child = getattr(node, name)
            if type(child) is list:
                stack.extend(item for item in child if isinstance(item, ast.AST))
            elif isinstance(child, (ast.expr, ast.stmt)):
                stack.append(child)
            elif isinstance(child, ast.arguments):
                stack.extend(d for d in (*child.defaults, *child.kw_defaults) if d is not None)
    return found  # type: ignore[return-value]


def _place(path: str, node: Any) -> sources.Place:
    return sources.place(path, (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset))


def _literal(path: str, name: str, node: ast.AST, found: _Call, depth: int) -> None:
    """Adds the places of the values inside a list or dict that is written out."""
    if depth == 0:
        return
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [(str(index), item) for index, item in enumerate(node.elts)]
        if any(isinstance(item, ast.Starred) for item in node.elts):
            return
    elif isinstance(node, ast.Dict):
        items = [
            (key.value, value)
            for key, value in zip(node.keys, node.values)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    else:
        return
    for key, value in items:
        found[f"{name}.{key}"] = _place(path, value)
        _literal(path, f"{name}.{key}", value, found, depth - 1)


def _arguments_of(path: str, call: ast.Call) -> _Call:
    found = _arguments.get(id(call))
    if found is None:
        found = _arguments[id(call)] = {}
        for keyword in call.keywords:
            found[keyword.arg or "**"] = _place(path, keyword.value)
            if keyword.arg:
                _literal(path, keyword.arg, keyword.value, found, _LITERAL_DEPTH_MAX)
    return found


def keyword(path: str, raw: tuple[int | None, int | None, int | None, int | None], name: str) -> sources.Place | None:
    """Returns where the keyword `name` itself is written in the call at `raw`."""
    call = _call_at(path, raw)
    for argument in call.keywords if call else ():
        if argument.arg == name:
            return _place(path, argument)
    return None


def value(path: str, raw: tuple[int | None, int | None, int | None, int | None], name: str) -> sources.Place | None:
    """Returns where the value of keyword `name` is written in the call at `raw`."""
    call = _call_at(path, raw)
    return _arguments_of(path, call).get(name) if call else None


def locate(spec: Any) -> dict[str, Any]:
    """Gives `at`, `calls` and `spans` of a spec object, as the author JSON has them."""
    calls = [(c, i) for c, i in spec.__dict__["_origin"] if sources.known(c.co_filename)]
    if not calls:
        return {}
    code, instruction = calls[0]
    return {
        "at": sources.place(code.co_filename, sources.position(code, instruction)),
        "calls": [_frame(code, instruction) for code, instruction in calls],
        "spans": _spans(spec.__dict__["_origins"]),
    }


def _frame(code: Any, instruction: int) -> tuple[str, int, int, str]:
    file, line, column, _, _ = sources.place(code.co_filename, sources.position(code, instruction))
    return (file, line, column, code.co_name)


def _spans(origins: dict[str, Any]) -> _Call:
    found: _Call = {}
    for field, origin in origins.items():
        call = next(((c, i) for c, i in origin if sources.known(c.co_filename)), None)
        if call is None:
            continue
        path = call[0].co_filename
        node = _call_at(path, sources.position(*call))
        if node is None:
            continue
        places = _arguments_of(path, node)
        if field in places:
            found[field] = places[field]
            prefix = field + "."
            found.update((name, place) for name, place in places.items() if name.startswith(prefix))
        elif "**" in places:
            found[field] = places["**"]
    return found
