"""Bias of a classifier's answers: classes that it names more, or less, often than they occur."""

from __future__ import annotations

import torch
from torchmetrics import Metric


class AnswerBias(Metric):
    r"""Distance of the shares of the classes among the answers from those among the targets.

    .. math:: \frac{1}{2} \sum_k |p_k - q_k|

    in [0, 1], total variation; 0 if every class is named as often as it occurs, whether or not for the right samples.
    NaN before the first sample, and where a target is no place among the scores: then nobody knows which class each is.

    Args:
        classes: Number ``K`` of classes.

    Source: ours; total variation distance.

    Example:
        >>> bias = AnswerBias(3)
        >>> bias.update(torch.tensor([[9.0, 0.0, 0.0], [9.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        >>> float(bias.compute())
        0.5
    """

    is_differentiable = False
    full_state_update = False
    counts: torch.Tensor
    strange: torch.Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("counts", torch.zeros(2, classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("strange", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: torch.Tensor, targets: torch.Tensor) -> None:
        """Take in scores ``(n, K)`` and classes ``(n,)``."""
        counted = (targets >= 0) & (targets < self.classes)
        self.strange += (~counted).sum()
        # Samples that do not count are added as nothing: to leave them out, a device would be waited for.
        for row, named in enumerate((scores.argmax(1), targets.long().clamp(0, self.classes - 1))):
            self.counts[row].index_add_(0, named, counted.long())

    def compute(self) -> torch.Tensor:
        """The distance, float32 scalar."""
        answers, targets = self.counts.float()
        distance: torch.Tensor = 0.5 * (answers / answers.sum() - targets / targets.sum()).abs().sum()
        return distance.masked_fill(self.strange > 0, torch.nan)
