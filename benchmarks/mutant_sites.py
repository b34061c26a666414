"""Places where a source file can be changed so that a test should notice: mutants, as replacements of bytes."""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARISONS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn], ast.NotIn: [ast.In],
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


# Calls that fail at once with their arguments swapped, killed without any test's merit, or that do not care.
UNSWAPPED = {
    "isinstance",
    "issubclass",
    "getattr",
    "hasattr",
    "setattr",
    "partial",
    "enumerate",
    "max",
    "min",
    "math.isclose",
}


@dataclass(frozen=True)
class Mutant:
    """One change: the source between two byte offsets of a file is replaced."""

    file: str
    line: int
    kind: str
    start: int
    stop: int
    after: str

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start}-{self.stop}:{self.kind}:{self.after}"

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.stop :]

    def diff(self, source: bytes) -> str:
        before, after = (text.decode().splitlines() for text in (source, self.applied(source)))
        return "\n".join(list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:])


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST | str]]:
    """Ways to change a node: kind, the node to replace (itself or a part of it), and what takes its place."""
    match node:
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield "comparison", node, _with(node, ops=[other()])
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            yield "arithmetic", node, _with(node, op=OPERATORS[type(operator)]())
        case ast.BoolOp(op=operator):
            yield "negation", node, _with(node, op=OPERATORS[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield ("negation" if isinstance(node.op, ast.Not) else "arithmetic"), node, operand
        case ast.Constant(value=bool() as value):
            yield "constant", node, repr(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", node, repr(value + 1)
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "dropped return", value, "None"
        case ast.Call(args=[first, second, *_]) if not any(isinstance(a, ast.Starred) for a in (first, second)):
            if ast.dump(first) != ast.dump(second) and ast.unparse(node.func) not in UNSWAPPED:
                yield "swapped arguments", node, _with(node, args=[second, first, *node.args[2:]])
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield "negation", test, ast.UnaryOp(ast.Not(), test)
        case ast.comprehension(ifs=[test]):
            yield "negation", test, ast.UnaryOp(ast.Not(), test)
    yield from _bounds(node)


def _bounds(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Ends of slices and ranges that are no constants, off by one."""
    ends: list[ast.expr | None] = []
    if isinstance(node, ast.Slice):
        ends = [node.lower, node.upper]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        ends = list(node.args)
    for end in ends:
        if end is not None and not isinstance(end, ast.Constant | ast.Starred):
            yield "off by one", end, ast.BinOp(end, ast.Add(), ast.Constant(1))


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutants(path: Path, root: Path) -> list[Mutant]:
    """All mutants of a file, in the order of the source."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _places(ast.parse(source)):
        for kind, old, new in changes(node):
            begin = starts[old.lineno - 1] + old.col_offset  # type: ignore[attr-defined]
            end = starts[old.end_lineno - 1] + old.end_col_offset  # type: ignore[attr-defined]
            after = new if isinstance(new, str) else _text(new, whole=isinstance(old, ast.stmt))
            found.append(Mutant(path.relative_to(root).as_posix(), old.lineno, kind, begin, end, after))  # type: ignore[attr-defined]
    return sorted(set(found), key=lambda mutant: (mutant.start, mutant.key))


def _text(node: ast.AST, whole: bool) -> str:
    text = ast.unparse(node)
    return text if whole else f"({text})"  # whatever stands around it


def _places(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run and matter: no annotations, error messages, decorators, nor what is for the type checker alone.

    Parts of f-strings have no places of their own in Python 3.11.
    """
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and _is_type(node.right):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child)


def _is_type(node: ast.AST) -> bool:
    """Return whether this ends a union of types, ``list | tuple``, as in ``isinstance``."""
    name = ast.unparse(node).split("[")[0].split(".")[-1]
    return name in ("None", "str", "list", "tuple", "dict", "int", "float", "bool", "bytes", "set") or name.istitle()
