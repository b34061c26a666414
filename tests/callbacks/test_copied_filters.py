"""Copied filters: the same by activations and by weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from convscope import FilterCorrelation
from tests.callbacks.conftest import Classifier


class OneLayer(nn.Module):
    def __init__(self, change: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            change(self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return logits


def nothing(conv: nn.Conv2d) -> None:
    pass


def copy_three(conv: nn.Conv2d) -> None:
    conv.weight[1:4] = conv.weight[:1]
    conv.bias[1:4] = conv.bias[:1]  # type: ignore[index]


def copy_twice_as_large(conv: nn.Conv2d) -> None:
    conv.weight[5] = 2 * conv.weight[2]
    conv.bias[5] = 2 * conv.bias[2]  # type: ignore[index]


def see_no_input(conv: nn.Conv2d) -> None:
    """Same activations by weights of different inputs: three channels that are alike, see below."""
    conv.weight[:2] = 0
    conv.weight[0, 0, 1, 1] = conv.weight[1, 2, 1, 1] = 1.0
    conv.bias[:2] = 5.0  # type: ignore[index]


@pytest.mark.parametrize(("change", "share"), [(nothing, 0.0), (copy_three, 0.5), (copy_twice_as_large, 0.25)])
def test_the_share_of_filters_that_are_copies(fit: Any, change: Any, share: float) -> None:
    torch.manual_seed(0)
    run = fit([FilterCorrelation()], Classifier(OneLayer(change), lr=0.0), max_epochs=1)
    assert run.trainer.callback_metrics["correlation/copied_filters/net.conv"] == share


class Grey(OneLayer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mean(1, keepdim=True).expand(-1, 3, -1, -1))


def test_alike_activations_of_other_weights_are_no_copies(fit: Any) -> None:
    torch.manual_seed(0)
    run = fit([FilterCorrelation()], Classifier(Grey(see_no_input), lr=0.0), max_epochs=1)
    assert run.trainer.callback_metrics["correlation/redundant_share/net.conv"] > 0
    assert run.trainer.callback_metrics["correlation/copied_filters/net.conv"] == 0
