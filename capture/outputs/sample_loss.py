"""The loss of each sample, from a loss that is summed over samples."""

from __future__ import annotations

import torch

from convscope.capture.outputs.loss import Loss

_TOLERANCE = 1e-3
"""Share of the loss by which a sum in another order may differ, also in the half precision of a user's own loss."""


class NotASumError(ValueError):
    """Raised if the loss of samples together is not the sum of their single losses: no sample has a loss of its own."""


def sample_losses(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Losses ``(n,)`` of ``n`` samples: the loss of each sample alone.

    They are computed side by side if that agrees with single calls: the first sample is also computed alone, and the
    sum is compared with the loss of all samples together. Otherwise every sample is computed alone.

    Args:
        loss: Summed over samples, as :class:`~convscope.capture.observation.Subject` has it.
        logits: ``(n, K, *)``.
        targets: ``(n, *)``.
    """
    losses = _side_by_side(loss, logits, targets)
    if losses is None or not _close(_alone(loss, logits[:1], targets[:1]), losses[:1], losses):
        return _alone(loss, logits, targets)
    return losses if _close(losses.sum(), loss(logits, targets), losses) else _alone(loss, logits, targets)


def require_sum(loss: Loss, logits: torch.Tensor, targets: torch.Tensor, losses: torch.Tensor) -> None:
    """Check that the loss of some samples together is the sum of their single ``losses``.

    Raises:
        NotASumError: if it is not. A mean that is weighted by class, or over labelled positions, is not a sum;
            neither is a loss that compares samples.
    """
    whole = loss(logits, targets)
    if not _close(losses.sum(), whole, losses):
        raise NotASumError(
            f"the loss of {len(losses)} samples together is {float(whole):.4g}, but their single losses add up to "
            f"{float(losses.sum()):.4g}: it weighs or compares the samples of a batch, so no sample has a loss of its "
            "own; give a loss= that returns one value per sample, such as "
            "functional.cross_entropy(..., reduction='none')"
        )


def _side_by_side(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor | None:
    def one(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return loss(output[None], target[None])

    try:
        losses: torch.Tensor = torch.func.vmap(one)(logits, targets)
    except Exception:  # some losses cannot be vectorised: they branch on values, draw numbers, call NumPy
        return None
    return losses.float() if losses.shape == logits.shape[:1] else None


def _alone(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    rows = zip(logits.split(1), targets.split(1), strict=True)
    return torch.stack([loss(*row).float().reshape(()) for row in rows])


def _close(found: torch.Tensor, expected: torch.Tensor, losses: torch.Tensor) -> bool:
    """Return whether losses are equal up to rounding of the single losses, which may cancel; NaN equals NaN."""
    bound = _TOLERANCE * float(losses.nan_to_num().abs().sum()) + 1e-6
    return torch.allclose(found.float(), expected.float(), rtol=0, atol=bound, equal_nan=True)
