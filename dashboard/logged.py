"""What a run had logged at each check, by tag: what rules judge, from its record and its scalars."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convscope.dashboard.record import Run
from convscope.dashboard.scalars import ScalarCurve

Logged = tuple[int, int, dict[str, float]]
"""Epoch counted from 0, training step, values by tag: those of layers in depth order."""


def logged_checks(run: Run, curves: dict[str, ScalarCurve]) -> Iterator[Logged]:
    """The checks at which alerts judge: after validations or epochs, or at steps if the run had no others.

    Values from before training are left out, as during training. A scalar of the user's counts at the first check at
    or after its step; the last one if there are several.

    Args:
        run: The record.
        curves: The run's scalars by tag.
    """
    by_check = _measured(run)
    judged = [place for place, trigger in enumerate(run.triggers) if trigger in ("validation", "train")]
    judged = judged or [place for place, trigger in enumerate(run.triggers) if trigger == "step"]
    begin = -1
    for place, check in enumerate(judged):
        first = judged[place - 1] + 1 if place else next(iter(_after_start(run)), 0)
        values = {tag: value for one in range(first, check + 1) for tag, value in by_check[one].items()}
        step = run.steps[check]
        yield int(run.epochs[check]) - 1, step, values | _scalars(curves, begin, step, values)
        begin = step


def _after_start(run: Run) -> list[int]:
    return [place for place, trigger in enumerate(run.triggers) if trigger != "start"]


def _measured(run: Run) -> list[dict[str, float]]:
    """For each check the numbers of layers and over depth."""
    found: list[dict[str, float]] = [{} for _ in run.steps]
    for family in run.families:
        for quantity in run.quantities(family):
            table = run.values(family, quantity)
            # NaN stands for what was not measured; a NaN that was measured is in the health of the layer.
            for check, place in np.argwhere(~np.isnan(table)).tolist():
                found[check][f"{family}/{quantity}/{run.layers[place]}"] = float(table[check, place])
        for name, row in run.summary(family).items():
            for check in np.nonzero(~np.isnan(row))[0].tolist():
                found[check][f"{family}/{name}"] = float(row[check])
    return found


def _scalars(curves: dict[str, ScalarCurve], begin: int, step: int, known: dict[str, float]) -> dict[str, float]:
    found = {}
    for tag, curve in curves.items():
        fresh = [value for at, value in curve.items() if begin < at <= step]
        if fresh and tag not in known:
            found[tag] = fresh[-1]
    return found
