"""Bias of a classifier's answers: classes that it holds for more likely, or less, than they occur."""

from __future__ import annotations

import torch
from torchmetrics import Metric

from convscope.metrics.functional._precision import as_double

SUM = 1e-3  # how far scores that are probabilities may be from a sum of one


class AnswerBias(Metric):
    r"""Distance of the mean probabilities that a network gives the classes from the classes' shares of the targets.

    .. math:: \frac{1}{2} \sum_k |p_k - q_k|

    in [0, 1], total variation; 0 if every class is expected as often as it occurs, whether or not for the right
    samples. Probabilities rather than the classes named: a network that has learnt little names few of the classes,
    but gives each its due share of probability. NaN before the first sample, and where a target is no place among the
    scores: then nobody knows which class each is.

    Args:
        classes: Number ``K`` of classes.

    Source: ours; total variation distance.

    Example:
        >>> bias = AnswerBias(3)
        >>> bias.update(torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]), torch.tensor([0, 2]))
        >>> float(bias.compute())
        0.5
    """

    is_differentiable = False
    full_state_update = False
    likely: torch.Tensor
    counts: torch.Tensor
    strange: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("likely", torch.zeros(classes), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("strange", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in logits, log-probabilities or probabilities ``(n, K)`` and classes ``(n,)``."""
        counted = (targets >= 0) & (targets < self.classes)
        self.strange += (~counted).sum()
        # Samples that do not count are added as nothing: to leave them out, a device would be waited for.
        likely = _probabilities(scores).masked_fill(~counted.to(scores.device).unsqueeze(1), 0.0)
        self.likely += likely.sum(0).to(self.likely)
        self.counts.index_add_(0, targets.long().clamp(0, self.classes - 1), counted.long())

    def compute(self) -> torch.Tensor:
        """The distance, float32 scalar."""
        shares = self.counts.float() / self.counts.sum()
        distance: torch.Tensor = 0.5 * (self.likely / self.counts.sum() - shares).abs().sum()
        return distance.masked_fill(self.strange > 0, torch.nan)


def _probabilities(scores: torch.Tensor) -> torch.Tensor:
    """Row by row: scores that are no probabilities yet are made some."""
    scores = as_double(scores)
    are = ((scores >= 0).all(1) & ((scores.sum(1) - 1).abs() <= SUM)).unsqueeze(1)
    return torch.where(are, scores, scores.softmax(1))
