"""Every metric, once: how it is made, what it is fed, and which laws its results obey.

A metric that is listed in :data:`CASES` is held to any chunking, any order of samples, renumbered channels, scales,
constants, NaN, number formats, next to no samples, several processes, and the chunks of a real network
(``tests/metrics/test_properties.py``, ``test_chunks.py``, ``test_distributed.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

import convscope.metrics as metrics
from convscope.metrics.functional import peaks

Inputs = tuple[Tensor, ...]
K, S = 3, 2  # classes or outputs, and filter sets


@dataclass(frozen=True)
class Drawn:
    """What metrics are fed, samples first: parts of one observation of a network, or draws that look like it.

    Attributes:
        activation: ``(N, C, H, W)``.
        gradient: Of the same shape.
        labels: Class indices ``(N,)``.
        outputs: ``(N, K)``, each with a part of the truth.
        masks: Class indices at positions, ``(N, H', W')``.
    """

    activation: Tensor
    gradient: Tensor
    labels: Tensor
    outputs: Tensor
    masks: Tensor

    @property
    def pooled(self) -> Tensor:
        """Means over positions ``(N, C)``."""
        return self.activation.mean((2, 3))

    @property
    def vector(self) -> Tensor:
        """One number for each channel ``(C,)``."""
        return self.activation[0, :, 0, 0]

    @property
    def other_vector(self) -> Tensor:
        """Another ``(C,)``."""
        return self.activation[0, :, 1, 1]

    @property
    def one_hot(self) -> Tensor:
        """The labels as ``(N, K)`` of 0 and 1."""
        return torch.nn.functional.one_hot(self.labels, K).float()


@dataclass(frozen=True)
class Case:
    """One metric.

    Attributes:
        make: From the number of channels.
        feed: What ``update`` takes, from what was drawn; each input with samples first.
        fewest: Samples below which it refuses to compute.
        indexed: It takes each sample's number.
        powers: Result fields that grow with that power of a factor of the first input; the others must not change.
            None where there is no such law.
        channels: Whether the first input has channels on axis 1 (0 where a metric is not of samples).
        counts_nonfinite: NaN is counted, where the others refuse it.
        one_shot: Takes one whole vector or weight, so there are no samples.
        gathers: One-shot, but a vector may come in parts, from several processes too.
        loose: Fields that follow from comparing numbers, which rounding may turn at a tie.
        correlations: Fields that are NaN, not measured, where the input does not vary.
        stops_early: Fields of a fit that stops early, in float32: they depend a little more on the chunks.
        may_be_empty: It gives what it was given, also where that was nothing.
    """

    make: Callable[[int], Metric]
    feed: Callable[[Drawn], Inputs]
    fewest: int = 1
    indexed: bool = False
    powers: dict[str, int] | None = field(default_factory=dict)
    channels: bool = True
    counts_nonfinite: bool = False
    one_shot: bool = False
    gathers: bool = False
    loose: tuple[str, ...] = ()
    correlations: frozenset[str] = frozenset()
    stops_early: tuple[str, ...] = ()
    may_be_empty: bool = False


class Outcome(metrics.InterventionOutcome):
    """Takes samples first, as the others do."""

    def update(self, losses: Tensor, hits: Tensor, target: Tensor) -> None:  # type: ignore[override]
        super().update(losses.T, hits.T, target)


class Proxy(metrics.EquivarianceProxy):
    """Takes activations, as the others do."""

    def update(self, before: Tensor, after: Tensor) -> None:  # type: ignore[override]
        super().update(peaks(before), peaks(after))


class FitScores(NamedTuple):
    """What a fit of two scales says of one image."""

    coarse: Tensor
    fine: Tensor
    coarse_r2: Tensor
    fine_r2: Tensor


class Fit(metrics.MultiScaleFit):
    """One image, whose copies are the samples; every super-pixel may have a weight, since choosing is comparing."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, channels, nonzero=1.0)

    def update(self, coarse: Tensor, fine: Tensor, output: Tensor, weight: Tensor) -> None:  # type: ignore[override]
        super().update(0, coarse, fine, output, weight)

    def compute(self) -> FitScores:  # type: ignore[override]
        self.describe(0, torch.eye(self.num_fine), torch.ones(self.num_fine), torch.ones(self.num_fine))
        found = super().compute()
        return FitScores(found.coarse[0], found.fine[0], found.coarse_r2[0], found.fine_r2[0])


class Areas(metrics.SwitchingAreas):
    """Takes images first, as the others do."""

    def update(self, curves: Tensor) -> None:  # type: ignore[override]
        for image in curves:
            super().update(image)


ALONE, PAIRS = frozenset({""}), frozenset({"mean_abs", "redundant_share"})
JUDGED = ("accuracy", "balanced_accuracy", "selectivity", "control_accuracy", "chance")
RANKED = ("mean_average_precision", "mean_iou", "chance", "selectivity", "control", "control_score", "predicted")


def probe(make: Callable[[], Metric], powers: dict[str, int] | None, **laws: object) -> Case:
    """A probe of classes on pooled features."""
    laws = {"loose": JUDGED, **laws}
    return Case(lambda c: make(), lambda d: (d.pooled, d.labels), 2, True, powers, **laws)  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "TaylorImportance": Case(metrics.TaylorImportance, lambda d: (d.activation, d.gradient), powers={"": 2}),
    "GradientActivationImportance": Case(
        metrics.GradientActivationImportance, lambda d: (d.activation, d.gradient), powers={"": 1}
    ),
    "ActivationImportance": Case(metrics.ActivationImportance, lambda d: (d.activation,), powers={"": 1}),
    "WeightImportance": Case(metrics.WeightImportance, lambda d: (d.activation[0],), powers={"": 1}, one_shot=True),
    "BatchNormImportance": Case(metrics.BatchNormImportance, lambda d: (d.vector,), powers={"": 1}, one_shot=True),
    "OutputCorrelation": Case(lambda c: metrics.OutputCorrelation(c, K), lambda d: (d.pooled, d.outputs)),
    "ChannelCorrelation": Case(
        metrics.ChannelCorrelation,
        lambda d: (d.activation,),
        powers={"mean": 1, "variance": 2, "covariance": 2},
        correlations=PAIRS,
    ),
    "ChannelMoments": Case(
        metrics.ChannelMoments, lambda d: (d.activation,), powers={"mean": 1, "variance": 2}, correlations=PAIRS
    ),
    "ChannelMean": Case(metrics.ChannelMean, lambda d: (d.pooled,), powers={"": 1}),
    "FilterActivity": Case(metrics.FilterActivity, lambda d: (d.activation,), powers={"rms": 1}, counts_nonfinite=True),
    "SignalRMS": Case(
        lambda c: metrics.SignalRMS(), lambda d: (d.activation,), powers={"rms": 1}, counts_nonfinite=True
    ),
    "LinearCKA": Case(lambda c: metrics.LinearCKA(c, K), lambda d: (d.pooled, d.outputs), 2, correlations=ALONE),
    "PooledFeatures": Case(
        metrics.PooledFeatures, lambda d: (d.pooled,), indexed=True, powers={"": 1}, may_be_empty=True
    ),
    "RidgeProbe": probe(metrics.RidgeProbe, {}),
    "LogisticProbe": probe(lambda: metrics.LogisticProbe(folds=2), None, stops_early=("scores",)),
    "KNNProbe": probe(lambda: metrics.KNNProbe(k=1), None, loose=(*JUDGED, "scores")),
    "CentroidProbe": probe(metrics.CentroidProbe, None),
    "OutputReadout": Case(
        lambda c: metrics.OutputReadout(),
        lambda d: (d.outputs, d.labels),
        indexed=True,
        powers=None,
        channels=False,
        loose=JUDGED,
    ),
    "RegressionProbe": Case(lambda c: metrics.RegressionProbe(), lambda d: (d.pooled, d.outputs), 2, True),
    "MultiLabelProbe": Case(
        lambda c: metrics.MultiLabelProbe(), lambda d: (d.pooled, d.one_hot), 2, True, loose=RANKED
    ),
    "SegmentationProbe": Case(
        lambda c: metrics.SegmentationProbe(), lambda d: (d.activation, d.masks), 2, True, None, loose=RANKED
    ),
    "FilterPartScore": Case(
        lambda c: metrics.FilterPartScore(c, side=2), lambda d: (d.activation,), indexed=True, powers=None
    ),
    "FilterPurity": Case(
        lambda c: metrics.FilterPurity(c, K),
        lambda d: (d.activation, d.labels),
        loose=("owner",),
        correlations=frozenset({"purity"}),
    ),
    "PeakInstability": Case(
        lambda c: metrics.PeakInstability(c, (8, 8), top=5),
        lambda d: (d.activation, d.outputs[:, :2, None].expand(-1, -1, 2).sigmoid()),
        indexed=True,
        correlations=ALONE,
    ),
    "EquivarianceProxy": Case(
        lambda c: Proxy(c, (8, 8), flipped=True), lambda d: (d.activation, d.gradient), correlations=ALONE
    ),
    "GiniCoefficient": Case(
        lambda c: metrics.GiniCoefficient(), lambda d: (d.vector.abs(),), one_shot=True, gathers=True
    ),
    "TopShare": Case(lambda c: metrics.TopShare(), lambda d: (d.vector.abs(),), one_shot=True, gathers=True),
    "RankStability": Case(
        lambda c: metrics.RankStability(),
        lambda d: (d.vector, d.other_vector),
        one_shot=True,
        gathers=True,
        correlations=ALONE,
    ),
    "Turnover": Case(lambda c: metrics.Turnover(), lambda d: (d.vector, d.other_vector), one_shot=True, gathers=True),
    "ImageResampling": Case(
        lambda c: metrics.ImageResampling(c, 6),
        lambda d: (d.activation.flatten(2)[..., :6], d.outputs[:, 0]),
        2,
        powers={"variance": 2, "mean": 1},
        correlations=frozenset({"influence"}),
    ),
    "ResampledImages": Case(
        metrics.ResampledImages,
        lambda d: (d.pooled, d.pooled.square(), d.pooled.abs()),
        indexed=True,
        powers={"mean": 1},
    ),
    "MultiScaleFit": Case(
        Fit,
        lambda d: (d.pooled, d.activation[..., 0, 0], d.outputs[:, 0], d.outputs[:, 1].abs()),
        powers=None,
        correlations=frozenset({"coarse_r2", "fine_r2"}),
    ),
    "SwitchingAreas": Case(
        lambda c: Areas(c, [0.0, 0.25, 1.0]), lambda d: (d.activation[:, :, :2, :3],), powers={"": 1}
    ),
    "InterventionOutcome": Case(
        lambda c: Outcome(S, K),
        lambda d: (d.activation[:, :1, 0, :S].squeeze(1).abs(), d.activation[:, 0, 1, :S] > 0, d.labels),
        powers={"loss": 1, "class_loss": 1},
        channels=False,
    ),
}
"""Every metric by its class name; a test compares the names with what ``convscope.metrics`` exports."""


def per_sample() -> list[str]:
    """Metrics that are fed samples, and so have chunks and an order."""
    return [name for name, case in CASES.items() if not case.one_shot]
