"""The base of every spec class: immutable, keyword-only, aware of where it was written.

Author JSON, what `encode` makes and the Rust side decodes:

- a spec object is ``{"__type__": "Job", "fields": {...}, "at": SPAN, "calls": [FRAME...], "spans": {...}}``;
  ``fields`` holds only what the author wrote, defaults are the decoder's;
- a SPAN is ``[file, line, column, end_line, end_column]``, counted from 1, columns in code points,
  the end exclusive; ``spans`` maps a field to the span of its value, ``env.KEY`` and ``ports.0``
  to values inside a literal; a field missing there was not written as a keyword (fall back to ``at``);
- a FRAME is ``[file, line, column, function]``: the call at ``at`` and those around it, nearest first;
- everything else is plain JSON; sets, functions and unknown objects are errors.

Without an evaluator `at`, `calls` and `spans` are left out.
"""

from __future__ import annotations

import difflib
import enum
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, MappingProxyType
from typing import Any, ClassVar, Final, Self, TypeVar, dataclass_transform

_HERE: Final = os.path.dirname(__file__) + "/"
_INT_MAX: Final = 2**63 - 1
_INT_MIN: Final = -(2**63)
_TRACE_FRAMES_MAX: Final = 32

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})
"""The default of every mapping field."""

UNSET: Final[Any] = object()
"""The default of a field that has no value unless one is given."""

type_name = "__type__"

Origin = tuple[tuple[CodeType, int], ...]
"""Where an object was made: code and instruction offset of each caller, nearest first."""


class SpecError(TypeError):
    """A mistake in a spec that the library itself noticed.

    `code` is the stable dotted code, `hint` says what would help, `argument` names
    the keyword argument that is at fault, if one is, and `origin` the call that it
    stands in, where that is not the one that raised.
    """

    def __init__(
        self, code: str, message: str, *, hint: str | None = None, argument: str | None = None
    ) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.code = code
        self.message = message
        self.hint = hint
        self.argument = argument
        self.origin: Origin | None = None


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that looks most like `name`, whatever its case, or None if none comes near."""
    by_lower: dict[str, list[str]] = {}
    for one in sorted(known):
        by_lower.setdefault(one.lower(), []).append(one)
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    if not found:
        return None
    return difflib.get_close_matches(name, by_lower[found[0]], n=1, cutoff=0.0)[0]


def _caller() -> Origin:
    """Walks from the spec class's caller outwards, leaving out this package."""
    frame = sys._getframe(1)
    calls: list[tuple[CodeType, int]] = []
    while frame is not None and len(calls) < _TRACE_FRAMES_MAX:
        if not frame.f_code.co_filename.startswith(_HERE):
            calls.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return tuple(calls)


def _freeze(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, dict):
        return MappingProxyType({key: _freeze(item) for key, item in value.items()})
    return value


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Spec:
    """Base of the spec classes. A subclass lists its fields as annotated class attributes."""

    _names: ClassVar[tuple[str, ...]] = ()
    _required: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
            raise SpecError(
                "spec.exception",
                f"`{cls.__name__}` cannot extend a spec class",
                hint=f"write a function that returns a {cls.__mro__[1].__name__} instead",
            )
        own = [n for n in cls.__dict__.get("__annotations__", {}) if not n.startswith("_")]
        cls._names = (*cls._names, *own)
        cls._required = cls._required | {n for n in own if n not in cls.__dict__}

    def __init__(self, *args: object, **fields: object) -> None:
        cls = type(self)
        if args:
            raise SpecError(
                "spec.wrong_type",
                f"`{cls.__name__}` takes keyword arguments only",
                hint=f"write `{cls.__name__}({cls._names[0]}=…)`",
            )
        _check_names(cls, fields)
        missing = [name for name in cls._names if name in cls._required and name not in fields]
        if missing:
            listed = ", ".join(f"`{name}`" for name in missing)
            raise SpecError(
                "spec.missing_field",
                f"`{cls.__name__}` needs {listed}",
                hint=f"add `{missing[0]}=…`",
            )
        origin = _caller()
        self._fill(fields, dict.fromkeys(fields, origin), origin)

    def _fill(
        self, fields: Mapping[str, object], origins: dict[str, Origin], origin: Origin
    ) -> None:
        store = self.__dict__
        for name, value in fields.items():
            store[name] = _freeze(value)
        store["_origins"] = origins
        store["_origin"] = origin

    def replace(self, **changes: object) -> Self:
        """Returns a copy in which the given fields have new values."""
        cls = type(self)
        _check_names(cls, changes)
        origin = _caller()
        made = cls.__new__(cls)
        made._fill(
            {**self._written(), **changes},
            {**self.__dict__["_origins"], **dict.fromkeys(changes, origin)},
            origin,
        )
        return made

    def _mix(self, mixins: Iterable[Spec]) -> Self:
        origin = _caller()
        made = self
        for mixin in mixins:
            if type(mixin).__name__ not in ("Mixin", type(self).__name__):
                raise SpecError(
                    "spec.wrong_type",
                    f"`{type(self).__name__}.mix` takes mixins, not {type(mixin).__name__}",
                    hint="write `Mixin(…)` with the fields that the jobs have in common",
                )
            made = _merge(made, mixin, origin)
        return made

    def _written(self) -> dict[str, Any]:
        """Returns the fields the author gave, in the order given."""
        return {name: self.__dict__[name] for name in self.__dict__["_origins"]}

    def __setattr__(self, name: str, value: object) -> None:
        raise _frozen(self, name)

    def __delattr__(self, name: str) -> None:
        raise _frozen(self, name)

    def __getattr__(self, name: str) -> Any:
        cls = type(self)
        if name.startswith("__"):
            raise AttributeError(name)
        near = nearest(name, cls._names)
        hint = f"did you mean `{near}`?" if near else "fields: " + ", ".join(cls._names)
        raise AttributeError(f"`{cls.__name__}` has no field `{name}` ({hint})")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in self._names)

    def __hash__(self) -> int:
        return hash((type(self).__name__, repr(self)))

    def __repr__(self) -> str:
        written = ", ".join(f"{name}={_show(value)}" for name, value in self._written().items())
        return f"{type(self).__name__}({written})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


_S = TypeVar("_S", bound=Spec)


def _merge(base: _S, other: Spec, origin: Origin) -> _S:
    fields = base._written()
    origins = dict(base.__dict__["_origins"])
    for name, value in other._written().items():
        fields[name] = _merge_value(fields[name], value, origin) if name in fields else value
        origins[name] = other.__dict__["_origins"][name]
    made = type(base).__new__(type(base))
    made._fill(fields, origins, origin)
    return made


def _merge_value(base: Any, value: Any, origin: Origin) -> Any:
    if isinstance(value, Spec) and type(base) is type(value):
        return _merge(base, value, origin)
    if isinstance(value, MappingProxyType) and isinstance(base, (dict, MappingProxyType)):
        return {**base, **value}
    if isinstance(value, tuple) and isinstance(base, tuple):
        return (*base, *value)
    return value


def _show(value: object) -> str:
    if isinstance(value, MappingProxyType):
        return repr(dict(value))
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_show, value)) + "]"
    return repr(value)


def _frozen(spec: Spec, name: str) -> SpecError:
    return SpecError(
        "spec.exception",
        f"`{type(spec).__name__}` objects do not change",
        hint=f"derive a new one with `.replace({name}=…)`",
    )


def _check_names(cls: type[Spec], fields: Mapping[str, object]) -> None:
    for name in fields:
        if name not in cls._names:
            near = nearest(name, cls._names)
            raise SpecError(
                "spec.unknown_field",
                f"`{cls.__name__}` has no field `{name}`",
                hint=f"did you mean `{near}`?" if near else "fields: " + ", ".join(cls._names),
                argument=name,
            )


Locate = Callable[[Spec], dict[str, Any]]
"""Gives `at`, `calls` and `spans` of an object; the evaluator supplies it."""


def encode(spec: Spec, locate: Locate | None = None) -> dict[str, Any]:
    """Returns the author JSON of `spec`; a value JSON cannot hold is a `SpecError` with its path."""
    return _encode_spec(spec, type(spec).__name__, locate)


def _encode_spec(spec: Spec, path: str, locate: Locate | None) -> dict[str, Any]:
    fields = {}
    for name, value in spec._written().items():
        try:
            fields[name] = _encode(value, f"{path}.{name}", locate)
        except SpecError as error:
            if error.origin is None:
                error.argument, error.origin = name, spec.__dict__["_origins"][name]
            raise
    encoded: dict[str, Any] = {type_name: type(spec).__name__, "fields": fields}
    if locate is not None:
        encoded.update(locate(spec))
    return encoded


def _encode(value: Any, path: str, locate: Locate | None) -> Any:
    if value is None or value is True or value is False:
        return value
    if type(value) is str:
        return _text(value, path)
    if isinstance(value, Spec):
        return _encode_spec(value, path, locate)
    if isinstance(value, enum.Enum):
        return _encode(value.value, path, locate)
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, int):
        if not _INT_MIN <= value <= _INT_MAX:
            raise _not_json(path, "is beyond 64 bits", "use a smaller number")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _not_json(path, f"is {value}", "use a finite number")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{path}[{i}]", locate) for i, item in enumerate(value)]
    if isinstance(value, (dict, MappingProxyType)):
        return _encode_mapping(value, path, locate)
    raise _not_json(path, f"is a {type(value).__name__}", _advice(value))


def _encode_mapping(
    value: Mapping[Any, Any], path: str, locate: Locate | None
) -> dict[str, Any]:
    encoded = {}
    for key, item in value.items():
        if not isinstance(key, str) or isinstance(key, enum.Enum):
            raise _not_json(path, f"has the key {key!r}, which is no string", "use string keys")
        if key == type_name:
            raise _not_json(path, f"has the key {key!r}", "that name is kept for Twill")
        encoded[_text(key, path)] = _encode(item, f"{path}.{key}", locate)
    return encoded


_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]{6,}>")


def _text(value: str, path: str) -> str:
    if " at 0x" in value and _ADDRESS.search(value):
        raise SpecError(
            "spec.nondeterministic",
            f"`{path}` holds the address of an object: {value}",
            hint="it differs each time; give the object a name or a __repr__ of its own",
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _not_json(path, "holds half a character", "use valid Unicode text") from None
    return str(value)


def _advice(value: object) -> str:
    if isinstance(value, (set, frozenset)):
        return "a set has no fixed order; use a list, or sorted(…)"
    if callable(value):
        return "call it, or give its result"
    if isinstance(value, (bytes, bytearray)):
        return "use text; .decode() it"
    if isinstance(value, Iterable):
        return "wrap it in list(…)"
    return "use numbers, text, booleans, lists, dicts and tw classes"


def _not_json(path: str, found: str, hint: str) -> SpecError:
    return SpecError("spec.wrong_type", f"`{path}` {found}", hint=hint)
