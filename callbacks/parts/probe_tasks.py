"""Probes by task: the metric, its quantities, and their charts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric

from convscope.callbacks.engine.findings import MapSpec
from convscope.callbacks.parts.reading import read
from convscope.callbacks.parts.tasks import TaskName
from convscope.metrics import (
    CentroidProbe,
    KNNProbe,
    LogisticProbe,
    MultiLabelProbe,
    RegressionProbe,
    RidgeProbe,
    SegmentationProbe,
)

PROBES: dict[str, Callable[[], Metric]] = {
    "ridge": RidgeProbe,
    "logistic": LogisticProbe,
    "knn": KNNProbe,
    "centroid": CentroidProbe,
}
"""Probes of classes; the other tasks have ridge."""


@dataclass(frozen=True)
class ProbeTask:
    """Quantities of a task's probe: attributes of the metric's result, logged under their own names.

    Attributes:
        charts: Each quantity that is logged for a layer, with its chart's title.
        leading: The quantity that rates a layer: it is mapped, and summarised over depth.
        map: The learning map of it.
        column: Its title in the printed table.
    """

    charts: dict[str, str]
    leading: str
    map: MapSpec
    column: str

    @property
    def columns(self) -> dict[str, str]:
        return {self.leading: self.column}

    def scalars(self, result: Any) -> dict[str, float]:
        """The logged numbers of one layer, and ``chance``."""
        return read({quantity: getattr(result, quantity) for quantity in (*self.charts, "chance")})


PROBE_TASKS: dict[TaskName, ProbeTask] = {
    "classification": ProbeTask(
        {
            "accuracy": "accuracy of each layer",
            "balanced_accuracy": "balanced accuracy of each layer",
            "selectivity": "selectivity of each layer",
        },
        "accuracy",
        MapSpec("Probe accuracy", "accuracy", 0.0, 1.0),
        "probe acc",
    ),
    "multilabel": ProbeTask(
        {
            "mean_average_precision": "mean average precision of each layer",
            "selectivity": "selectivity (mean average precision) of each layer",
        },
        "mean_average_precision",
        MapSpec("Probe mean average precision", "mean average precision", 0.0, 1.0),
        "probe mAP",
    ),
    "regression": ProbeTask(
        {"r2": "R² of each layer", "selectivity": "selectivity (R²) of each layer"},
        "r2",
        MapSpec("Probe R²", "R² (below 0 drawn as 0)", 0.0, 1.0),
        "probe R²",
    ),
    "segmentation": ProbeTask(
        {
            "miou": "mean IoU of each layer",
            "pixel_accuracy": "pixel accuracy of each layer",
            "selectivity": "selectivity (mean IoU) of each layer",
        },
        "miou",
        MapSpec("Probe mean IoU", "mean IoU", 0.0, 1.0),
        "probe mIoU",
    ),
}


def too_few_for(probe: str, samples: int) -> str | None:
    """Reason why a probe of classes cannot be fitted to so few samples, None if it can."""
    metric = PROBES[probe]()
    if not isinstance(metric, KNNProbe) or samples > metric.k:
        return None
    return (
        f"probe='knn' asks {metric.k} neighbours of each sample, and {samples} held-out samples can be probed; raise "
        f"HeldOut(size=...) above {metric.k}"
    )


def make_probe(task: TaskName, probe: str, positions: int) -> Metric:
    """A new metric of one layer; of masks, ``positions`` per sample are read."""
    if task == "classification":
        return PROBES[probe]()
    if task == "segmentation":
        return SegmentationProbe(positions)
    return MultiLabelProbe() if task == "multilabel" else RegressionProbe()
