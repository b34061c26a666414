"""Shares of the floating-point operations, against counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.capture import HeldOut, Subject, select_layers, trace_layers
from convscope.capture.network.operations import layer_costs


class Mixed(nn.Module):
    """A module that runs twice, a functional convolution in a part, a linear map, and what costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.part = Part()
        self.head = nn.Linear(5, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(torch.relu(self.twice(self.twice(x)))).mean((2, 3)))


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight)


def costs(model: nn.Module, layers: Any) -> dict[str, float]:
    sample = torch.randn(1, 3, 4, 6)
    heldout = HeldOut((sample,))
    heldout.prepare()
    found, _ = trace_layers(Subject(model, model, torch.device("cpu")), heldout)
    return layer_costs(model, sample, select_layers(found, layers))


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_shares_are_products_of_sizes(wrap: Any) -> None:
    found = costs(wrap(Mixed()), ["*"])
    positions = 4 * 6
    twice, part, head = 2 * positions * 3 * 3 * 9, positions * 3 * 5, 5 * 7
    total = twice + part + head
    by_hand = {"twice": twice, "twice@2": twice, "part": part, "head": head}
    assert {name: found[name] for name in by_hand if name in found} == pytest.approx(
        {name: count / total for name, count in by_hand.items() if name in found}
    )
    assert {"twice", "twice@2"} <= found.keys()


def test_a_network_without_products_costs_nothing_and_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).train()
    assert costs(model, ["0", "1"]) == {"0": 0.0, "1": 0.0}
    assert model.training
    assert int(model[0].num_batches_tracked) == 0
