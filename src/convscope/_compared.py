"""Two recorded runs as one printed table: the last values of each layer, and their difference."""

from __future__ import annotations

import math

from convscope._terminal import columns
from convscope.dashboard import Run
from convscope.dashboard.leading_quantities import Leading, leading
from convscope.dashboard.moments import moment, number

Named = tuple[str, Run]


def comparison(one: Named, other: Named) -> str:
    """A table for each leading quantity that both runs have.

    Layers of the same name are compared. If no name is in both, layers of the same relative depth are.

    Raises:
        ValueError: if there is no quantity that both have measured.
    """
    shared = [found for found in leading(one[1]) if found.quantity in other[1].quantities(found.family)]
    if not shared or not one[1].steps or not other[1].steps:
        raise ValueError(f"{one[0]} and {other[0]} have no quantity in common: compare runs with the same callbacks")
    heads = [f"{mark}: {name}, {moment(run, -1)}" for mark, (name, run) in (("A", one), ("B", other))]
    return "\n".join([*heads, *(f"\n{found.label}\n{_table(one[1], other[1], found)}" for found in shared)])


def _table(one: Run, other: Run, found: Leading) -> str:
    first, second = (_last(run, found) for run in (one, other))
    rows = [(name, first[left], second[right]) for name, left, right in pairs(list(first), list(second))]
    shown = [
        (name, number(a), number(b), _signed(b - a)) for name, a, b in rows if not math.isnan(a) or not math.isnan(b)
    ]
    return columns([("layer", "A", "B", "B − A"), *shown], right=True)


def pairs(one: list[str], other: list[str]) -> list[tuple[str, str, str]]:
    """Label, and the layer of each run that is compared.

    >>> pairs(["a", "b", "x"], ["b", "a"])
    [('a', 'a', 'a'), ('b', 'b', 'b')]
    >>> pairs(["a", "b", "c"], ["k", "l"])
    [('a / k', 'a', 'k'), ('b / k', 'b', 'k'), ('c / l', 'c', 'l')]
    """
    shared = [name for name in one if name in other]
    if shared:
        return [(name, name, name) for name in shared]
    scale = (len(other) - 1) / max(len(one) - 1, 1)
    matched = [(name, other[math.floor(place * scale + 0.499)]) for place, name in enumerate(one)]
    return [(f"{left} / {right}", left, right) for left, right in matched]


def _last(run: Run, found: Leading) -> dict[str, float]:
    table = run.values(found.family, found.quantity)
    return dict(zip(run.layers, table[-1].tolist(), strict=True))


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
