"""What each layer already knows: probe accuracy of a linear (or kNN, or centroid) read-out of its activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F

from convscope.callbacks.base import LayerObserver
from convscope.callbacks.findings import LayerResult, MapSpec, Values
from convscope.capture.heldout import HeldOut
from convscope.capture.observation import Record
from convscope.capture.trace import Layer
from convscope.metrics import CentroidProbe, KNNProbe, LogisticProbe, RidgeProbe
from convscope.metrics.functional import best_layer, depth_monotonicity, probe_depth
from convscope.metrics.probe import FeatureProbe

ProbeName = Literal["ridge", "logistic", "knn", "centroid"]
_PROBES: dict[str, Callable[[], FeatureProbe]] = {
    "ridge": RidgeProbe,
    "logistic": LogisticProbe,
    "knn": KNNProbe,
    "centroid": CentroidProbe,
}


class LayerProbe(LayerObserver):
    """Layer-wise probe accuracy: how well the classes can be read from each layer's pooled activations.

    A probe is fitted on the held-out activations of every layer, each sample predicted by a probe that has not
    seen it (leave-one-out; five folds for ``"logistic"``). The model is never touched. The model's output is the
    last layer, ``output``. Source: linear probes, Alain & Bengio 2016 (arXiv 1610.01644); that they are the Hybrid
    CNN-Interpreter's layer-specific prediction (arXiv 2211.00185) is a reconstruction.

    Args:
        probe: ``"ridge"`` (exact leave-one-out, cheapest), ``"logistic"``, ``"knn"`` or ``"centroid"``.
        pooling: How an activation map becomes features: ``"mean"``, ``"max"``, or a number ``p`` for the means of a
            p × p grid (``p``² · C features).
        **arguments: See :class:`~convscope.callbacks.base.LayerObserver`.

    Logged for each layer, shares in [0, 1]:
        ``probe/accuracy/<layer>``, ``probe/balanced_accuracy/<layer>`` (mean recall of the classes),
        ``probe/selectivity/<layer>`` (accuracy minus that of the same probe on permuted labels).
    Logged once a check:
        ``probe/chance`` (share of the largest class), ``probe/depth`` (place, counted from 1, of the first layer
        within 5 % of the best), ``probe/best_layer`` (place of the best), ``probe/monotonicity`` (Spearman of
        depth and accuracy, in [-1, 1]).

    With a probe other than ridge the tags begin with ``probe_<probe>/``.
    """

    family = "probe"
    charts: ClassVar[dict[str, str]] = {
        "accuracy": "accuracy of each layer",
        "balanced_accuracy": "balanced accuracy of each layer",
        "selectivity": "selectivity of each layer",
    }
    maps: ClassVar[dict[str, MapSpec]] = {"accuracy": MapSpec("Probe accuracy", "accuracy (0 to 1)", 0.0, 1.0)}
    columns: ClassVar[dict[str, str]] = {"accuracy": "probe acc", "selectivity": "selectivity"}

    def __init__(
        self, *, probe: ProbeName = "ridge", pooling: Literal["mean", "max"] | int = "mean", **arguments: Any
    ) -> None:
        if probe not in _PROBES:
            raise ValueError(f"probe={probe!r}: give one of {', '.join(map(repr, _PROBES))}")
        if pooling not in ("mean", "max") and not (isinstance(pooling, int) and pooling >= 1):
            raise ValueError(f"pooling={pooling!r}: give 'mean', 'max', or a grid size of at least 1")
        self.probe, self.pooling = probe, pooling
        super().__init__(**arguments)
        self._metrics: dict[str, FeatureProbe] = {}
        self._chance = float("nan")

    def default_name(self) -> str:
        return self.family if self.probe == "ridge" else f"{self.family}_{self.probe}"

    @property
    def includes_output(self) -> bool:
        return True

    def skips(self, heldout: HeldOut, no_loss: str | None) -> str | None:
        return unfit_for_classes(heldout)

    def begin(self, layers: list[Layer], samples: int) -> None:
        self._metrics = {layer.name: _PROBES[self.probe]() for layer in layers}

    def on_activation(self, record: Record) -> None:
        metric = self._metrics[record.layer.name]
        features = self._pool(record)
        metric.to(features.device).update(features, record.targets, record.index)

    def compute(self, layer: Layer) -> LayerResult:
        result = self._metrics[layer.name].compute()
        self._chance = float(result.chance)
        return LayerResult(
            {
                "accuracy": float(result.accuracy),
                "balanced_accuracy": float(result.balanced_accuracy),
                "selectivity": float(result.selectivity),
            }
        )

    def summarise(self, values: Values) -> dict[str, float]:
        accuracy = torch.tensor(list(values.get("accuracy", {}).values()))
        if len(accuracy) == 0:
            return {}
        return {
            "chance": self._chance,
            "depth": float(probe_depth(accuracy)) + 1,
            "best_layer": float(best_layer(accuracy)) + 1,
            "monotonicity": float(depth_monotonicity(accuracy)),
        }

    def end(self) -> None:
        self._metrics = {}

    def _pool(self, record: Record) -> torch.Tensor:
        activation = record.activation
        if self.pooling == "mean" or activation.dim() == 2:
            return record.pooled
        if self.pooling == "max":
            return activation.flatten(2).amax(-1).to(record.pooled.dtype)
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[activation.dim() - 3]
        return pool(activation.to(record.pooled.dtype), self.pooling).flatten(1)


def unfit_for_classes(heldout: HeldOut) -> str | None:
    """Why nothing can be read off as a class here, None where it can.

    Raises:
        ValueError: The targets are classes, but faulty or too few.
    """
    targets = heldout.targets
    if targets is None:
        return "the held-out batches have no targets to predict"
    if targets.is_floating_point() and targets.dim() == 2 and _soft(targets):
        raise ValueError(
            f"held-out targets are soft labels {tuple(targets.shape)}, but a probe needs class indices (N,); pass "
            "HeldOut(adapter=lambda batch: (batch[0], batch[1].argmax(1)))"
        )
    if targets.dim() != 1 or targets.is_floating_point():
        return f"its targets {tuple(targets.shape)} of {targets.dtype} are not class indices (N,)"
    _check_classes(targets, heldout.total)
    return None


def _soft(targets: torch.Tensor) -> bool:
    sums = targets.sum(1)
    return (
        targets.shape[1] > 1 and bool((targets >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    )


def _check_classes(targets: torch.Tensor, samples: int) -> None:
    classes = targets.unique()
    if len(classes) < 2:
        raise ValueError(
            f"every held-out sample has class {int(classes[0])}: a probe needs at least two classes; "
            "use a shuffled or stratified source, or a larger HeldOut(size=...)"
        )
    if samples < 2 * len(classes):
        raise ValueError(
            f"the held-out set has {samples} samples of {len(classes)} classes: a probe needs at least two samples a "
            f"class; raise HeldOut(size=...) to {2 * len(classes)} or, better, to {20 * len(classes)}"
        )
