"""Which characters of the source a value came from.

Code positions say which call made an object; the table of the file's calls says which
of the call's characters belong to which keyword argument.
"""

from __future__ import annotations

from typing import Any

from . import references, sources

_Call = dict[str, sources.Place]

with_references = False
"""Whether to follow what values refer to, which costs more than the rest of an evaluation."""



def keyword(path: str, raw: sources.Raw, name: str) -> sources.Place | None:
    """Returns where the keyword `name` itself is written in the call at `raw`."""
    call = sources.call_at(path, raw)
    for argument in call.keywords if call else ():
        if argument.arg == name:
            return sources.place_of(path, argument)
    return None


def value(path: str, raw: sources.Raw, name: str) -> sources.Place | None:
    """Returns where the value of keyword `name` is written in the call at `raw`."""
    found = (sources.arguments_at(path, raw) or {}).get(name)
    return (path, *found) if found else None


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
        raw = sources.position(*calls[0])
        places = sources.arguments_at(path, raw)
        if places is None:
            continue
        if field in places:
            prefix = field + "."
            found.update(
                (name, (path, *span))
                for name, span in places.items()
                if name == field or name.startswith(prefix)
            )
        elif "**" in places:
            found[field] = (path, *places["**"])
        node = sources.call_at(path, raw) if with_references else None
        referred = references.of_argument(calls, node, field) if node else []
        if node and referred:
            refs[field] = referred
            entries = references.of_entries(calls, node, field)
            refs.update((f"{field}.{key}", places) for key, places in entries.items())
    return {"spans": found, "refs": refs} if refs else {"spans": found}
