"""What a run had logged at each check, by tag: what rules judge, from its record and its scalars."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convscope.dashboard.record import Run
from convscope.dashboard.scalars import ScalarCurve

Logged = tuple[int, int, dict[str, float]]
"""Epoch counted from 0, training step, values by tag: those of layers in depth order."""


def logged_checks(run: Run, curves: dict[str, ScalarCurve]) -> Iterator[Logged]:
    """What alerts judged, or would have judged: after each validation or epoch.

    The record has all of it. Of a run that an older version recorded, or a part of it, these are the checks after
    validations or epochs, or at steps if there were no others; a scalar then counts at the first check at or
    after its step, the last one if there are several. Values from before training are left out, as during training.

    Args:
        run: The record.
        curves: The run's scalars by tag.
    """
    measured = [
        (step, values)
        for step, trigger, values in zip(run.steps, run.triggers, _measured(run), strict=True)
        if trigger != "start"
    ]
    known = run.logged
    old = _old_moments(run, known[0][1] if known else None)
    begin = -1
    for epoch, step, logged in [*old, *known]:
        values = {tag: value for at, found in measured if begin < at <= step for tag, value in found.items()}
        rest = _scalars(curves, begin, step, values) if logged is None else logged
        yield epoch, step, values | rest
        begin = step


def _old_moments(run: Run, end: int | None) -> list[tuple[int, int, None]]:
    """Checks before the step ``end`` of which the record holds nothing that was logged besides."""
    triggers = run.triggers
    judged = [place for place, trigger in enumerate(triggers) if trigger in ("validation", "train")]
    judged = judged or [place for place, trigger in enumerate(triggers) if trigger == "step"]
    moments = [(int(run.epochs[place]) - 1, run.steps[place], None) for place in judged]
    return [one for one in moments if end is None or one[1] < end]


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
