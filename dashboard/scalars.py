"""Scalars of a run's event files: the curves that the user's own code logged, beside the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR
from tensorboard.util import tensor_util

from convscope.dashboard.events import EventFile, event_files, parsed

ScalarCurve = dict[int, float]
"""Value by step."""

_LARGEST = 4096  # bytes: an event with a scalar alone is far smaller


def curves(folder: Path) -> dict[str, ScalarCurve]:
    """Curves by tag, steps in ascending order; what a resumed run wrote again replaces what it had written."""
    found: dict[str, ScalarCurve] = {}
    kinds: dict[str, int] = {}  # TensorBoard puts a tag's data class into its first event only
    for path in event_files(folder):
        for _, data in EventFile(path).events():
            event = parsed(data) if len(data) <= _LARGEST else None
            if event is None:
                continue
            for value in event.summary.value:
                kinds.setdefault(value.tag, value.metadata.data_class)
                number = _number(value, kinds[value.tag])
                if number is not None:
                    found.setdefault(value.tag, {})[event.step] = number
    return {tag: dict(sorted(curve.items())) for tag, curve in found.items()}


def _number(value: Any, kind: int) -> float | None:
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor") and kind == DATA_CLASS_SCALAR:
        return float(tensor_util.make_ndarray(value.tensor).item())
    return None


def thinned(curve: ScalarCurve, points: int = 1000) -> ScalarCurve:
    """At most ``points`` of a curve, evenly over its points, the first and the last among them.

    >>> list(thinned({step: 0.0 for step in range(10)}, 4))
    [0, 3, 6, 9]
    """
    steps = list(curve)
    if len(steps) <= points:
        return curve
    places = [round(place * (len(steps) - 1) / (points - 1)) for place in range(points)]
    return {steps[place]: curve[steps[place]] for place in places}
