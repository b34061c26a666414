"""The quantities that say most, in the order in which a stranger would ask: columns of tables."""

from __future__ import annotations

from dataclasses import dataclass

from convscope.dashboard.record import Run
from convscope.dashboard.story import SCORES

_ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("probe", SCORES),
    ("health", ("dead_filters",)),
    ("drift", ("cka_previous",)),
    ("health", ("update_ratio",)),
    ("importance", ("gini",)),
    ("correlation", ("mean_abs",)),
    ("correlation", ("effective_rank",)),
)


@dataclass(frozen=True)
class Leading:
    """One of these quantities of a run.

    Attributes:
        family: Name of the callback.
        quantity: Name of the quantity.
        label: Its title with its unit.
    """

    family: str
    quantity: str
    label: str


def leading(run: Run) -> list[Leading]:
    """The leading quantities that a run has, each once; if it has none of them, the first few that it has."""
    found = [one for kind, names in _ORDER for one in _of_kind(run, kind, names)[:1]]
    return found or [_described(run, family, name) for family in run.families for name in run.quantities(family)][:6]


def _of_kind(run: Run, kind: str, names: tuple[str, ...]) -> list[Leading]:
    families = [family for family in run.families if run.family(family)["kind"] == kind]
    return [_described(run, family, name) for name in names for family in families if name in run.quantities(family)]


def _described(run: Run, family: str, name: str) -> Leading:
    known = run.family(family)["quantities"].get(name, {})
    title, unit = str(known.get("title") or name), str(known.get("unit") or "")
    told = not unit or unit.lower() in title.lower()
    return Leading(family, name, title if told else f"{title} ({unit})")
