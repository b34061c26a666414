"""Two recorded runs as one printed table: the last values of each layer, and their difference."""

from __future__ import annotations

import math

from convscope._terminal import columns
from convscope.dashboard import Run
from convscope.dashboard.leading_quantities import Leading, leading
from convscope.dashboard.moments import moment, number

Named = tuple[str, Run]
Pair = tuple[str, str, str]


def comparison(one: Named, other: Named) -> str:
    """A table for each leading quantity that both runs have; layers are matched as in the tab's view "Compare".

    Raises:
        ValueError: if there is no quantity that both have measured.
    """
    shared = [found for found in leading(one[1]) if found.quantity in other[1].quantities(found.family)]
    if not shared or not one[1].steps or not other[1].steps:
        raise ValueError(f"{one[0]} and {other[0]} have no quantity in common: compare runs with the same callbacks")
    heads = [f"{mark}: {name}, {moment(run, -1)}" for mark, (name, run) in (("A", one), ("B", other))]
    matched, how = pairs(one[1].layers, other[1].layers)
    tables = [f"\n{found.label}\n{_table(one[1], other[1], found, matched)}" for found in shared]
    return "\n".join([*heads, f"Layers are matched by {how}.", *tables])


def _table(one: Run, other: Run, found: Leading, matched: list[Pair]) -> str:
    first, second = (_last(run, found) for run in (one, other))
    nothing = float("nan")
    rows = [(label, first.get(left, nothing), second.get(right, nothing)) for label, left, right in matched]
    shown = [(label, a, b) for label, a, b in rows if not math.isnan(a) or not math.isnan(b)]
    numbers = [(label, number(a), number(b), _signed(b - a)) for label, a, b in shown]
    return columns([("layer", "A", "B", "B − A"), *numbers], right=True)


def pairs(one: list[str], other: list[str]) -> tuple[list[Pair], str]:
    """Label and layer of each run, and how they were matched.

    By name if at least half of the shallower run's names are in both, else by relative depth.

    >>> pairs(["a", "b", "x"], ["b", "a"])
    ([('a', 'a', 'a'), ('b', 'b', 'b'), ('x', 'x', 'x')], 'name')
    >>> pairs(["a", "b", "c"], ["k", "l"])
    ([('a | k', 'a', 'k'), ('b | l', 'b', 'l'), ('c | l', 'c', 'l')], 'relative depth')
    """
    if len(set(one) & set(other)) >= min(len(one), len(other)) / 2:
        return [(name, name, name) for name in one], "name"
    rows = max(len(one), len(other))
    matched = [(one[_depth(row, rows, len(one))], other[_depth(row, rows, len(other))]) for row in range(rows)]
    return [(left if left == right else f"{left} | {right}", left, right) for left, right in matched], "relative depth"


def _depth(row: int, rows: int, count: int) -> int:
    return 0 if rows < 2 else math.floor(row * (count - 1) / (rows - 1) + 0.5)


def _last(run: Run, found: Leading) -> dict[str, float]:
    table = run.values(found.family, found.quantity)
    return dict(zip(run.layers, table[-1].tolist(), strict=True))


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
