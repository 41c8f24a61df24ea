"""Which characters of the source a value came from.

Code positions say which call made an object; the syntax tree says which of the
call's characters belong to which keyword argument.
"""

from __future__ import annotations

import ast
from typing import Any

from . import references, sources

_Call = dict[str, sources.Place]

_arguments: dict[int, _Call] = {}
_LITERAL_DEPTH_MAX = 3

with_references = False
"""Whether to follow what values refer to, which costs more than the rest of an evaluation."""



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
        found[f"{name}.{key}"] = sources.place_of(path, value)
        _literal(path, f"{name}.{key}", value, found, depth - 1)


def _arguments_of(path: str, call: ast.Call) -> _Call:
    found = _arguments.get(id(call))
    if found is None:
        found = _arguments[id(call)] = {}
        for keyword in call.keywords:
            found[keyword.arg or "**"] = sources.place_of(path, keyword.value)
            if keyword.arg:
                _literal(path, keyword.arg, keyword.value, found, _LITERAL_DEPTH_MAX)
    return found


def keyword(path: str, raw: sources.Raw, name: str) -> sources.Place | None:
    """Returns where the keyword `name` itself is written in the call at `raw`."""
    call = sources.call_at(path, raw)
    for argument in call.keywords if call else ():
        if argument.arg == name:
            return sources.place_of(path, argument)
    return None


def value(path: str, raw: sources.Raw, name: str) -> sources.Place | None:
    """Returns where the value of keyword `name` is written in the call at `raw`."""
    call = sources.call_at(path, raw)
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
        **_spans(spec.__dict__["_origins"]),
    }


def _frame(code: Any, instruction: int) -> tuple[str, int, int, str]:
    file, line, column, _, _ = sources.place(code.co_filename, sources.position(code, instruction))
    return (file, line, column, code.co_name)


def _spans(origins: dict[str, Any]) -> dict[str, Any]:
    """Gives the place of each field's value, and of the definitions that the value refers to."""
    found: _Call = {}
    refs: dict[str, list[sources.Place]] = {}
    for field, origin in origins.items():
        calls = [call for call in origin if sources.known(call[0].co_filename)]
        if not calls:
            continue
        path = calls[0][0].co_filename
        node = sources.call_at(path, sources.position(*calls[0]))
        if node is None:
            continue
        places = _arguments_of(path, node)
        if field in places:
            found[field] = places[field]
            prefix = field + "."
            found.update((name, place) for name, place in places.items() if name.startswith(prefix))
        elif "**" in places:
            found[field] = places["**"]
        referred = references.of_argument(calls, node, field) if with_references else []
        if referred:
            refs[field] = referred
    return {"spans": found, "refs": refs} if refs else {"spans": found}
