"""Distillation of an explainer network on the features of a frozen model: no labels, its own optimizer and streams.

Source: reconstruction (Zhang et al., arXiv 1805.07468): the three terms of the loss are named there; their weights,
and that the filter loss is a mean over filters, are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.explainers.two_track import ExplainerNetwork

Penalty = Callable[[Tensor], Tensor]
"""Filter loss ``(F,)`` of a batch's maps ``(N, F, H, W)``."""


@dataclass(frozen=True)
class DistilSettings:
    """Settings of an explainer's training.

    Attributes:
        steps: Largest number of optimizer steps.
        batch_size: Samples per step.
        learning_rate: Learning rate of Adam; it falls to 0 along half a cosine.
        interpretable: Weight η of ``-log p``.
        filter_weight: Weight of the mean filter loss of the interpretable track.
        seed: Seed of the order of the samples.
    """

    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-2
    interpretable: float = 0.1
    filter_weight: float = 0.05
    seed: int = 0


def distil(
    network: ExplainerNetwork,
    features: Tensor,
    target: Tensor,
    settings: DistilSettings,
    penalty: Penalty,
    go_on: Callable[[int], bool] = lambda step: True,
) -> int:
    r"""Train an explainer to reconstruct next features.

    .. math:: \frac{\|x - x^*\|^2}{\|x^* - \bar x^*\|^2} - \eta \log p + \lambda \operatorname{mean}_f \text{Loss}_f

    Global random streams are not used, and the model is not run.

    Args:
        network: The explainer, trained in place and left in evaluation mode.
        features: ``(N, C, H, W)`` of the layer.
        target: ``(N, *target)`` next features of the same samples.
        settings: See :class:`DistilSettings`.
        penalty: The filter loss.
        go_on: Called before each step with its number, from 0; False ends the training.

    Returns:
        Number of steps made.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    spread = (target - target.mean(0)).square().mean().clamp(min=1e-12)
    network.train()
    step = 0
    while step < settings.steps and go_on(step):
        rows = torch.randint(len(features), (min(settings.batch_size, len(features)),), generator=generator)
        rows = rows.to(features.device)
        error = (network(features[rows]) - target[rows]).square().mean() / spread
        loss = error - settings.interpretable * network.p.log()
        if settings.filter_weight > 0:
            loss = loss + settings.filter_weight * _part_loss(network, penalty)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        step += 1
    network.eval()
    for parameter in network.parameters():
        parameter.grad = None
    network.first.maps = network.second.maps = None
    return step


def _part_loss(network: ExplainerNetwork, penalty: Penalty) -> Tensor:
    found = [penalty(layer.maps).mean() for layer in (network.first, network.second) if layer.maps is not None]
    return torch.stack(found).mean()


def reconstruction_error(found: Tensor, target: Tensor) -> float:
    """``‖x − x*‖² / ‖x* − x̄*‖²`` over samples: 0 for a perfect reconstruction, 1 for always giving the mean.

    Args:
        found: ``(N, *target)``.
        target: The same shape; the result is NaN if it does not vary over samples.
    """
    spread = float((target - target.mean(0)).double().square().sum())
    return float((found - target).double().square().sum()) / spread if spread > 0 else float("nan")
