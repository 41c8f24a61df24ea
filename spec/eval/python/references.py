"""Which definitions the value of an argument refers to.

Names are followed through parameters to the caller, through assignments to what was
assigned, and through imports to the module that defines them. It is a reading of the
source, not of the run: what it cannot follow, it leaves out.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

from . import sources

_Calls = list[tuple[CodeType, int]]

_DEPTH_MAX = 6
_FOUND_MAX = 16

_COMPREHENSIONS = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")

modules: dict[str, ModuleType] = {}
"""The repository's modules by name; `imports` keeps its own here."""


class _Search:
    """Collects places, nearest first."""

    def __init__(self, calls: _Calls) -> None:
        self.calls = calls
        self.found: list[sources.Place] = []
        self.seen: set[tuple[str, int, int]] = set()

    def add(self, path: str, node: Any) -> bool:
        key = (path, node.lineno, node.col_offset)
        if key in self.seen or len(self.found) >= _FOUND_MAX:
            return False
        self.seen.add(key)
        self.found.append(sources.place_of(path, node))
        return True

    def expression(self, frame: int, node: ast.AST, depth: int) -> None:
        """Follows every name of an expression that was evaluated in the frame `frame`."""
        if depth == 0 or type(node) is ast.Constant:
            return
        path = self.calls[frame][0].co_filename
        for chain in _names(node):
            self.name(frame, path, chain, depth)

    def name(self, frame: int, path: str, chain: list[str], depth: int) -> None:
        """Follows a name from where it is bound: innermost scope first."""
        if self.parameter(frame, chain[0], depth) or self.local(frame, chain[0], depth):
            return
        code = self.calls[frame][0]
        if code.co_name in _COMPREHENSIONS and frame + 1 < len(self.calls):
            if not self.generated(frame, chain[0], depth):
                self.name(frame + 1, path, chain, depth)
        else:
            self.definition(path, chain, depth)

    def generated(self, frame: int, name: str, depth: int) -> bool:
        """Follows a name of a comprehension to what the comprehension goes through."""
        code = self.calls[frame][0]
        if name not in code.co_varnames:
            return False
        for node in ast.walk(sources.tree(code.co_filename)):
            if isinstance(node, ast.comprehension) and _contains(node, code) and _binds(node, name):
                self.add(code.co_filename, node.iter)
                self.expression(frame + 1, node.iter, depth - 1)
                return True
        return False

    def parameter(self, frame: int, name: str, depth: int) -> bool:
        """Follows a parameter to the argument that the caller gave, or to its default."""
        code = self.calls[frame][0]
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if name not in names or code.co_name == "<module>":
            return False
        if frame + 1 < len(self.calls):
            caller, instruction = self.calls[frame + 1]
            call = sources.call_at(caller.co_filename, sources.position(caller, instruction))
            argument = _argument(call, name, names) if call else None
            if argument is not None:
                self.add(caller.co_filename, argument)
                self.expression(frame + 1, argument, depth - 1)
                return True
        function = _function(code)
        default = _default(function.args, name) if function else None
        if default is not None:
            self.add(code.co_filename, default)
            self.definitions_in(code.co_filename, default, depth - 1)
        return True

    def passed_on(self, frame: int, starred: ast.expr, field: str, depth: int) -> None:
        """Follows `**starred` to the caller's argument `field`, where the function takes any keyword."""
        code = self.calls[frame][0]
        index = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
        own = code.co_varnames[index] if code.co_flags & inspect.CO_VARKEYWORDS else None
        if isinstance(starred, ast.Name) and starred.id == own and frame + 1 < len(self.calls):
            caller, instruction = self.calls[frame + 1]
            call = sources.call_at(caller.co_filename, sources.position(caller, instruction))
            for keyword in call.keywords if call else ():
                if keyword.arg == field:
                    self.add(caller.co_filename, keyword.value)
                    self.expression(frame + 1, keyword.value, depth - 1)
                elif keyword.arg is None:
                    self.passed_on(frame + 1, keyword.value, field, depth - 1)
        else:
            self.expression(frame, starred, depth)

    def local(self, frame: int, name: str, depth: int) -> bool:
        """Follows a local variable to the last statement that assigns it."""
        code = self.calls[frame][0]
        function = _function(code) if name in code.co_varnames else None
        statement = _assignment(function, name) if function else None
        if statement is None:
            return False
        if self.add(code.co_filename, statement):
            value = _bound_to(statement)
            if value is not None:
                self.expression(frame, value, depth - 1)
        return True

    def definition(self, path: str, chain: list[str], depth: int) -> None:
        """Follows a name of a module to the statement that defines it."""
        if depth == 0 or not sources.known(path):
            return
        statement = _top_level(path, chain[0])
        if isinstance(statement, ast.ImportFrom):
            self.imported_from(path, statement, chain, depth)
        elif isinstance(statement, ast.Import):
            self.imported(statement, chain, depth)
        elif statement is not None and self.add(path, statement):
            is_definition = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            value = statement if is_definition else _bound_to(statement)
            if value is not None:
                self.definitions_in(path, value, depth - 1)

    def definitions_in(self, path: str, node: ast.AST, depth: int) -> None:
        for chain in _names(node):
            self.definition(path, chain, depth)

    def imported_from(self, path: str, statement: ast.ImportFrom, chain: list[str], depth: int) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name) == chain[0])
        base = statement.module or ""
        if statement.level:
            package = _package_of(path).split(".")
            package = package[: len(package) - statement.level + 1]
            base = ".".join([*package, *([base] if base else [])])
        submodule = modules.get(f"{base}.{alias.name}" if base else alias.name)
        if submodule is not None and submodule.__dict__.get("__file__") and len(chain) > 1:
            self.definition(str(submodule.__file__), chain[1:], depth - 1)
            return
        module = modules.get(base)
        if module is not None and module.__dict__.get("__file__"):
            self.definition(str(module.__file__), [alias.name, *chain[1:]], depth - 1)

    def imported(self, statement: ast.Import, chain: list[str], depth: int) -> None:
        alias = next(a for a in statement.names if (a.asname or a.name.partition(".")[0]) == chain[0])
        whole = [alias.name, *chain[1:]] if alias.asname else chain
        dotted = ".".join(whole).split(".")
        for length in range(len(dotted) - 1, 0, -1):
            module = modules.get(".".join(dotted[:length]))
            if module is not None and module.__dict__.get("__file__"):
                self.definition(str(module.__file__), dotted[length:], depth - 1)
                return


def _bound_to(statement: ast.stmt) -> ast.expr | None:
    """Returns what a statement binds its names to, or to the items of."""
    return statement.iter if isinstance(statement, ast.For) else getattr(statement, "value", None)


def _contains(clause: ast.comprehension, code: CodeType) -> bool:
    """Says whether a clause is one of the comprehension that `code` runs."""
    lines = [position[0] for position in code.co_positions() if position[0]]
    return bool(lines) and min(lines) <= clause.target.lineno <= max(lines)


def _package_of(path: str) -> str:
    """Returns the name of the package that a module's file belongs to."""
    for module in modules.values():
        if module.__dict__.get("__file__") == path:
            return module.__package__ or ""
    return ""


def of_argument(calls: _Calls, call: ast.Call, field: str) -> list[sources.Place]:
    """Lists the definitions that the argument `field` of a call refers to, nearest first."""
    search = _Search(calls)
    for keyword in call.keywords:
        if keyword.arg == field:
            search.expression(0, keyword.value, _DEPTH_MAX)
        elif keyword.arg is None:
            search.passed_on(0, keyword.value, field, _DEPTH_MAX)
    return search.found


def of_entries(calls: _Calls, call: ast.Call, field: str) -> dict[str, list[sources.Place]]:
    """As `of_argument`, for each entry of an argument that is a dict written out."""
    found: dict[str, list[sources.Place]] = {}
    value = next((keyword.value for keyword in call.keywords if keyword.arg == field), None)
    if isinstance(value, ast.Dict):
        for key, entry in zip(value.keys, value.values):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                search = _Search(calls)
                search.expression(0, entry, _DEPTH_MAX)
                found[key.value] = search.found
    return found


def _names(node: ast.AST) -> Iterator[list[str]]:
    """Yields the names an expression reads, each with the attributes taken of it."""
    stack = [node]
    while stack:
        here = stack.pop()
        chain: list[str] = []
        inner = here
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield [inner.id, *reversed(chain)]
        elif inner is not here:
            stack.append(inner)
        else:
            stack.extend(reversed(list(ast.iter_child_nodes(here))))


def _argument(call: ast.Call, name: str, names: tuple[str, ...]) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    index = names.index(name)
    given = call.args[: index + 1]
    if len(given) == index + 1 and not any(isinstance(a, ast.Starred) for a in given):
        return given[index]
    return next((keyword.value for keyword in call.keywords if keyword.arg is None), None)


_functions: dict[CodeType, ast.AST | None] = {}


def _function(code: CodeType) -> Any:
    """Returns the syntax of the function that a code object was compiled from."""
    if code not in _functions:
        _functions[code] = _find_function(code)
    return _functions[code]


def _find_function(code: CodeType) -> ast.AST | None:
    for node in ast.walk(sources.tree(code.co_filename)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == code.co_name:
            first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
            if first == code.co_firstlineno:
                return node
    return None


def _default(arguments: ast.arguments, name: str) -> ast.expr | None:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    pairs = zip([*positional, *arguments.kwonlyargs], [*defaults, *arguments.defaults, *arguments.kw_defaults])
    return next((default for argument, default in pairs if argument.arg == name), None)


def _assignment(function: ast.AST, name: str) -> ast.stmt | None:
    """Returns the last statement of a function that assigns `name`."""
    found = None
    for node in ast.walk(function):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For)) and _binds(node, name):
            found = node
    return found


def _binds(statement: ast.AST, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = (node for target in targets if target is not None for node in ast.walk(target))
    return any(isinstance(node, ast.Name) and node.id == name for node in names)


def _top_level(path: str, name: str) -> ast.stmt | None:
    """Returns the last statement at the top level of a file that defines `name`."""
    return _definitions(path).get(name)


_tables: dict[str, dict[str, ast.stmt]] = {}


def _definitions(path: str) -> dict[str, ast.stmt]:
    if path not in _tables:
        table: dict[str, ast.stmt] = {}
        for statement in _statements(sources.tree(path).body):
            for name in _defined(statement):
                table[name] = statement
        _tables[path] = table
    return _tables[path]


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yields the statements of a module, those in its ifs, loops and tries included."""
    for statement in body:
        yield statement
        if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, part, []))


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield alias.asname or (alias.name if isinstance(statement, ast.ImportFrom) else alias.name.partition(".")[0])
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.For)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
