"""What `import` does inside a spec: the standard library for specs, `tw`, then the repository."""

from __future__ import annotations

import builtins
import json
import posixpath
import sys
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any, NoReturn

from tw import SpecError

import _twill_host as host

from . import compiler, errors, policy, references, sources

_real_import = builtins.__import__
_repository = references.modules
spec_folder = ""
"""The folder of the spec: its modules come before those of the repository's root."""
_stand_ins: dict[str, ModuleType] = {}


def finish_with(error: dict[str, Any], fail: Callable[[bytes], None] = host.fail) -> NoReturn:
    """Ends the evaluation at once, so that no `except` in a spec can hide what it tried."""
    fail(to_json({"error": error}))
    raise AssertionError("unreachable")


def _no_value(value: object) -> NoReturn:
    raise TypeError(f"a message cannot hold {type(value).__name__}")


_encoder = json.encoder.c_make_encoder(
    None, _no_value, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)


def to_json(value: Any, encode: Callable[[Any, int], tuple[str, ...]] = _encoder) -> bytes:
    """Encodes a message; whatever a spec does to the `json` module."""
    return "".join(encode(value, 0)).encode()


class _StandIn(ModuleType):
    """Takes the place of a module that specs may not use; using a name of it is an error."""

    def __getattr__(self, name: str) -> Any:
        module = self.__name__
        if name.startswith("__"):
            raise AttributeError(name)
        code, hint, kept = policy.DENIED[module]
        if name in kept:
            return getattr(sys.modules[module], name)
        full = f"{module}.{name}"
        hint = policy.SPECIAL_HINTS.get(full, hint)
        frame = sys._getframe(1)
        finish_with(errors.at(frame, code, f"`{full}` is not available in a spec", hint))


def _stand_in(name: str) -> ModuleType:
    if name not in _stand_ins:
        _stand_ins[name] = _StandIn(name)
        parent, _, leaf = name.rpartition(".")
        if parent in policy.DENIED:
            setattr(_stand_in(parent), leaf, _stand_ins[name])
        if name == "os":
            _stand_ins[name].path = _stand_in("os.path")  # type: ignore[attr-defined]
    return _stand_ins[name]


def spec_import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """Stands in for `__import__` in code of the repository."""
    if level:
        name = _absolute(name, (globals or {}).get("__package__") or "", level)
    elif name in policy.DENIED:
        return _stand_in(name if fromlist else name.partition(".")[0])
    elif name in policy.ALLOWED or name == "tw" or name.startswith("tw."):
        return _real_import(name, globals, locals, fromlist or (), 0)
    module = _load(name)
    if not fromlist:
        return module if level else _repository[name.partition(".")[0]]
    for item in fromlist:
        if item != "*" and not hasattr(module, item) and hasattr(module, "__path__"):
            _load_if_there(f"{name}.{item}")
    return module


def _absolute(name: str, package: str, level: int) -> str:
    parts = package.split(".") if package else []
    if level > len(parts):
        raise errors.UnknownModule(
            "a relative import leads out of the package",
            "import shared modules by their path from the repository's root: `from shared.base import …`",
            name,
        )
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, name] if name else base)


def _load(name: str) -> ModuleType:
    """Loads a module of the repository, and its packages before it."""
    module = _load_if_there(name)
    if module is None:
        raise errors.UnknownModule(f"there is no module `{name}`", _module_hint(name), name)
    return module


def _load_if_there(name: str) -> ModuleType | None:
    if name in _repository:
        return _repository[name]
    parent, _, leaf = name.rpartition(".")
    above = None
    if parent:
        above = _load(parent)
        if name in _repository:
            return _repository[name]
        if not hasattr(above, "__path__"):
            return None
    found = _find(leaf, above)
    if found is None:
        return None
    kind, path, content, code = found
    module = _new_module(name, kind, path)
    if kind != "namespace":
        _run(module, name, path, content, code)
    if above is not None:
        setattr(above, leaf, module)
    return module


def _find(leaf: str, above: ModuleType | None) -> Any:
    """Looks in the package, or else beside the spec and then in the repository's root."""
    if above is not None:
        return host.ask("module", posixpath.join(above.__path__[0], leaf))
    beside = host.ask("module", posixpath.join(spec_folder, leaf)) if spec_folder else None
    return beside or host.ask("module", leaf)


def _new_module(name: str, kind: str, path: str) -> ModuleType:
    module = ModuleType(name)
    module.__builtins__ = spec_builtins  # type: ignore[attr-defined]
    if kind == "module":
        module.__package__ = name.rpartition(".")[0]
    else:
        module.__package__ = name
        module.__path__ = [path if kind == "namespace" else posixpath.dirname(path)]
    if kind != "namespace":
        module.__file__ = path
    _repository[name] = module
    sys.modules.setdefault(name, module)
    return module


def _run(module: ModuleType, name: str, path: str, content: bytes, code: bytes) -> None:
    sources.loading.add(name)
    try:
        exec(code_of(path, content, code), module.__dict__)
    except BaseException:
        # Stays among those that load: the error may be that it was imported while it did.
        del _repository[name]
        if sys.modules.get(name) is module:
            del sys.modules[name]
        raise
    sources.loading.discard(name)


def code_of(path: str, content: bytes, code: bytes) -> CodeType:
    """Makes the lines of a file known; returns its code: what a compile job made of it, or else compiled here."""
    if not code:
        return compile_source(path, content)
    loaded, calls = compiler.loaded(code, path)
    sources.add(path, compiler.decoded(content), calls)
    return loaded


def compile_source(path: str, content: bytes) -> CodeType:
    """Compiles a file of the repository and makes its lines known."""
    if len(content) > compiler.SOURCE_BYTES_MAX:
        sources.add(path, "")
        raise SpecError(
            "spec.output",
            f"`{path}` has {len(content):,} bytes; a file of code may have {compiler.SOURCE_BYTES_MAX:,}",
            hint="put data into a file of its own, and read it with tw.repo.read(path)",
        )
    try:
        source = compiler.decoded(content)
    except UnicodeDecodeError as error:
        sources.add(path, "")
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxError("the file is not UTF-8 text", (path, line, 1, None, line, 2)) from None
    sources.add(path, source)
    if "\0" in source:
        line = source.count("\n", 0, source.index("\0")) + 1
        raise SyntaxError("the file holds a NUL character", (path, line, 1, None, line, 2))
    return compile(source, path, "exec", dont_inherit=True)


def _module_hint(name: str) -> str:
    parent, _, leaf = name.rpartition(".")
    file = name.replace(".", "/") + ".tw"
    for spec in dict.fromkeys([posixpath.join(spec_folder, file), file]):
        if host.ask("exists", spec):
            return f"`{spec}` is a spec; put what both need into a module, for example `{leaf}_shared.py`"
    folders = [parent.replace(".", "/")] if parent else [*filter(None, [spec_folder]), ""]
    listings = [names[2].decode() for names in (host.ask("list", f) for f in folders) if names]
    entries = "\n".join(listings).split("\n")
    modules = {e.removesuffix(".py") for e in entries if e.endswith(".py")}
    modules |= {e[:-1] for e in entries if e.endswith("/") and e[:-1].isidentifier()}
    modules.discard("__init__")
    known = modules if parent else modules | {m for m in policy.ALLOWED if "." not in m} | {"tw"}
    near = errors.nearest(leaf, known)
    if near:
        return f"did you mean `{parent + '.' if parent else ''}{near}`?"
    if name.partition(".")[0] in sys.stdlib_module_names:
        return "specs may use only the parts of the standard library that compute: " + ", ".join(
            sorted(m for m in policy.ALLOWED if "." not in m and m != "__future__")
        )
    beside = f"`{spec_folder}` and in " if spec_folder else ""
    where = f"`{parent.replace('.', '/')}`" if parent else f"{beside}the repository's root"
    return f"looked for `{leaf}.py` and the folder `{leaf}` in {where}; packages from PyPI cannot be imported"


def _denied_builtin(name: str, hint: str) -> Any:
    def refuse(*_args: object, **_named: object) -> NoReturn:
        frame = sys._getframe(1)
        finish_with(errors.at(frame, "spec.denied", f"`{name}` is not available in a spec", hint))

    refuse.__name__ = name
    return refuse


def _stop_clocks() -> None:
    import datetime

    for owner, name in policy.DENIED_CLOCKS:
        setattr(getattr(datetime, owner), name, _denied_clock(f"datetime.{owner}.{name}"))


def _denied_clock(full: str) -> Any:
    def refuse(*_args: object, **_named: object) -> NoReturn:
        message = f"`{full}` is not available in a spec"
        finish_with(errors.at(sys._getframe(1), "spec.nondeterministic", message, policy.CLOCK_HINT))

    return staticmethod(refuse)


_stop_clocks()

spec_builtins: dict[str, Any] = {
    **builtins.__dict__,
    "__import__": spec_import,
    **{name: _denied_builtin(name, hint) for name, hint in policy.DENIED_BUILTINS.items()},
}
"""The builtins of code of the repository."""
