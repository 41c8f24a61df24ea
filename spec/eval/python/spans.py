"""Which characters of the source a value came from.

Code positions say which call made an object; the table of the file's calls says which
of the call's characters belong to which keyword argument.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from tw._runtime import Origin

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


class _Site:
    """A call in a file of the repository. Many objects may have been made by it, in a loop or by a helper."""

    __slots__ = ("arguments", "at", "code", "frame", "path", "raw", "spread")

    def __init__(self, code: CodeType, instruction: int) -> None:
        self.code = code
        """Kept, so that no other code has its identity."""
        self.path = code.co_filename
        self.raw = sources.position(code, instruction)
        self.at = sources.place(self.path, self.raw)
        self.frame = (self.path, self.at[1], self.at[2], code.co_name)
        self.arguments: dict[str, _Call] | None = None
        """For each keyword argument where it, and what is inside it, is written."""
        self.spread: sources.Place | None = None

    def find_arguments(self) -> dict[str, _Call]:
        self.arguments = {}
        for name, span in (sources.arguments_at(self.path, self.raw) or {}).items():
            place = (self.path, *span)
            if name == "**":
                self.spread = place
            else:
                self.arguments.setdefault(name.partition(".")[0], {})[name] = place
        return self.arguments


_sites: dict[tuple[int, int], _Site] = {}
"""Calls by the identity of their code, whose hash would be computed from all of it, and their instruction."""


def _site(call: tuple[CodeType, int]) -> _Site:
    code, instruction = call
    key = (id(code), instruction)
    site = _sites.get(key)
    if site is None:
        site = _sites[key] = _Site(code, instruction)
    return site


def _known(origin: Origin) -> list[tuple[CodeType, int]]:
    """Leaves the calls that stand in files of the repository."""
    return [call for call in origin if sources.known(call[0].co_filename)]


def locate(spec: Any) -> dict[str, Any]:
    """Gives `at`, `calls` and `spans` of a spec object, as the author JSON has them."""
    sites = [_site(call) for call in _known(spec.__dict__["_origin"])]
    if not sites:
        return {}
    return {
        "at": sites[0].at,
        "calls": [site.frame for site in sites],
        **_spans(spec.__dict__["_origins"]),
    }


def _spans(origins: dict[str, Origin]) -> dict[str, Any]:
    """Gives the place of each field's value, and of the definitions that the value refers to."""
    found: _Call = {}
    refs: dict[str, list[sources.Place]] = {}
    last: Origin | None = None
    calls: list[tuple[CodeType, int]] = []
    for field, origin in origins.items():
        # Most fields of an object were given in one call.
        if origin is not last:
            last, calls = origin, _known(origin)
        if not calls:
            continue
        site = _site(calls[0])
        arguments = site.arguments
        if arguments is None:
            arguments = site.find_arguments()
        if field in arguments:
            found.update(arguments[field])
        elif site.spread:
            found[field] = site.spread
        if with_references and (arguments or site.spread):
            _refer(refs, calls, site, field)
    return {"spans": found, "refs": refs} if refs else {"spans": found}


def _refer(
    refs: dict[str, list[sources.Place]], calls: list[tuple[CodeType, int]], site: _Site, field: str
) -> None:
    """Adds the definitions that the value of a field refers to."""
    node = sources.call_at(site.path, site.raw)
    referred = references.of_argument(calls, node, field) if node else []
    if node and referred:
        refs[field] = referred
        entries = references.of_entries(calls, node, field)
        refs.update((f"{field}.{key}", places) for key, places in entries.items())


def forget() -> None:
    """Knows no call any more."""
    _sites.clear()
