"""Training gradients of a check in numbers: their size, and how many are exactly zero, as the optimizer used them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from convscope.callbacks.parts.since_last_check import SinceLastCheck

FAMILY = "gradients"


class _StepGradients(NamedTuple):
    entries: list[int]  # of each weight
    used: torch.Tensor  # how many of them are not zero
    norm: torch.Tensor


class TrainingGradients(SinceLastCheck):
    """What a rule can know of the gradients of the training steps since the last check.

    Looked at are weights (parameters of two dimensions or more) after the 1st, 2nd, 4th, 8th, … step since the last
    check, so a long epoch costs hardly more than a short one; nothing is moved off the device before :meth:`take`. Of
    parameters that are sharded over processes, the shard of this process.

    ==================  ============================================================================================
    ``gradients/zero``  share of the gradients that are exactly zero, of the weights that a step has reached: they
                        underflow, or filters are dead; 0 to 1, and 1 where a step has reached none. A branch that is
                        left out of a step at random does not count
    ``gradients/norm``  L2 norm over all weights, root mean square over the steps, after clipping and unscaling
    ==================  ============================================================================================
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps = 0
        self._looks: list[_StepGradients] = []

    def note(self, module: nn.Module) -> None:
        """Look at the gradients that the step just over has used, where this step is one of those."""
        self._steps += 1
        if self._steps & (self._steps - 1):  # no power of two
            return
        gradients = [found for weight in module.parameters() if (found := _of(weight)) is not None]
        if gradients:
            used = torch.stack([torch.count_nonzero(one).to(gradients[0].device) for one in gradients])
            entries = [gradient.numel() for gradient in gradients]
            self._looks.append(_StepGradients(entries, used, get_total_norm(gradients)))

    def _summary(self) -> dict[str, float]:
        looks, self._looks, self._steps = self._looks, [], 0
        if not looks:
            return {}
        pairs = [pair for look in looks for pair in zip(look.entries, look.used.tolist(), strict=True)]
        used, reached = sum(used for _, used in pairs), sum(entries for entries, used in pairs if used)
        squares = [norm**2 for norm in torch.stack([look.norm.float() for look in looks]).tolist()]
        found = {"zero": 1 - used / reached if reached else 1.0, "norm": math.sqrt(sum(squares) / len(looks))}
        return {f"{FAMILY}/{name}": value for name, value in found.items() if math.isfinite(value)}


def _of(weight: nn.Parameter) -> torch.Tensor | None:
    """The gradient of a weight, of this process; None where there is none, or none to count."""
    gradient = weight.grad
    if gradient is None or gradient.dim() < 2 or not weight.requires_grad:
        return None
    gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return None if gradient.is_sparse or gradient.numel() == 0 else gradient.detach()
