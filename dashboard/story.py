"""Summary of a run in about ten sentences, each made from the record's numbers; what was not measured is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convscope.dashboard.correlation import Numbers
from convscope.dashboard.moments import count, listed, moment, number, percent
from convscope.dashboard.record import Run

SCORES = ("accuracy", "balanced_accuracy", "mean_average_precision", "r2", "miou", "pixel_accuracy")
"""Quantities of a probe that say how much a layer knows; a run has one of them."""
_SETTLED = 0.99  # similarity to the previous check
_DEAD = 0.05  # share of filters
_FELL = 0.03  # score: smaller losses are noise


def sentences(run: Run, name: str) -> list[str]:
    """The summary, the most important first.

    Args:
        run: The record.
        name: Name of the run.
    """
    if not run.steps:
        return [f"{name} has no whole check yet: wait for the first one, which is made before training."]
    made = [make(run, name) for make in _SENTENCES]
    return [sentence for found in made for sentence in found]


def _size(run: Run, name: str) -> list[str]:
    spanned = f"from {moment(run, 0)} to {moment(run, -1)}" if len(run.steps) > 1 else f"at {moment(run, 0)}"
    samples = next((known["samples"] for known in run.manifest["heldout"]), None)
    measured = f", measured on {samples} held-out samples" if samples else ""
    return [f"{name}: {count(len(run.steps), 'check')} of {count(len(run.layers), 'layer')} {spanned}{measured}."]


def _incidents(run: Run, name: str) -> list[str]:
    found = run.incidents
    if not any(run.family(family)["kind"] == "probe" for family in run.families) and not found:
        return []
    if not found:
        return ["The record holds no incident."]
    severity = {"critical": 0, "warning": 1, "info": 2}
    worst = min(found, key=lambda one: (severity.get(one.get("severity", ""), 3), one.get("step", 0)))
    many = "1 incident" if len(found) == 1 else f"{len(found)} incidents, the worst"
    opened = worst.get("opened") or worst
    state = "" if "closed" not in worst else ", still open" if worst["closed"] is None else ", closed since"
    when = f"{worst.get('severity', 'warning')}, epoch {opened.get('epoch', '–')}{state}"
    told = _ended(f"{many} ({when}): {worst.get('message', '')}")
    return [f"{told} Likely: {_ended(worst['likely'])}" if worst.get("likely") else told]


def _ended(text: str) -> str:
    return text if text.rstrip()[-1:] in ".!?…" else f"{text}."


def _knowledge(run: Run, name: str) -> list[str]:
    """The best layer, what was learned where, the depth that is enough, and what was lost."""
    family, quantity, table = _first(run, "probe", SCORES)
    if table is None:
        return []
    title = str(run.family(family)["quantities"].get(quantity, {}).get("title", quantity))
    title, last = title[0].lower() + title[1:], _last(table)
    chance = run.summary(family).get("chance")
    start = float(chance[np.isfinite(chance)][-1]) if chance is not None and np.isfinite(chance).any() else None
    best = int(np.nanargmax(last))
    guess = "" if start is None else f"; a guess gives {number(start)}"
    told = [f"The last check finds the best {title} in {run.layers[best]}: {number(last[best])}{guess}."]
    return [*told, *_gains(run, table), *_enough(run, last, start), *_losses(run, table)]


def _gains(run: Run, table: Numbers) -> list[str]:
    gain = _last(table) - _first_row(table)
    if len(run.steps) < 2 or not np.isfinite(gain).any():
        return []
    most, least = int(np.nanargmax(gain)), int(np.nanargmin(gain))
    ends = [f"{run.layers[place]} ({_signed(gain[place])})" for place in (most, least)]
    if gain[most] < 0:
        return [f"No layer knows as much as {_when(run, 0)}: {ends[1]} has lost most."]
    return [f"Since {moment(run, 0)} {ends[0]} gained most{'' if most == least else f', {ends[1]} least'}."]


def _enough(run: Run, last: Numbers, start: float | None) -> list[str]:
    """The first layer with nine tenths of what the best one has above chance."""
    floor = start if start is not None else float(np.nanmin(last))
    top = float(np.nanmax(last))
    if top - floor < _FELL or len(run.layers) < 3:
        return []
    place = int(np.nonzero(last >= floor + 0.9 * (top - floor))[0][0])
    where = f"{run.layers[place]} (layer {place + 1} of {len(run.layers)})"
    over = "a guess" if start is not None else "the weakest layer"
    return [f"Nine tenths of what it has above {over} are there from {where} on."]


def _losses(run: Run, table: Numbers) -> list[str]:
    with np.errstate(invalid="ignore"):
        fell = np.nanmax(np.where(np.isnan(table), -np.inf, table), axis=0) - _last(table)
    fell = np.where(np.isfinite(fell), fell, 0.0)
    worst = int(np.argmax(fell))
    if fell[worst] < _FELL:
        return []
    peak, layers = int(np.nanargmax(table[:, worst])), int((fell >= _FELL).sum())
    most = f"{number(float(fell[worst]))} since {number(float(table[peak, worst]))} {_when(run, peak)}"
    if layers == 1:
        return [f"{run.layers[worst]} has fallen by {most}."]
    return [f"{layers} layers have fallen since their best, {run.layers[worst]} most: by {most}."]


def _when(run: Run, check: int) -> str:
    found = moment(run, check)
    return found if found.startswith("before") else f"at {found}"


def _dead(run: Run, name: str) -> list[str]:
    _, _, table = _first(run, "health", ("dead_filters",))
    if table is None:
        return []
    last = _last(table)
    many = [place for place in np.argsort(-np.nan_to_num(last)) if last[place] >= _DEAD]
    if not many:
        return ["No layer has more than one dead filter in twenty."]
    shares = [f"{run.layers[place]} ({percent(float(last[place]))})" for place in many]
    shares[0] = f"{shares[0][:-1]}, {_since(run, table[:, many[0]])})"
    return [f"Filters that are active for no held-out sample: {listed(shares)}."]


def _since(run: Run, curve: Numbers) -> str:
    """The moment from which on at least half of the last value was there."""
    below = np.nonzero(~(curve >= curve[np.isfinite(curve)][-1] / 2) & np.isfinite(curve))[0]
    if not below.size:
        return "from the start"
    return f"since {moment(run, int(below[-1]) + 1)}"


def _still(run: Run, name: str) -> list[str]:
    _, _, table = _first(run, "health", ("not_learning",))
    if table is None or not (_last(table) == 1).any():
        return []
    names = [run.layers[place] for place in np.nonzero(_last(table) == 1)[0]]
    return [f"The weights of {listed(names)} stood still at the last check while others moved."]


def _settled(run: Run, name: str) -> list[str]:
    _, _, table = _first(run, "drift", ("cka_previous",))
    if table is None:
        return []
    last = _last(table)
    settled = [run.layers[place] for place in np.nonzero(last >= _SETTLED)[0]]
    least = int(np.nanargmin(last))
    moved = f"{run.layers[least]} still changes most (CKA {number(float(last[least]))} with the check before)"
    if not settled:
        return [f"No layer has settled; {moved}."]
    if len(settled) == np.isfinite(last).sum():
        return [f"All layers have settled: a CKA of at least {_SETTLED} with the check before."]
    return [f"{listed(settled)} {'have' if len(settled) > 1 else 'has'} settled; {moved}."]


def _importance(run: Run, name: str) -> list[str]:
    family, _, table = _first(run, "importance", ("gini",))
    if table is None:
        return []
    last = _last(table)
    place = int(np.nanargmax(last))
    share = run.values(family, "top_share") if "top_share" in run.quantities(family) else None
    held = "" if share is None else f", where a tenth of the filters hold {percent(float(_last(share)[place]))} of it"
    return [f"Importance is most concentrated in {run.layers[place]} (Gini {number(float(last[place]))}){held}."]


def _redundancy(run: Run, name: str) -> list[str]:
    family, _, table = _first(run, "correlation", ("redundant_share",))
    if table is None:
        return []
    last = _last(table)
    place = int(np.nanargmax(last))
    if last[place] <= 0:
        return ["No layer has pairs of redundant filters."]
    kept = run.correlation(family, run.layers[place])
    pairs = kept.pairs(0.0) if kept is not None else []
    closest = "" if not pairs else f"; the closest are {pairs[0][0]} and {pairs[0][1]} (ρ = {number(pairs[0][2])})"
    share = percent(float(last[place]))
    return [f"{run.layers[place]} repeats itself most: {share} of its pairs of filters are redundant{closest}."]


def _rank(run: Run, name: str) -> list[str]:
    _, _, table = _first(run, "correlation", ("effective_rank_ratio",))
    if table is None:
        return []
    last = _last(table)
    low, high = int(np.nanargmin(last)), int(np.nanargmax(last))
    if low == high:
        return []
    less, more = (f"{run.layers[place]} ({percent(float(last[place]))})" for place in (low, high))
    return [f"By effective rank {less} uses the smallest share of its filters, {more} the largest."]


_SENTENCES: tuple[Callable[[Run, str], list[str]], ...] = (
    _size, _incidents, _knowledge, _dead, _still, _settled, _importance, _redundancy, _rank,
)  # fmt: skip


def _first(run: Run, kind: str, quantities: tuple[str, ...]) -> tuple[str, str, Any]:
    """Family, name and table of the first of these quantities that was measured; an empty table counts as none."""
    for family in [name for name in run.families if run.family(name)["kind"] == kind]:
        for quantity in [name for name in quantities if name in run.quantities(family)]:
            table = run.values(family, quantity)
            if np.isfinite(table).any():
                return family, quantity, table
    return "", "", None


def _last(table: Numbers) -> Numbers:
    """The last value of each layer; NaN if it has none."""
    return _edge(table[::-1])


def _first_row(table: Numbers) -> Numbers:
    return _edge(table)


def _edge(table: Numbers) -> Numbers:
    found = np.isfinite(table)
    rows = found.argmax(axis=0)
    return np.where(found.any(axis=0), table[rows, np.arange(table.shape[1])], np.nan).astype(np.float32)


def _signed(value: float) -> str:
    return f"+{number(float(value))}" if value > 0 else number(float(value)).replace("-", "−")
