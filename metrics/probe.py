"""Layer probes: simple classifiers fitted on a layer's pooled activation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convscope._arguments import whole_number
from convscope.metrics._features import FeatureStore
from convscope.metrics.functional._validation import check_features, check_target
from convscope.metrics.functional.logistic import check_logistic, logistic_scorer
from convscope.metrics.functional.neighbours import centroid_scorer, knn_scorer
from convscope.metrics.functional.ridge import DEFAULT_ALPHAS, check_alphas, ridge_scorer
from convscope.metrics.functional.scores import (
    EncodedLabels,
    Scorer,
    chance_level,
    judge,
    labels_of,
)


class ProbeResult(NamedTuple):
    """Result of a probe of classes.

    Attributes:
        accuracy: float32 scalar in [0, 1], out of sample.
        balanced_accuracy: float32 scalar in [0, 1], mean recall over the classes present.
        chance: float32 scalar, share of the most frequent class: what a probe reaches that knows nothing.
        selectivity: float32 scalar in [-1, 1], ``accuracy - control_accuracy``.
        control_accuracy: float32 scalar in [0, 1], mean accuracy on permuted labels.
        scores: ``(N, K)`` float64 out-of-sample scores, samples in order of their index. A sample that is the only one
            of its class cannot be predicted from others: it has no row, and its class no column.
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


class FeatureProbe(FeatureStore):
    """Base of the probes of classes: features are collected, put in order, and scored by ``_scorer``."""

    higher_is_better = True
    fewest = 2
    """Samples that a class must have to be probed."""

    def __init__(self, n_controls: int = 4, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(torch.int64, **kwargs)
        self.n_controls = whole_number("n_controls", n_controls)
        self.seed = whole_number("seed", seed, least=0)

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
        self._collect(features, target, index)

    def compute(self) -> ProbeResult:
        """Fit and judge the probe on everything collected, over all ranks.

        Raises:
            ValueError: if there is no sample, fewer than two classes with two samples, a feature that is NaN or Inf,
                or only some chunks came with an index.
        """
        features, targets = self._canonical()
        features, labels = _enough_of_each(features, labels_of(targets.flatten()), self.fewest)
        scorer = self._scorer(features, labels.target)
        scores, accuracy, balanced, control = judge(scorer, labels, self.n_controls, self.seed)
        chance = chance_level(labels.target)
        return ProbeResult(
            accuracy, balanced, chance, accuracy - control, control, scores, labels.target, labels.classes
        )


def _enough_of_each(features: Tensor, labels: EncodedLabels, fewest: int) -> tuple[Tensor, EncodedLabels]:
    """Samples whose class has at least ``fewest`` of them."""
    enough = sum(size >= fewest for size in labels.sizes)
    if len(labels.sizes) < 2 or enough == len(labels.sizes):
        return features, labels
    if enough < 2:
        raise ValueError(
            f"{enough} of {len(labels.sizes)} classes have {fewest} samples or more: a probe predicts each sample "
            "from others of its class, and needs two such classes. Use a larger held-out set."
        )
    often = (labels.counts >= fewest)[labels.codes]
    return features[often], labels_of(labels.target[often])


class RidgeProbe(FeatureProbe):
    """Accuracy of ridge regression on one-hot targets, each sample judged by an exact fit without it.

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
        self.alphas = check_alphas(alphas)

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
        self.folds, self.l2, self.max_iter = check_logistic(folds, l2, max_iter)

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return logistic_scorer(features, target, self.folds, self.l2, self.max_iter)


class KNNProbe(FeatureProbe):
    """Accuracy of the vote of the nearest neighbours, on samples left out.

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
        self.k = whole_number("k", k, "a whole number of neighbours")

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return knn_scorer(features, target, self.k)


class CentroidProbe(FeatureProbe):
    """Accuracy of the nearest class mean, on samples left out.

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

    def _scorer(self, features: Tensor, target: Tensor) -> Scorer:
        return centroid_scorer(features, target)
