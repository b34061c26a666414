"""Probes for targets that are no single class: quantities, several labels per sample, a class per position.

All are ridge regression judged out of sample in closed form; their targets differ, and so does what is called good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._features import FeatureStore
from convscope.metrics.functional._precision import as_double, is_varying
from convscope.metrics.functional._validation import check_features
from convscope.metrics.functional.positions import (
    counted_first,
    exchanged_labels,
    fair_position_scorer,
    features_at,
    spread_positions,
)
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS, check_alphas, ridge_label_predictor, ridge_predictor
from convscope.metrics.functional.scores import best_classes
from convscope.metrics.functional.tasks import (
    blind_average_precision,
    check_zero_or_one,
    control_score,
    mean_average_precision,
    mean_iou,
    r2_score,
)


class RegressionResult(NamedTuple):
    """Result of a probe of quantities.

    Attributes:
        r2: float32 scalar in [0, 1], out of sample; 0 for no better than the mean.
        chance: float32 scalar, 0: what the mean reaches.
        selectivity: float32 scalar, ``r2 - control_r2``.
        control_r2: float32 scalar, mean R² on permuted targets, about 0.
        predictions: ``(N, D)`` float64 out-of-sample predictions, samples in order of their index.
        target: ``(N, D)`` float64, in the same order.
    """

    r2: Tensor
    chance: Tensor
    selectivity: Tensor
    control_r2: Tensor
    predictions: Tensor
    target: Tensor


class MultiLabelResult(NamedTuple):
    """Result of a probe of several labels.

    Attributes:
        mean_average_precision: float32 scalar in (0, 1], out of sample.
        chance: float32 scalar in (0, 1), mean average precision of a random ranking.
        selectivity: float32 scalar, ``mean_average_precision - control_mean_average_precision``.
        control_mean_average_precision: float32 scalar, on permuted targets.
        scores: ``(N, K)`` float64 out-of-sample scores, samples in order of their index.
        target: ``(N, K)`` float64 of 0 and 1, in the same order.
    """

    mean_average_precision: Tensor
    chance: Tensor
    selectivity: Tensor
    control_mean_average_precision: Tensor
    scores: Tensor
    target: Tensor


class SegmentationResult(NamedTuple):
    """Result of a probe of positions.

    Attributes:
        miou: float32 scalar in [0, 1], mean intersection over union, whole samples left out.
        pixel_accuracy: float32 scalar in [0, 1], share of positions with the right class.
        chance: float32 scalar, mean IoU of naming the most frequent class everywhere.
        selectivity: float32 scalar, ``miou - control_miou``.
        control_miou: float32 scalar, mean IoU where each sample has the labels of another.
        predicted: ``(N, P)`` predicted classes at the positions read, samples in order of their index.
        target: ``(N, P)`` true classes, -100 where ignored.
    """

    miou: Tensor
    pixel_accuracy: Tensor
    chance: Tensor
    selectivity: Tensor
    control_miou: Tensor
    predicted: Tensor
    target: Tensor


class _RidgeStore(FeatureStore):
    """Base with the options that the probes below share."""

    higher_is_better = True

    def __init__(
        self, target_dtype: torch.dtype, alphas: Sequence[float], n_controls: int, seed: int, **kwargs: Any
    ) -> None:
        super().__init__(target_dtype, **kwargs)
        self.alphas = check_alphas(alphas)
        self.n_controls = whole_number("n_controls", n_controls)
        self.seed = whole_number("seed", seed, least=0)

    def update(self, features: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            features: ``(N, C)`` pooled activations, of any float type.
            target: ``(N, D)``, or ``(N,)`` for one column.
            index: ``(N,)`` each sample's place in the held-out set, so that order and ranks do not matter.

        Raises:
            ValueError: if shapes or types are wrong, or a number of columns changed.
        """
        check_features(features)
        columns = target[:, None] if target.ndim == 1 else target
        if columns.ndim != 2 or len(columns) != len(features):
            raise ValueError(
                f"The target must have shape ({len(features)}, D), one row per sample, got {tuple(target.shape)}."
            )
        self._collect(features, columns, index)


class RegressionProbe(_RidgeStore):
    """R² of ridge regression on quantities, by exact leave-one-out.

    Where no slope does better than the mean of the other samples, that mean is the prediction; and as R² compares with
    the mean of all samples, which has seen the sample, what is no better reads as 0, not below. Targets are
    standardised for the choice of the penalty, so that each counts equally; constant ones are left out.

    Args:
        alphas: the grid of penalties, each above 0.
        n_controls: permutations of the targets that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, targets ``(N, D)`` or ``(N,)`` and optionally indices ``(N,)``; compute gives a
    :class:`RegressionResult`.

    Raises:
        ValueError: if an option is out of range; in compute, if no target varies or a value is NaN or Inf.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> probe = RegressionProbe()
        >>> probe.update(torch.arange(8.0)[:, None], 3 * torch.arange(8.0) - 1)
        >>> probe.compute().r2
        tensor(1.0000)
    """

    def __init__(
        self, alphas: Sequence[float] = DEFAULT_ALPHAS, n_controls: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(torch.float64, alphas, n_controls, seed, **kwargs)

    def compute(self) -> RegressionResult:
        """Fit and judge the probe on everything collected, over all ranks."""
        features, target = self._canonical()
        target = as_double(target)
        mean, scale = target.mean(dim=0), _scale(target)
        standard = (target - mean) / scale
        predictor = ridge_predictor(features, standard, self.alphas, or_mean=True)

        def judge(order: Tensor) -> Tensor:
            permuted = standard[order.to(standard.device)]
            return r2_score(predictor(permuted), permuted).clamp(min=0)

        predictions = predictor(standard)
        r2 = r2_score(predictions, standard).clamp(min=0)
        control = control_score(judge, len(target), self.n_controls, self.seed)
        return RegressionResult(r2, torch.zeros_like(r2), r2 - control, control, mean + scale * predictions, target)


class MultiLabelProbe(_RidgeStore):
    """Mean average precision of ridge regression on several labels per sample, judged by exact fits without it.

    See :func:`~convscope.metrics.functional.ridge_label_predictor` for what is left out.

    Args:
        alphas: the grid of penalties, each above 0.
        n_controls: permutations of the samples' labels that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, targets ``(N, K)`` of 0 and 1 and optionally indices ``(N,)``; compute gives a
    :class:`MultiLabelResult`.

    Raises:
        ValueError: if an option is out of range or a target is not 0 or 1; in compute, if no label varies.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> probe = MultiLabelProbe()
        >>> x = torch.tensor([[0.0, 1], [0, 0], [1, 1], [1, 0], [0, 1], [1, 0]])
        >>> probe.update(x, x.long())
        >>> probe.compute().mean_average_precision
        tensor(1.)
    """

    def __init__(
        self, alphas: Sequence[float] = DEFAULT_ALPHAS, n_controls: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(torch.float64, alphas, n_controls, seed, **kwargs)

    def update(self, features: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk of features ``(N, C)`` and labels ``(N, K)`` of 0 and 1."""
        check_zero_or_one(target)
        super().update(features, target, index)

    def compute(self) -> MultiLabelResult:
        """Fit and judge the probe on everything collected, over all ranks."""
        features, target = self._canonical()
        predictor = ridge_label_predictor(features, target, self.alphas)

        def judge(order: Tensor) -> Tensor:
            permuted = target[order.to(target.device)]
            return mean_average_precision(predictor(permuted), permuted, ties="shuffled")

        scores = predictor(target)
        reached = mean_average_precision(scores, target, ties="shuffled")
        control = control_score(judge, len(target), self.n_controls, self.seed)
        return MultiLabelResult(reached, blind_average_precision(target), reached - control, control, scores, target)


class SegmentationProbe(_RidgeStore):
    """Mean IoU of ridge regression on the class of each position, every sample predicted without its own positions.

    See :func:`~convscope.metrics.functional.fair_position_scorer` for the formula. A layer's map is linearly
    interpolated to the grid of the targets, of which ``positions`` a sample are read, the same for every layer.

    Args:
        positions: positions read of each sample; all of them where there are fewer.
        alphas: the grid of penalties, each above 0.
        n_controls: exchanges of the samples' labels that selectivity averages over.
        seed: of the positions and the exchanges.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes activations ``(N, C, *S)``, class indices ``(N, *T)`` (negative ones are ignored) and optionally
    indices ``(N,)``; compute gives a :class:`SegmentationResult`.

    Raises:
        ValueError: if an option is out of range, S and T differ in their number of dimensions, or (in compute) there
            are fewer than two samples or classes.

    Source: reconstruction (linear probes, Alain & Bengio 2016).

    Example:
        >>> import torch
        >>> probe = SegmentationProbe(positions=4)
        >>> masks = torch.tensor([[[0, 1], [0, 1]], [[1, 1], [0, 0]], [[0, 0], [0, 1]]])
        >>> probe.update(masks[:, None].float(), masks)
        >>> probe.compute().miou
        tensor(1.)
    """

    def __init__(
        self,
        positions: int = 8,
        alphas: Sequence[float] = DEFAULT_ALPHAS,
        n_controls: int = 4,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(torch.int64, alphas, n_controls, seed, **kwargs)
        self.positions = whole_number("positions", positions)

    def update(self, features: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk of activations ``(N, C, *S)`` and class indices ``(N, *T)``."""
        if target.is_floating_point() or target.ndim < 2 or len(target) != len(features):
            raise ValueError(
                f"The target must hold a class index for each position of {len(features)} samples, shape (N, *T), got "
                f"{target.dtype} of shape {tuple(target.shape)}."
            )
        seen = sum(len(part) for part in self.index)
        numbers = torch.arange(seen, seen + len(target)) if index is None else index
        labels = target.to(features.device).flatten(1)
        read = min(self.positions, labels.shape[1])
        places = spread_positions(numbers.to(features.device), labels.shape[1], read, self.seed)
        rows = features_at(features, places, target.shape[1:])
        self._collect(rows.flatten(1), labels.gather(1, places), index)

    def compute(self) -> SegmentationResult:
        """Fit and judge the probe on everything collected, over all ranks."""
        features, target = self._canonical()
        features, target = counted_first(features.reshape(*target.shape, -1), target)
        scorer = fair_position_scorer(features, target, self.alphas)

        def judge(order: Tensor) -> Tensor:
            exchanged = exchanged_labels(target, order.to(target.device))
            return mean_iou(_named(scorer(exchanged), exchanged), exchanged)

        predicted = _named(scorer(target), target)
        reached = mean_iou(predicted, target)
        counted = target >= 0
        right = (predicted == target)[counted].double().mean().float()
        control = control_score(judge, len(target), self.n_controls, self.seed)
        return SegmentationResult(reached, right, _blind_iou(target), reached - control, control, predicted, target)


def _scale(target: Tensor) -> Tensor:
    """Standard deviation ``(D,)``, 1 for constant targets."""
    variance = target.var(dim=0, correction=0)
    return torch.where(is_varying(variance, target.square().mean(dim=0)), variance, 1.0).sqrt()


def _named(scores: Tensor, target: Tensor) -> Tensor:
    """Classes ``(N, P)`` with the highest scores ``(N, P, K)``, a column for each class in ``target``."""
    classes, counts = torch.unique(target[target >= 0], return_counts=True)
    named: Tensor = classes[best_classes(scores, counts).long().argmax(dim=2)]
    return named


def _blind_iou(target: Tensor) -> Tensor:
    counts: Tensor = torch.unique(target[target >= 0], return_counts=True)[1].double()
    return (counts.max() / counts.sum() / len(counts)).float()
