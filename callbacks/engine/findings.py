"""Results of one observer in one check, ready to be logged, drawn and printed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convscope.loggers.figures import cluster_order

Values = dict[str, dict[str, float]]
"""``values[quantity][layer]``."""

BEFORE = "–"
"""Stands on the time axis of a picture for the check before training."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """Time of a check: its step on the axis that ``self.log`` uses, its epoch, and its trigger."""

    trigger: str  # "start", "step", "validation" or "train"
    epoch: int
    step: int

    @property
    def at_epoch_end(self) -> bool:
        return self.trigger in ("validation", "train")

    @property
    def epochs_trained(self) -> int:
        """Number of finished epochs: 0 before training, 1 after epoch 0."""
        return self.epoch + self.at_epoch_end

    @property
    def label(self) -> str:
        """Time for people to read: "before training", "epoch 3" or "step 120"."""
        return {"start": "before training", "step": f"step {self.step}"}.get(self.trigger, f"epoch {self.epoch}")


@dataclass(frozen=True)
class MapSpec:
    """A learning map (layer × check) that a callback wants drawn of one of its quantities.

    Attributes:
        title: What is shown; :attr:`LayerObserver.variant` is added where there is one.
        unit: The colour bar's label.
        vmin: The least value that the quantity can have, None where there is no bound. Colours are chosen by the
            values that occur, within these bounds: see :func:`~convscope.loggers.scale.scale_of`.
        vmax: The greatest.
        start: Where colours begin, such as the accuracy of a guess; None for the least value that occurs.
        start_name: What that is called: ``"chance"``.
    """

    title: str
    unit: str
    vmin: float | None = None
    vmax: float | None = None
    start: float | None = None
    start_name: str = ""


class ClusteredMatrix(NamedTuple):
    """A matrix ``(C, C)`` of correlations, and the ``order`` ``(C,)`` in which correlated filters are neighbours."""

    matrix: Vector
    order: npt.NDArray[np.intp]


@dataclass
class LayerResult:
    """One layer's numbers in one check; NaN means that a number could not be measured, and is not logged.

    ``scalars`` are logged as ``<family>/<quantity>/<layer>``; ``distribution`` (one value per filter) becomes a
    histogram, ``matrix`` (C, C) a heat-map.
    """

    scalars: dict[str, float]
    distribution: Vector | None = None
    matrix: Vector | None = None

    @cached_property
    def clustered(self) -> ClusteredMatrix | None:
        """The matrix with its filters' order, which takes time: computed once for pictures and the record."""
        return None if self.matrix is None else ClusteredMatrix(self.matrix, cluster_order(self.matrix))


@dataclass
class Findings:
    """All that one callback found in one check, layers in depth order.

    Attributes:
        family: First part of the tags: the callback's name.
        layers: Results by layer.
        summary: Scalars over depth.
        kind: Kind of the callback, such as ``"importance"``, whatever its name; other callbacks find it by this.
    """

    family: str
    layers: dict[str, LayerResult] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    kind: str = ""

    @property
    def values(self) -> Values:
        """``values[quantity][layer]`` of the layers' scalars that were measured."""
        found: Values = {}
        for layer, result in self.layers.items():
            for quantity, value in result.scalars.items():
                if not math.isnan(value):
                    found.setdefault(quantity, {})[layer] = value
        return found

    def scalars(self, wanted: Callable[[str], bool] = lambda quantity: True) -> dict[str, float]:
        """Scalars that were measured, under their tags ``<family>/<quantity>/<layer>`` or ``<family>/<quantity>``.

        Args:
            wanted: Says of which quantities.
        """
        known = {name: value for name, value in self.summary.items() if wanted(name) and not math.isnan(value)}
        tagged = {f"{self.family}/{name}": value for name, value in known.items()}
        for quantity, by_layer in self.values.items():
            if wanted(quantity):
                tagged |= {f"{self.family}/{quantity}/{layer}": value for layer, value in by_layer.items()}
        return tagged


class History:
    """One callback's mapped quantities over all checks of the run, from which learning maps are drawn."""

    def __init__(self) -> None:
        self.epochs: list[int] = []  # that lay behind: 0 before training, 1 after epoch 0
        self.steps: list[int] = []
        self.triggers: list[str] = []
        self.rows: list[Values] = []

    def append(self, moment: Moment, values: Values) -> None:
        """Add one check."""
        self.epochs.append(moment.epochs_trained)
        self.steps.append(moment.step)
        self.triggers.append(moment.trigger)
        self.rows.append(values)

    def axis(self) -> tuple[list[float | str], str]:
        """Labels of the checks, "–" for the one before training, and what they count: epochs from 0, else steps."""
        by_epoch = "step" not in self.triggers and len(set(self.epochs)) == len(self.epochs)
        places = [epoch - 1 for epoch in self.epochs] if by_epoch else self.steps
        untrained = [t == "start" and epoch == 0 for t, epoch in zip(self.triggers, self.epochs, strict=True)]
        labels: list[float | str] = [BEFORE if u else place for u, place in zip(untrained, places, strict=True)]
        counted = "epoch" if by_epoch else "training step"
        return labels, f"{counted}  ({BEFORE}: before training)" if any(untrained) else counted

    def table(self, quantity: str, layers: list[str]) -> Vector:
        """``(layers, checks)``, NaN where a layer was not measured."""
        missing = float("nan")
        return np.array([[row.get(quantity, {}).get(layer, missing) for row in self.rows] for layer in layers])

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, so that a checkpoint loads without unpickling code."""
        return {name: list(getattr(self, name)) for name in ("epochs", "steps", "triggers", "rows")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's history."""
        self.epochs, self.steps, self.rows = (list(state[key]) for key in ("epochs", "steps", "rows"))
        # Earlier versions did not keep what triggered a check.
        self.triggers = list(state.get("triggers", ["validation" if epoch else "start" for epoch in self.epochs]))
