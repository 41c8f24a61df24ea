"""Files of the repository, at the revision being evaluated.

Inside Twill every question goes to the evaluator's parent and joins the spec's
closure. Outside, the files come from the git root above the current folder.
Paths are relative to the repository's root.
"""

from __future__ import annotations

import os
from typing import Protocol

from ._runtime import SpecError

__all__ = ["exists", "list", "read"]

_builtin_list = list


class _Tree(Protocol):
    def read(self, path: str) -> bytes | None: ...
    def list(self, path: str) -> _builtin_list[str] | None: ...
    def exists(self, path: str) -> bool: ...


class _WorkTree:
    def __init__(self) -> None:
        self._root = _git_root(os.getcwd())

    def _at(self, path: str) -> str:
        return os.path.join(self._root, path)

    def read(self, path: str) -> bytes | None:
        try:
            with open(self._at(path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def list(self, path: str) -> _builtin_list[str] | None:
        try:
            entries = sorted(os.scandir(self._at(path)), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [e.name + ("/" if e.is_dir() else "") for e in entries if e.name != ".git"]

    def exists(self, path: str) -> bool:
        return os.path.exists(self._at(path))


def _git_root(start: str) -> str:
    folder = start
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return start
        folder = parent
    return folder


_tree: _Tree | None = None


def _get() -> _Tree:
    global _tree
    if _tree is None:
        _tree = _WorkTree()
    return _tree


def _checked(path: str) -> str:
    if not isinstance(path, str):
        raise SpecError("spec.wrong_type", f"a path is text, not a {type(path).__name__}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise SpecError(
            "spec.denied",
            f"`{path}` leaves the repository",
            hint="give a path relative to the repository's root",
        )
    return "/".join(parts)


def read(path: str) -> str:
    """Returns the text of a file; one that is missing or not UTF-8 is an error."""
    clean = _checked(path)
    data = _get().read(clean)
    if data is None:
        raise SpecError(
            "spec.not_found",
            f"the repository has no file `{clean}`",
            hint="paths are relative to the repository's root",
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SpecError("spec.wrong_type", f"`{clean}` is not UTF-8 text") from None


def exists(path: str) -> bool:
    """Says whether the repository has a file or folder at `path`."""
    return _get().exists(_checked(path))


def list(path: str = "") -> _builtin_list[str]:
    """Returns the names in a folder, sorted; the names of folders end in a slash."""
    clean = _checked(path)
    names = _get().list(clean)
    if names is None:
        raise SpecError("spec.not_found", f"the repository has no folder `{clean}`")
    return names
