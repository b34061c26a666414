"""Layer probes: what a simple classifier can read off a layer's pooled activation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope.metrics._base import NO_INDEX, GatheringMetric, canonical_order
from convscope.metrics.functional._validation import (
    check_features,
    check_index,
    check_positive_int,
    check_target,
)
from convscope.metrics.functional.logistic import check_logistic, logistic_scorer
from convscope.metrics.functional.neighbours import centroid_scorer, knn_scorer
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS, check_alphas, ridge_scorer
from convscope.metrics.functional.scores import (
    Scorer,
    balanced_accuracy,
    chance_level,
    control_accuracy,
    encode_classes,
    probe_accuracy,
)


class ProbeResult(NamedTuple):
    """What a probe computes.

    Attributes:
        accuracy: float32 scalar in [0, 1], out of sample.
        balanced_accuracy: float32 scalar in [0, 1], mean recall over the classes present.
        chance: float32 scalar, share of the most frequent class.
        selectivity: float32 scalar in [-1, 1], ``accuracy - control_accuracy``.
        control_accuracy: float32 scalar in [0, 1], mean accuracy on permuted labels.
        scores: ``(N, K)`` float64 out-of-sample scores, samples in order of their index.
        target: ``(N,)`` class indices in the same order.
        classes: ``(K,)`` the classes that the columns stand for.
    """

    accuracy: Tensor
    balanced_accuracy: Tensor
    chance: Tensor
    selectivity: Tensor
    control_accuracy: Tensor
    scores: Tensor
    target: Tensor
    classes: Tensor


class FeatureProbe(GatheringMetric):
    """What the probes share: features are collected, put in the order of their index, and scored by ``_scorer``.

    Features are kept in float32 whatever they came in, so that a rank that saw none can take part in a gather.
    """

    higher_is_better = True
    features: list[Tensor]
    targets: list[Tensor]
    index: list[Tensor]
    width: Tensor

    def __init__(self, n_controls: int, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int("n_controls", n_controls)
        self.n_controls = n_controls
        self.seed = seed
        self._add_lists(features=torch.float32, targets=torch.int64, index=torch.int64)
        self.add_state("width", default=torch.tensor(0), dist_reduce_fx="max")

    @abstractmethod
    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        """The probe prepared on features in canonical order."""

    def update(self, features: Tensor, target: Tensor, index: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            features: ``(N, C)`` pooled activations, of any float type.
            target: ``(N,)`` class indices.
            index: ``(N,)`` each sample's place in the held-out set. With it the result depends neither on the order
                of chunks nor on ranks, and a sample that comes twice (a padded distributed sampler) counts once.

        Raises:
            ValueError: if shapes or types are wrong, or the number of features changed.
        """
        check_features(features)
        check_target(target, len(features))
        self._check_width(features.shape[1])
        places = torch.full_like(target, NO_INDEX, dtype=torch.int64) if index is None else index
        check_index(places, len(features), given=index is not None)
        self._append("features", features)
        self._append("targets", target)
        self._append("index", places)

    def compute(self) -> ProbeResult:
        """Fit and judge the probe on everything collected, over all ranks.

        Raises:
            ValueError: if there is no sample, only one class, a feature that is NaN or Inf, or only some chunks
                came with an index.
        """
        features, target = self._canonical()
        scorer = self._scorer(features, target)
        scores = scorer(target)
        accuracy = probe_accuracy(scores, target)
        control = control_accuracy(scorer, target, self.n_controls, self.seed)
        classes = encode_classes(target)[0]
        chance = chance_level(target)
        balanced = balanced_accuracy(scores, target)
        return ProbeResult(accuracy, balanced, chance, accuracy - control, control, scores, target, classes)

    def numbers(self) -> Tensor:
        """``(N,)`` the index of each row of the result, over all ranks; like compute, to be called on every rank."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            index = self._joined("index")
        known = index[index >= 0]
        return torch.unique(known) if len(known) else torch.arange(len(index), device=index.device)

    def _canonical(self) -> tuple[Tensor, Tensor]:
        target, index = self._joined("targets"), self._joined("index")
        features = self._joined("features").reshape(len(target), int(self.width))
        order = canonical_order(index)
        return features[order], target[order]

    def _check_width(self, width: int) -> None:
        if int(self.width) not in (0, width):
            raise ValueError(
                f"The features must have {int(self.width)} columns as in earlier chunks, got {width}. "
                "Use one metric for each layer."
            )
        self.width.fill_(width)


class RidgeProbe(FeatureProbe):
    """Accuracy of ridge regression on one-hot targets, by exact leave-one-out.

    See :func:`~convscope.metrics.functional.ridge_probe_scores` for the formula. The control labels are judged by
    the hat matrix that the true labels chose.

    Args:
        alphas: the grid of penalties, each above 0.
        n_controls: permutations of the labels that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, class indices ``(N,)`` and optionally indices ``(N,)``; compute gives a
    :class:`ProbeResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> probe = RidgeProbe()
        >>> probe.update(torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> probe.compute().accuracy
        tensor(1.)
    """

    def __init__(
        self, alphas: Sequence[float] = DEFAULT_ALPHAS, n_controls: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(n_controls, seed, **kwargs)
        check_alphas(alphas)
        self.alphas = tuple(alphas)

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return ridge_scorer(features, target, self.alphas)


class LogisticProbe(FeatureProbe):
    """Out-of-fold accuracy of multinomial logistic regression.

    See :func:`~convscope.metrics.functional.logistic_probe_scores`. Each control labelling costs another fit, hence
    one by default.

    Args:
        folds: number of stratified folds.
        l2: penalty; ``LogisticRegression(C=1 / l2)`` in scikit-learn.
        max_iter: bound on L-BFGS iterations.
        n_controls: permutations of the labels that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, class indices ``(N,)`` and optionally indices ``(N,)``; compute gives a
    :class:`ProbeResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> probe = LogisticProbe(folds=3)
        >>> probe.update(torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> probe.compute().accuracy
        tensor(1.)
    """

    def __init__(
        self,
        folds: int = 5,
        l2: float = 1.0,
        max_iter: int = 100,
        n_controls: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(n_controls, seed, **kwargs)
        check_logistic(folds, l2, max_iter)
        self.folds, self.l2, self.max_iter = folds, l2, max_iter

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return logistic_scorer(features, target, self.folds, self.l2, self.max_iter)


class KNNProbe(FeatureProbe):
    """Leave-one-out accuracy of the vote of the nearest neighbours.

    See :func:`~convscope.metrics.functional.knn_probe_scores`.

    Args:
        k: neighbours that vote, below the number of samples.
        n_controls: permutations of the labels that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, class indices ``(N,)`` and optionally indices ``(N,)``; compute gives a
    :class:`ProbeResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> probe = KNNProbe(k=2)
        >>> probe.update(torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> probe.compute().accuracy
        tensor(1.)
    """

    def __init__(self, k: int = 20, n_controls: int = 4, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(n_controls, seed, **kwargs)
        check_positive_int("k", k)
        self.k = k

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return knn_scorer(features, target, self.k)


class CentroidProbe(FeatureProbe):
    """Leave-one-out accuracy of the nearest class mean.

    See :func:`~convscope.metrics.functional.centroid_probe_scores`.

    Args:
        n_controls: permutations of the labels that selectivity averages over.
        seed: of the permutations.
        kwargs: passed to :class:`torchmetrics.Metric`.

    Update takes features ``(N, C)``, class indices ``(N,)`` and optionally indices ``(N,)``; compute gives a
    :class:`ProbeResult`.

    Raises:
        ValueError: if an option is out of range.

    Source: reconstruction.

    Example:
        >>> import torch
        >>> probe = CentroidProbe()
        >>> probe.update(torch.tensor([0.0, 1, 2, 8, 9, 10])[:, None], torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> probe.compute().accuracy
        tensor(1.)
    """

    def __init__(self, n_controls: int = 4, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(n_controls, seed, **kwargs)

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return centroid_scorer(features, target)
