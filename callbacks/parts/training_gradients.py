"""Training gradients of a check in numbers: their size, and how many are exactly zero, as the optimizer used them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import get_total_norm

FAMILY = "gradients"


class _StepGradients(NamedTuple):
    entries: torch.Tensor  # of the weights that the step has reached
    used: torch.Tensor  # how many of them are not zero
    norm: torch.Tensor


class TrainingGradients:
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
        self._steps = 0
        self._looks: list[_StepGradients] = []
        self._found: dict[str, float] | None = None  # until it is taken

    def note(self, module: nn.Module) -> None:
        """Look at the gradients that the step just over has used, where this step is one of those."""
        self._steps += 1
        if self._steps & (self._steps - 1):  # no power of two
            return
        gradients = [found for weight in module.parameters() if (found := _of(weight)) is not None]
        if gradients:
            device = gradients[0].device
            used = torch.stack([torch.count_nonzero(one).to(device) for one in gradients])
            sizes = torch.tensor([one.numel() for one in gradients]).to(device, non_blocking=True)
            self._looks.append(_StepGradients((sizes * (used > 0)).sum(), used.sum(), get_total_norm(gradients)))

    def peek(self) -> dict[str, float]:
        """Values by tag of the steps since the last :meth:`take`; nothing where no gradient was left to look at."""
        if self._found is None:
            looks, self._looks, self._steps = self._looks, [], 0
            self._found = _summary(looks)
        return self._found

    def take(self) -> dict[str, float]:
        """As :meth:`peek`, and begin again."""
        found, self._found = self.peek(), None
        return found


def _of(weight: nn.Parameter) -> torch.Tensor | None:
    """The gradient of a weight, of this process; None where there is none, or none to count."""
    gradient = weight.grad
    if gradient is None or gradient.dim() < 2 or not weight.requires_grad:
        return None
    gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    return None if gradient.is_sparse or gradient.numel() == 0 else gradient.detach()


def _summary(looks: list[_StepGradients]) -> dict[str, float]:
    if not looks:
        return {}
    used = sum(torch.stack([look.used for look in looks]).tolist())
    entries = sum(torch.stack([look.entries for look in looks]).tolist())
    squares = [norm**2 for norm in torch.stack([look.norm.float() for look in looks]).tolist()]
    found = {"zero": 1 - used / entries if entries else 1.0, "norm": math.sqrt(sum(squares) / len(looks))}
    return {f"{FAMILY}/{name}": value for name, value in found.items() if math.isfinite(value)}
