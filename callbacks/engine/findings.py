"""Results of one observer in one check, ready to be logged, drawn and printed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Values = dict[str, dict[str, float]]
"""``values[quantity][layer]``."""

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
    """A learning map (layer × check) that a callback wants drawn of one of its quantities."""

    title: str
    unit: str
    vmin: float | None = None
    vmax: float | None = None


@dataclass
class LayerResult:
    """One layer's numbers in one check; NaN means that a number could not be measured, and is not logged.

    ``scalars`` are logged as ``<family>/<quantity>/<layer>``; ``distribution`` (one value per filter) becomes a
    histogram, ``matrix`` (C, C) a heat-map.
    """

    scalars: dict[str, float]
    distribution: Vector | None = None
    matrix: Vector | None = None


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

    def scalars(self) -> dict[str, float]:
        """Every scalar that was measured, under its tag ``<family>/<quantity>/<layer>`` or ``<family>/<quantity>``."""
        known = {name: value for name, value in self.summary.items() if not math.isnan(value)}
        tagged = {f"{self.family}/{name}": value for name, value in known.items()}
        for quantity, by_layer in self.values.items():
            tagged |= {f"{self.family}/{quantity}/{layer}": value for layer, value in by_layer.items()}
        return tagged


class History:
    """One callback's mapped quantities over all checks of the run, from which learning maps are drawn."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.steps: list[int] = []
        self.rows: list[Values] = []

    def append(self, moment: Moment, values: Values) -> None:
        """Add one check."""
        self.epochs.append(moment.epochs_trained)
        self.steps.append(moment.step)
        self.rows.append(values)

    def table(self, quantity: str, layers: list[str]) -> Vector:
        """``(layers, checks)``, NaN where a layer was not measured."""
        missing = float("nan")
        return np.array([[row.get(quantity, {}).get(layer, missing) for row in self.rows] for layer in layers])

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and dicts, so that a checkpoint loads without unpickling code."""
        return {"epochs": list(self.epochs), "steps": list(self.steps), "rows": list(self.rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's history."""
        self.epochs, self.steps, self.rows = (list(state[key]) for key in ("epochs", "steps", "rows"))
