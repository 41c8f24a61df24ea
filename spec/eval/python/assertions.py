"""Makes a failed `assert` of a test say what it compared.

The operands of an assertion are kept in names of their own while it is evaluated, each
once and in order, as written; its message, which Python evaluates only on failure,
describes them. `a == b and c` becomes
`assert (@1 := a) == (@2 := b) and (@3 := c), @explain(key, locals(), message)`.
"""

from __future__ import annotations

import ast
import difflib
import pprint
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tw import GiB, MiB

from . import imports, sources

_EXPLAIN = "@explain"
_VALUE_CHARACTERS_MAX = 400
_DIFF_LINES_MAX = 60

_Kept = tuple[str, str, bool]
"""Source of a value, the name that keeps it, and whether it is written out."""

_explained: dict[int, list[_Kept]] = {}
"""Number of an assertion → the values that it keeps."""


class Explanation(str):
    """The message of a failed assertion, with the values that it compared."""

    values: list[tuple[str, str]]
    difference: list[str]


def compile_test(path: str, content: bytes) -> Any:
    """Compiles a file of tests."""
    imports.compile_source(path, content)
    source = sources.text(path)
    tree = _Rewriter(source).visit(ast.parse(source, path))
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def install(namespace: dict[str, Any]) -> None:
    """Makes the explanation known to code with these builtins."""
    namespace[_EXPLAIN] = _explain


class _Rewriter(ast.NodeTransformer):
    def __init__(self, source: str) -> None:
        self._source = source
        self._kept: list[_Kept] = []

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        self._kept = []
        test = self._observed(node.test)
        number = len(_explained)
        _explained[number] = self._kept
        call = ast.Call(
            func=ast.Name(_EXPLAIN, ast.Load()),
            args=[
                ast.Constant(number),
                ast.Call(func=ast.Name("locals", ast.Load()), args=[], keywords=[]),
                node.msg or ast.Constant(None),
            ],
            keywords=[],
        )
        return ast.copy_location(ast.Assert(test=test, msg=call), node)

    def _observed(self, node: ast.expr) -> ast.expr:
        """Keeps the values that decide about `node`."""
        if isinstance(node, ast.BoolOp):
            made: ast.expr = ast.BoolOp(node.op, [self._observed(value) for value in node.values])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            made = ast.UnaryOp(node.op, self._observed(node.operand))
        elif isinstance(node, ast.Compare):
            made = ast.Compare(
                self._keep(node.left), node.ops, [self._keep(value) for value in node.comparators]
            )
        elif isinstance(node, ast.Call) and self._is_plain(node):
            arguments = [self._keep(argument) for argument in node.args]
            made = self._keep(node, ast.Call(node.func, arguments, node.keywords))
        else:
            return self._keep(node)
        return ast.copy_location(made, node)

    def _is_plain(self, call: ast.Call) -> bool:
        return not any(isinstance(argument, ast.Starred) for argument in call.args)

    def _keep(self, node: ast.expr, made: ast.expr | None = None) -> ast.expr:
        made = made or node
        if isinstance(node, (ast.Constant, ast.NamedExpr, ast.Starred, ast.Await)):
            return made
        name = f"@{len(self._kept)}"
        text = ast.get_source_segment(self._source, node) or "value"
        self._kept.append((text, name, _is_literal(node)))
        kept = ast.NamedExpr(ast.Name(name, ast.Store()), made)
        return ast.copy_location(kept, node)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _explain(number: int, found: Mapping[str, Any], message: object) -> Explanation:
    kept = [item for item in _explained[number] if item[1] in found]
    explanation = Explanation("the assertion does not hold" if message is None else message)
    explanation.values = [
        (" ".join(text.split()), shown(found[name])) for text, name, literal in kept if not literal
    ]
    explanation.difference = _difference([found[name] for _, name, _ in kept])
    return explanation


def shown(value: object) -> str:
    """Returns a value on one line, cut where it is long."""
    try:
        text = repr(value) + _size(value)
    except Exception as error:
        text = f"<a {type(value).__name__} whose repr() raises {type(error).__name__}>"
    if len(text) <= _VALUE_CHARACTERS_MAX:
        return text
    return text[:_VALUE_CHARACTERS_MAX] + "…"


def _size(value: object) -> str:
    """Returns a number of bytes in the unit that a spec would write it in."""
    if type(value) is not int or value < MiB or value % MiB:
        return ""
    unit, name = (GiB, "GiB") if value % GiB == 0 else (MiB, "MiB")
    return f" ({value // unit} {name})"


def _difference(values: list[Any]) -> list[str]:
    """Returns the lines in which two collections or long texts differ."""
    if len(values) != 2:
        return []
    left, right = (_lines(value) for value in values)
    if max(len(left), len(right)) < 2:
        return []
    lines = [line for line in difflib.ndiff(left, right) if line[0] in "+-"]
    if len(lines) > _DIFF_LINES_MAX:
        lines = [*lines[:_DIFF_LINES_MAX], f"… and {len(lines) - _DIFF_LINES_MAX} lines more"]
    return lines


def _lines(value: object) -> list[str]:
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, MappingProxyType):
        value = dict(value)
    if isinstance(value, (dict, list, tuple)):
        return pprint.pformat(value, width=72).splitlines()
    return []
