"""The loss of each sample, from a loss that is summed over samples."""

from __future__ import annotations

import torch

from convscope.capture.loss import Loss


def sample_losses(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """``(n,)`` losses of ``n`` samples.

    Args:
        loss: Summed over samples, as :func:`~convscope.capture.loss.infer_loss` gives it.
        logits: ``(n, K, *)``.
        targets: ``(n, *)``.
    """

    def one(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(output[None], target[None])

    try:
        losses = torch.func.vmap(one)(logits, targets)
    except RuntimeError:  # a user's loss may branch on values, which cannot be vectorised
        losses = torch.stack([one(output, target) for output, target in zip(logits, targets, strict=True)])
    return losses.float()
