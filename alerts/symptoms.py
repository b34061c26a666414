"""Symptoms of a check: how far each kind of quantity has moved from its last checks, over all layers, in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from statistics import median
from typing import Any

from convscope.alerts.context import ACCURACIES, LEARNING_RATE, TRAINING_LOSSES, VALIDATION_LOSSES

WINDOW = 3  # earlier checks that a value is compared with

_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "median": median,
    "most": max,
    "least": min,
    "widest": lambda changes: max(map(abs, changes)),
    "first": lambda changes: changes[0],
    "deep": lambda changes: median(changes[len(changes) // 2 :]),
}


@dataclass(frozen=True)
class Symptom:
    """A quantity, how its change is measured, and how the changes of all layers become one number.

    Attributes:
        tags: Globs of its tags.
        scale: Change that counts as plain: it becomes tanh(1) = 0.76.
        over: ``median``, ``most``, ``least``, ``widest`` (the largest size), ``first`` (the layer nearest to the input)
            or ``deep`` (median of the deeper half) of the layers.
        logarithm: Whether the change is one of the natural logarithm, so that it means the same at any size.
        change: Whether the change counts, or the value itself.
    """

    tags: tuple[str, ...]
    scale: float
    over: str = "median"
    logarithm: bool = True
    change: bool = True


SYMPTOMS: dict[str, Symptom] = {
    "training loss": Symptom(TRAINING_LOSSES, 0.3),
    "validation loss": Symptom(VALIDATION_LOSSES, 0.3),
    "learning rate": Symptom((LEARNING_RATE,), 0.7),
    "updates": Symptom(("health/update_ratio/*",), 0.7),
    "least update": Symptom(("health/update_ratio/*",), 1.0, "least"),
    "layers that stand still": Symptom(("health/not_learning/*",), 0.5, "most", logarithm=False, change=False),
    "gradients": Symptom(("health/gradient_rms/*",), 0.7),
    "largest rise of activations": Symptom(("health/activation_rms/*",), 0.4, "most"),
    "largest fall of activations": Symptom(("health/activation_rms/*",), 0.4, "least"),
    "dead filters of one layer": Symptom(("health/dead_filters/*",), 0.1, "most", logarithm=False),
    "dead filters of most layers": Symptom(("health/dead_filters/*",), 0.1, "median", logarithm=False),
    "redundant filters": Symptom(("correlation/redundant_share/*",), 0.04, "most", logarithm=False),
    "correlation": Symptom(("correlation/mean_abs/*",), 0.05, "median", logarithm=False),
    "rank of one layer": Symptom(("correlation/effective_rank_ratio/*",), 0.2, "least"),
    "rank of most layers": Symptom(("correlation/effective_rank_ratio/*",), 0.1, "median"),
    "concentration of importance": Symptom(("importance/gini/*",), 0.1, "most", logarithm=False),
    "probes of deep layers": Symptom(("probe/accuracy/*", "probe/r2/*", "probe/miou/*"), 0.06, "deep", logarithm=False),
    "probe of the first layer": Symptom(
        ("probe/accuracy/*", "probe/r2/*", "probe/miou/*"), 0.06, "first", logarithm=False
    ),
    "likeness to the last check": Symptom(("drift/cka_previous/*",), 0.15, "least", logarithm=False),
    "likeness of the first layer": Symptom(("drift/cka_previous/*",), 0.05, "first", logarithm=False),
    "size of weights": Symptom(("health/weight_norm/*",), 0.03),
    "running statistics of one layer": Symptom(("health/statistics_change/*",), 0.8, "most"),
    "running statistics of most layers": Symptom(("health/statistics_change/*",), 0.8),
    "validation accuracy": Symptom(ACCURACIES, 0.08, logarithm=False),
    "shift of one layer": Symptom(("drift/mean_shift/*",), 0.8, "most"),
    "shift of most layers": Symptom(("drift/mean_shift/*",), 0.8, "median"),
    "shift of the first layer": Symptom(("drift/mean_shift/*",), 0.8, "first"),
    "spread of training inputs": Symptom(("batches/spread_*",), 0.1, "widest"),
    "level of training inputs": Symptom(("batches/level_*",), 0.2, "widest", logarithm=False),
    "look of training inputs": Symptom(("batches/skew_*", "batches/detail_*"), 0.2, "widest", logarithm=False),
    "training targets": Symptom(
        ("batches/class_share_*", "batches/target_level_*", "batches/target_spread_*"), 0.2, "widest", logarithm=False
    ),
    "fit of targets to inputs": Symptom(("batches/told",), 0.08, logarithm=False),
    "one place that tells targets": Symptom(("batches/told_most",), 0.2, logarithm=False),
    "repeated samples": Symptom(("batches/repeated",), 0.2, logarithm=False),
    "training gradients of zero": Symptom(("gradients/zero",), 0.2, logarithm=False),
    "size of training gradients": Symptom(("gradients/norm",), 0.3),
    "copied filters": Symptom(("correlation/copied_filters/*",), 0.1, "most", logarithm=False),
    "bias of answers": Symptom(("probe/answer_bias",), 0.1, logarithm=False),
    "validation samples in training": Symptom(("batches/validation",), 0.2, logarithm=False, change=False),
}
BROKEN = "numbers that are no numbers"


class Symptoms:
    """The last values of every tag that a symptom reads."""

    def __init__(self) -> None:
        self._past: dict[str, list[float]] = {}

    def update(self, values: Mapping[str, float]) -> dict[str, float]:
        """Take in one check; returns symptoms by name, those that cannot be told yet left out."""
        changes: dict[str, list[float]] = {}
        for tag, value in values.items():
            names = _names(tag)
            if not names or not math.isfinite(value):
                continue
            for name in names:
                change = _change(SYMPTOMS[name], value, self._past.get(tag, []))
                if change is not None:
                    changes.setdefault(name, []).append(change)
            self._past[tag] = [*self._past.get(tag, []), value][-WINDOW:]
        found = {
            name: math.tanh(_REDUCE[SYMPTOMS[name].over](moved) / SYMPTOMS[name].scale)
            for name, moved in changes.items()
        }
        return found | {BROKEN: float(not all(map(math.isfinite, values.values())))}

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {tag: list(past) for tag, past in self._past.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Continue."""
        self._past = {tag: [float(value) for value in past] for tag, past in state.items()}


@lru_cache(maxsize=65536)
def _names(tag: str) -> tuple[str, ...]:
    """Names of the symptoms that read a tag."""
    return tuple(name for name, one in SYMPTOMS.items() if any(fnmatchcase(tag, glob) for glob in one.tags))


def strongest(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Of two checks' symptoms, each at its larger size."""
    return {
        name: max((one[name] for one in (first, second) if name in one), key=abs)
        for name in dict.fromkeys([*first, *second])
    }


def _change(symptom: Symptom, value: float, past: list[float]) -> float | None:
    if not symptom.change:
        return value
    if not past:
        return None
    if symptom.logarithm:
        least = 1e-12  # an update of exactly zero is the strongest fall there is, not a missing value
        return math.log(max(value, least)) - median(math.log(max(one, least)) for one in past)
    return value - median(past)
